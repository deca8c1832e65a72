"""What is recorded of the model before and after an edit."""

import math
from typing import Any

import pytest
import torch

import kedit
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.measure import NO_LOGPROBS, measure
from kedit.evaluation.metrics import Similarity
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.outputs import edited, logprobs, unedited
from kedit.pipelines.raw_outputs import RawOutputs
from kedit.samples import Concept, Sample, find_concept, silent

STARS = Concept("star", ("star", "blue star", "yellow star"))
"""Words of one token and of two."""
NEURONS = NeuronSet(tuple(NeuronId(layer, index) for layer in range(4) for index in range(0, 300, 3)))
EDIT = Edit(NEURONS, Zero())


@pytest.fixture(scope="module")
def model(scenes_model: MLLM) -> MLLM:
    return scenes_model


@pytest.fixture(scope="module")
def samples() -> tuple[Sample, ...]:
    scenes = kedit.Scenes()
    return scenes.split(find_concept(scenes.concepts, "star"), locate=2, target=8, retention=0, seed=0).target


def token_by_token(model: MLLM, sample: Sample, prefix: tuple[int, ...], word: tuple[int, ...]) -> float:
    """Return the log of the product of the probabilities of a word's tokens, each asked for by itself."""
    steps = [(prefix + word[:place], token) for place, token in enumerate(word)]
    rows = [model.logits(model.teacher_forced([sample.image], [before]))[0, -1].double() for before, _ in steps]
    return math.log(math.prod(float(row.softmax(-1)[token]) for row, (_, token) in zip(rows, steps, strict=True)))


@torch.no_grad()
def test_the_probability_of_a_word_is_the_product_over_its_tokens(model: MLLM, samples: tuple[Sample, ...]) -> None:
    captions = model.caption([sample.image for sample in samples])
    mentions = [model.mention(caption, STARS) for caption in captions]
    assert {None if one is None else len(one.word) for one in mentions} >= {1, 2}
    unedited, edited = logprobs(model, STARS, samples, captions, [None, EDIT])
    for sample, mention, plain, under in zip(samples, mentions, unedited, edited, strict=True):
        if mention is None:
            assert math.isnan(plain) and math.isnan(under)
            continue
        assert plain == pytest.approx(token_by_token(model, sample, mention.prefix, mention.word), abs=1e-4)
        with EDIT.applied(model):
            assert under == pytest.approx(token_by_token(model, sample, mention.prefix, mention.word), abs=1e-4)
        assert abs(plain - under) > 1e-3


@pytest.mark.parametrize("where", [{"phase": "decode"}, {"positions": "last"}], ids=str)
def test_an_edit_of_written_tokens_alone_has_no_probability_of_a_word_that_is_forced(
    model: MLLM, samples: tuple[Sample, ...], where: dict[str, Any]
) -> None:
    """Read after the caption's own words, all of it would be the prompt: the edit would not act as where it wrote."""
    evaluation_set = EvaluationSet(STARS, (STARS,), samples[:3], (), (), ())
    before = unedited(model, evaluation_set, silent)
    first = NeuronSet(tuple(NeuronId(0, index) for index in range(model.site("mid").widths[0])))
    edits = [Edit(first, Zero(), **where), EDIT]
    limited, everywhere = edited(model, evaluation_set, edits, before, silent)
    assert [one.text for one in limited.texts] != [one.text for one in before.texts]
    assert limited.outputs(evaluation_set).logprobs is None
    assert everywhere.outputs(evaluation_set).logprobs is not None
    report = measure(evaluation_set, *(one.outputs(evaluation_set) for one in (before, limited)), [], Similarity())
    assert report.suppression["logprob_drop"].why == NO_LOGPROBS
    assert RawOutputs.of(limited.to_json()) == limited


def test_nothing_is_run_for_an_edit_of_no_neurons(
    model: MLLM, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_set = EvaluationSet(STARS, (STARS,), samples[:2], (), (), ())
    before = unedited(model, evaluation_set, silent)

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was run")

    for name in ("ask", "logits"):
        monkeypatch.setattr(type(model), name, refuse)
    assert edited(model, evaluation_set, [Edit(NeuronSet(), Zero())], before, silent) == [before]
