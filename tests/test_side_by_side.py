"""Edits side by side: each row as if its edit were alone, whatever the model, the edit and the draft."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from kedit.edit.edit import Edit, EditWarning
from kedit.edit.operators import Patch, Scale, Zero
from kedit.edit.side_by_side import SideBySide, asked_under, captions_under
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture
from kedit.models.tiny.families import FAMILIES, LANGUAGE, tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.rows import called, calling
from kedit.sites import SiteError

TEXTS = ("The picture of a dog?", "A", "Describe this image. It is a cat")
QUICK = ("llava", "gpt2", "mixtral", "blip2", "qwen2_vl")
"""Rows are pictures; learned positions; experts; a Q-Former; rows are patches and positions have axes."""
OTHERS = sorted({*FAMILIES} - {*QUICK, "bert"})


def noise(seed: int) -> Image.Image:
    values = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.to(torch.uint8).numpy())


def drawn(model: Any, share: float, seed: int) -> NeuronSet:
    """Return random neurons of each layer."""
    chance, site = torch.Generator().manual_seed(seed), model.site()
    return NeuronSet(
        tuple(
            NeuronId(layer, int(index))
            for layer, width in site.widths.items()
            for index in torch.randperm(width, generator=chance)[: max(1, round(share * width))]
        )
    )


def several(model: Any, image: bool = True) -> list[Edit | None]:
    """Return edits of every operator, position and phase, and none."""
    return [
        Edit(drawn(model, 0.05, 0), Zero()),
        None,
        Edit(drawn(model, 0.3, 1), Scale(-2.0), "image" if image else "all"),
        Edit(drawn(model, 0.4, 2), Patch(0.7), "text", "prefill"),
        Edit(drawn(model, 0.2, 3), Scale(3.0), "last"),
        Edit(drawn(model, 0.3, 4), Zero(), "all", "decode"),
        Edit(NeuronSet(()), Zero()),
    ]


def one_by_one(model: Any, edits: Sequence[Edit | None], prompts: Sequence[Prompt]) -> list[list[Generated]]:
    told = []
    for edit in edits:
        with SideBySide([]).applied(model) if edit is None else edit.applied(model):
            told.append(model.ask(prompts))
    return told


def prompts_of(family: str) -> list[Prompt]:
    """Return prompts of different lengths, with pictures where the family sees."""
    if family in (*LANGUAGE, "qwen2_audio"):
        return [Prompt(text) for text in TEXTS]
    return [Prompt(text, noise(number)) for number, text in enumerate(TEXTS)]


def agree(family: str) -> None:
    """Ask under each edit alone and side by side: without drafts, with the unedited answers and with wrong ones."""
    model, prompts = tiny(family, batch_size=8), prompts_of(family)
    seen = "image_token_id" in vars(model.module.config) and family not in (*LANGUAGE, "mllama", "qwen2_audio")
    edits = several(model, seen)
    alone = one_by_one(model, edits, prompts)
    changed = [told != unedited for row in alone for told, unedited in zip(row, alone[1], strict=True)]
    assert 4 <= sum(changed) < len(changed), "edits that change all or nothing prove nothing"
    assert asked_under(model, edits, prompts) == alone
    assert asked_under(model, edits, prompts, drafts=alone[1]) == alone
    assert asked_under(model, edits, prompts, drafts=alone[2]) == alone


@pytest.mark.parametrize("family", QUICK)
def test_rows_say_what_they_say_under_their_edit_alone(family: str) -> None:
    agree(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_rows_of_every_other_family_say_what_they_say_under_their_edit_alone(family: str) -> None:
    agree(family)


@pytest.mark.parametrize("name", ["scenes", pytest.param("scenes_soft", marks=pytest.mark.slow)])
def test_the_shipped_models_caption_alike_side_by_side(name: str) -> None:
    from kedit.data.scenes import Scenes
    from kedit.samples import find_concept

    data = Scenes()
    split = data.split(find_concept(data.concepts, "star"), locate=1, target=3, retention=1, seed=0)
    pictures = [sample.image for sample in (*split.target, *split.near, *split.far)]
    model = load(name, prompt="describe the picture .", batch_size=16, max_new_tokens=28, device="cpu")
    edits = [Edit(drawn(model, share, 7), Zero()) for share in (0.01, 0.2)]
    edits.append(Edit(drawn(model, 0.3, 8), Patch(1.0)))
    prompts = [Prompt(model.prompt, picture) for picture in pictures]
    unedited, alone = model.ask(prompts), one_by_one(model, edits, prompts)
    assert 28 in {len(one.tokens) for row in alone for one in row}, "no edit makes the model talk without an end"
    assert captions_under(model, edits, pictures, drafts=unedited) == alone
    assert captions_under(model, edits, pictures) == alone


def tokens_of(model: HuggingFaceMLLM, prompts: Sequence[Prompt], n_times: int) -> Any:
    return model.read([*prompts] * n_times, [()] * (len(prompts) * n_times))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llama"])
def test_a_row_is_bitwise_what_its_edit_alone_makes_of_it(family: str) -> None:
    model, prompts = tiny(family), prompts_of(family)
    edits = several(model, family == "llava")
    batch = tokens_of(model, prompts, len(edits))
    with SideBySide([edit for edit in edits for _ in prompts]).applied(model):
        together = model.logits(batch, 4)
    plain = model.logits(batch, 4)
    for number, edit in enumerate(edits):
        rows = slice(number * len(prompts), (number + 1) * len(prompts))
        alone = plain
        if edit is not None and len(edit.neurons):
            with edit.applied(model):
                alone = model.logits(batch, 4)
        assert torch.equal(together[rows], alone[rows])


@torch.no_grad()
def test_rows_in_any_order_have_their_own_edit(planted: Planted) -> None:
    model, star = planted.model, Edit(planted.star, Zero())
    images = [picture(str(number), star=(number,)).image for number in (1, 2, 3, 4)]
    with SideBySide([star, None, star, None]).applied(model):
        named = [STAR_CONCEPT.mentioned_in(one.text) for one in model.caption(images)]
    assert named == [False, True, False, True]


def test_edits_of_two_sites_stand_side_by_side() -> None:
    model = tiny("llama")
    mid = Edit(drawn(model, 0.2, 0), Zero())
    act = Edit(NeuronSet(drawn(model, 0.3, 1).ids, "act"), Scale(2.0))
    prompts = prompts_of("llama")
    assert asked_under(model, [mid, act], prompts) == one_by_one(model, [mid, act], prompts)


def test_an_edit_around_them_acts_on_all_rows() -> None:
    model, prompts = tiny("llama"), prompts_of("llama")
    outer, inner = Edit(drawn(model, 0.2, 0), Scale(2.0)), Edit(drawn(model, 0.2, 1), Zero())
    with outer.applied(model):
        expected = one_by_one(model, [inner, None], prompts)
        assert asked_under(model, [inner, None], prompts, drafts=expected[1]) == expected


def test_there_may_be_more_edits_than_rows_in_a_batch() -> None:
    model, prompts = tiny("gpt2", batch_size=2), prompts_of("gpt2")
    edits = several(model, image=False)
    assert asked_under(model, edits, prompts) == one_by_one(model, edits, prompts)
    assert asked_under(model, [], prompts) == []
    assert asked_under(model, edits, []) == [[] for _ in edits]


def test_an_edit_outside_the_language_model_is_refused() -> None:
    edit = Edit(NeuronSet((NeuronId(0, 0),), scope="vision"), Zero(), name="eyes")
    with pytest.raises(ValueError, match="edit `eyes` is of scope `vision`, where the rows"):
        SideBySide([edit])


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_another_number_of_rows_is_refused_and_leaves_the_model_as_it_was(family: str) -> None:
    model, prompts = tiny(family), prompts_of(family)
    edit = Edit(drawn(model, 0.2, 0), Zero())
    before = model.ask(prompts)
    told = r"side by side on 2 rows, and the model runs on 3"
    with pytest.raises(ValueError, match=told), SideBySide([edit, None]).applied(model):
        model.ask(prompts)
    assert model.ask(prompts) == before


def test_beams_are_refused() -> None:
    model = tiny("llama")
    edit = Edit(drawn(model, 0.2, 0), Zero())
    inputs = model.encode(prompts_of("llama")[:2])
    with pytest.raises(ValueError, match="search without beams"), SideBySide([edit, None]).applied(model):
        model.module.generate(**inputs, num_beams=3, max_new_tokens=2)


def test_a_neuron_that_does_not_exist_is_refused() -> None:
    model = tiny("llama")
    edit = Edit(NeuronSet((NeuronId(0, 10_000),)), Zero())
    with pytest.raises(SiteError, match="no neuron 10000 in layer 0"), SideBySide([edit]).applied(model):
        pass


def test_edits_that_never_acted_are_a_warning() -> None:
    model = tiny("llama")
    with pytest.warns(EditWarning, match="never ran"), SideBySide([Edit(drawn(model, 0.1, 0), Zero())]).applied(model):
        pass


@torch.no_grad()
def test_the_activations_of_a_layer_are_copied_once() -> None:
    from experiments.benchmarks.memory import LiveBytes

    model = tiny("llama")
    width = model.site().widths[0]
    n_rows, at = 64, NeuronSet((NeuronId(0, 0),))
    edits = [Edit(at, Zero()) for _ in range(n_rows)]
    side, site = SideBySide(edits), model.site()
    rewrite = side._rewrites(site, "mid", None)[0]
    given: Tensor = torch.randn(n_rows, 5, width)
    with LiveBytes() as counted:
        rewrite(given)
    assert counted.peak < 1.2 * given.untyped_storage().nbytes()


def test_who_calls_the_model_is_known_inside_only() -> None:
    assert called() is None
    with calling([2, 0]):
        assert called() == (2, 0)
        with calling([1]):
            assert called() == (1,)
        assert called() == (2, 0)
    assert called() is None
