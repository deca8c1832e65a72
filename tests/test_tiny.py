"""The tiny models: of the family's own classes, the same each time, and none of their weights idle."""

import pytest
import torch
from PIL import Image

from kedit.models.tiny.families import FAMILIES, tiny
from kedit.prompts import Prompt


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_the_same_each_time_and_draws_no_random_number_of_the_process(family: str) -> None:
    before = torch.random.get_rng_state()
    one, same = tiny(family), tiny(family)
    assert torch.equal(torch.random.get_rng_state(), before)
    ones, others = one.module.state_dict(), same.module.state_dict()
    assert all(torch.equal(value, others[key]) for key, value in ones.items())
    other = tiny(family, seed=1).module.state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in ones.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_answers_what_depends_on_its_picture(family: str) -> None:
    model = tiny(family)
    noise = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures = [Image.new("RGB", (40, 40), "red"), Image.fromarray(noise.numpy())]
    seen = model.logits(model.forced(pictures, [(), ()]))
    assert seen.isfinite().all()
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert model.ask([Prompt("Describe this image.", one) for one in pictures]) == model.caption(pictures)


def test_an_unknown_family_is_told_with_the_nearest() -> None:
    with pytest.raises(LookupError, match="no tiny model of family `lava`; nearest: llava"):
        tiny("lava")
