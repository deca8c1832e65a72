"""The tiny models: of the family's own classes, the same each time, and none of their weights idle."""

import re

import pytest
import torch
from PIL import Image
from torch import Tensor

from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.tiny.families import FAMILIES, LANGUAGE, tiny
from kedit.models.tiny.language import MASK
from kedit.prompts import Prompt

SEEING = sorted(set(FAMILIES) - {*LANGUAGE, "qwen2_audio"})
WRITING = sorted(set(LANGUAGE) - {"bert"})
IDLE = re.compile(r"(k_proj|key)\.bias$")
"""What adds the same to a query's product with every key, which softmax takes out again."""


def texts(family: str, *some: str) -> list[Prompt]:
    return [Prompt(f"{one} {MASK}" if family == "bert" else one) for one in some]


def after(model: HuggingFaceMLLM, prompts: list[Prompt], prefixes: list[tuple[int, ...]]) -> Tensor:
    with torch.no_grad():
        return model.logits(model.read(prompts, prefixes))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_is_the_same_each_time_and_draws_no_random_number_of_the_process(family: str) -> None:
    before = torch.random.get_rng_state()
    one, same = tiny(family), tiny(family)
    assert torch.equal(torch.random.get_rng_state(), before)
    ones, others = one.module.state_dict(), same.module.state_dict()
    assert all(torch.equal(value, others[key]) for key, value in ones.items())
    other = tiny(family, seed=1).module.state_dict()
    assert any(not torch.equal(value, other[key]) for key, value in ones.items())


@pytest.mark.parametrize("family", SEEING)
def test_a_tiny_model_answers_what_depends_on_its_picture(family: str) -> None:
    model = tiny(family)
    noise = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures = [Image.new("RGB", (40, 40), "red"), Image.fromarray(noise.numpy())]
    seen = model.logits(model.teacher_forced(pictures, [(), ()]))
    assert seen.isfinite().all()
    assert not torch.allclose(seen[0], seen[1], atol=1e-3)
    assert model.ask([Prompt("Describe this image.", one) for one in pictures]) == model.caption(pictures)


@pytest.mark.parametrize("family", LANGUAGE)
def test_what_a_tiny_language_model_says_next_depends_on_each_of_its_weights(family: str) -> None:
    model = tiny(family)
    noise = torch.Generator().manual_seed(1)
    asked, forced = texts(family, "The picture of a dog?"), [() if family == "bert" else (30, 40)]
    base, idle = after(model, asked, forced), []
    with torch.no_grad():
        for path, weight in model.module.named_parameters():
            kept = weight.clone()
            weight.add_(torch.randn(weight.shape, generator=noise), alpha=0.2)
            if (after(model, asked, forced) - base).abs().max() < 1e-3:
                idle.append(path)
            weight.copy_(kept)
    assert [path for path in idle if not IDLE.search(path)] == []


@pytest.mark.parametrize("family", LANGUAGE)
def test_the_logits_of_a_padded_batch_are_those_of_one_by_one(family: str) -> None:
    model = tiny(family)
    asked = texts(family, "Hi", "What is the color of it?")
    prefixes: list[tuple[int, ...]] = [(), ()] if family == "bert" else [(30, 40, 50), (60,)]
    alone = [after(model, [one], [prefix]) for one, prefix in zip(asked, prefixes, strict=True)]
    together = after(model, asked, prefixes)
    assert together.std() > 0.1
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=5e-5)


@pytest.mark.parametrize("family", WRITING)
def test_forcing_what_a_tiny_model_writes_predicts_it(family: str) -> None:
    model = tiny(family)
    asked = texts(family, "Hi", "What is the color of it?")
    answers = model.ask(asked)
    assert answers[0] != answers[1]
    for n in range(model.max_new_tokens):
        predicted = after(model, asked, [one.tokens[:n] for one in answers])[:, -1].argmax(-1).tolist()
        assert predicted == [one.tokens[n] for one in answers]


def test_an_unknown_family_is_told_with_the_nearest() -> None:
    with pytest.raises(LookupError, match="no tiny model of family `lava`; nearest: llava, llama"):
        tiny("lava")
