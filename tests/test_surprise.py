"""How unlikely a model finds what was said, in every family; and what the guard makes of a model that babbles."""

import random

import pytest
import torch
from test_qwen import picture

import kedit
from kedit.data.grammar import CAPTION_PROMPT
from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Scale, Zero
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.fluency import Fluency, Guard, Speech
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.shipped import HERE
from kedit.models.surprise import LEAST, surprises
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.comparison.matrix import Gallery
from kedit.pipelines.outputs import collect_outputs
from kedit.prompts import Prompt
from kedit.samples import find_concept, silent

FAMILIES = ("llava", "qwen2_vl", "blip2", "mllama", "llama", "t5")
shipped = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)


def prompts_of(model: HuggingFaceMLLM) -> list[Prompt]:
    seeing = "image" in model.media
    return [Prompt("what is it?", picture(32, 32, number) if seeing else None) for number in range(3)]


def test_where_no_unedited_text_is_long_enough_nothing_is_called_strange() -> None:
    before, after = Speech(["yes", "no it is not"], [None, None]), Speech(["a red star is there", "no"], [4.7, None])
    judged = Guard().judge({"target": (before, after)})
    assert judged.passed
    assert judged.groups["target"].strange is None is judged.groups["target"].strange_before


@pytest.mark.parametrize("family", FAMILIES)
def test_the_surprise_is_that_of_the_median_token_read_alone(family: str) -> None:
    model = tiny(family)
    prompts, words = prompts_of(model), list(range(20, 33))
    texts = [Generated("", tuple(words[:n])) for n in (LEAST, 9, 13)]
    found = surprises(model, prompts, texts)
    for prompt, text, one in zip(prompts, texts, found, strict=True):
        rows = model.read([prompt], [text.tokens[:-1]])
        with torch.no_grad():
            spread = model.logits(rows, len(text.tokens))[0].log_softmax(-1)
        unlikely = sorted(-spread[place, token].item() for place, token in enumerate(text.tokens))
        assert one == pytest.approx(unlikely[(len(unlikely) - 1) // 2], abs=1e-4)


def test_a_text_too_short_to_tell_has_none_and_a_token_for_a_picture_is_no_text() -> None:
    model = tiny("llava")
    image, prompts = model.image_token, prompts_of(model)
    assert image is not None
    plain, marked = (20, 21, 22, 23), (image, 20, 21, image, 22, 23)
    texts = [Generated("", plain), Generated("", marked), Generated("", (20, 21, image, 22))]
    first, second, short = surprises(model, [prompts[0]] * 3, texts)
    assert first == pytest.approx(second) and short is None
    assert surprises(model, [], []) == []


@pytest.fixture(scope="module")
def evaluation_set() -> EvaluationSet:
    data = kedit.Scenes()
    star = find_concept(data.concepts, "star")
    split = data.split(star, locate=1, target=10, retention=5, seed=3)
    return EvaluationSet(star, data.concepts, split.target, split.near, split.far)


def scenes(max_new_tokens: int) -> HuggingFaceMLLM:
    return kedit.load("scenes", prompt=CAPTION_PROMPT, batch_size=32, max_new_tokens=max_new_tokens, device="cpu")


def judged(model: HuggingFaceMLLM, evaluation_set: EvaluationSet, share: float, operator: Operator) -> Fluency:
    """Return what the guard says of an edit of a random `share` of the neurons."""
    widths = model.site("mid").widths
    every = [NeuronId(layer, index) for layer, width in widths.items() for index in range(width)]
    neurons = NeuronSet(tuple(random.Random(0).sample(every, int(share * len(every)))), "mid")
    outputs = collect_outputs(model, evaluation_set, [Edit(neurons, operator)], silent)
    return Guard()(outputs.before, outputs.after)


@shipped
@pytest.mark.parametrize("max_new_tokens", [16, 24])
@pytest.mark.parametrize(("share", "operator"), [(0.9, Zero()), (0.3, Scale(-2.0))], ids=["zero", "invert"])
def test_a_model_that_babbles_is_not_fluent_however_long_it_may_go_on(
    max_new_tokens: int, share: float, operator: Operator, evaluation_set: EvaluationSet
) -> None:
    found = judged(scenes(max_new_tokens), evaluation_set, share, operator)
    assert not found.passed
    assert "are no language to the unedited model" in (found.why or "")


@shipped
def test_a_model_that_says_something_else_is_fluent_and_one_that_says_four_non_captions_of_ten_is_not(
    evaluation_set: EvaluationSet,
) -> None:
    model = scenes(28)
    assert judged(model, evaluation_set, 0.1, Zero()).passed
    prompts = [Prompt(model.prompt, sample.image) for sample in evaluation_set.target]
    before = model.ask(prompts)

    def speech(texts: list[Generated]) -> Speech:
        return Speech([one.text for one in texts], surprises(model, prompts, texts))

    def said(text: str) -> Generated:
        return Generated(text, tuple(model.tokenizer(text, add_special_tokens=False).input_ids))

    other = [said(one.text.replace("star", "ring")) for one in before]
    rng = random.Random(0)
    shuffled = [said(" ".join(rng.sample(one.text.split(), len(one.text.split())))) for one in before]
    long_ones = sorted(range(10), key=lambda place: -len(before[place].tokens))[:4]
    four = [shuffled[place] if place in long_ones else one for place, one in enumerate(before)]
    assert Guard().judge({"target": (speech(before), speech(other))}).passed
    broken = Guard().judge({"target": (speech(before), speech(four))})
    assert not broken.passed and "40% of the captions are no language" in (broken.why or "")


@shipped
def test_unchanged_captions_are_not_read_again_and_changed_ones_once(
    evaluation_set: EvaluationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit.pipelines import outputs

    model, asked = scenes(28), list[int]()

    def counted(
        model: HuggingFaceMLLM, prompts: list[Prompt], texts: list[Generated], **how: object
    ) -> list[float | None]:
        asked.append(len(texts))
        return surprises(model, prompts, texts)

    monkeypatch.setattr(outputs, "surprises", counted)
    neurons = NeuronSet(tuple(NeuronId(0, index) for index in range(200)), "mid")
    told = collect_outputs(model, evaluation_set, [Edit(neurons, Zero()), Edit(NeuronSet((), "mid"), Zero())], silent)
    captions = len(evaluation_set.target + evaluation_set.retention)
    before, after = (one.target + one.retention for one in (told.before, told.after))
    changed = sum(new != old for new, old in zip(after, before, strict=True))
    assert asked == [captions, changed] and 0 < changed < captions
    assert told.controls[0].surprise == told.before.surprise


@shipped
def test_a_matrix_has_no_row_of_an_edit_that_broke_the_language(evaluation_set: EvaluationSet) -> None:
    model = scenes(28)
    gallery = Gallery(model, {evaluation_set.concept: evaluation_set.target})
    widths = model.site("mid").widths
    every = NeuronSet(tuple(NeuronId(layer, index) for layer in widths for index in range(widths[layer])), "mid")
    assert gallery.drops(Edit(NeuronSet((), "mid"), Zero()), frozenset())["star"].value == 0.0
    with pytest.raises(ValueError, match="broken language, "):
        gallery.drops(Edit(every, Scale(-2.0)), frozenset())
