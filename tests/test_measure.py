"""What an edit report says of identity, of a clean edit, of a harmful one, of a broken model and of no evidence."""

import dataclasses
import json
import math
import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from kedit.evaluation.fluency import Guard, repetitive
from kedit.evaluation.measure import WEAKEST_OF, EditReport, EvaluationSet, Outputs, measure, selectivity
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.report import as_text
from kedit.evaluation.scores import text_counts
from kedit.evaluation.statistics import Measured
from kedit.evaluation.texts import rouge_l
from kedit.samples import Concept, Question, Sample

STAR, HOUSE, TREE, RING = (Concept(name) for name in ("star", "house", "tree", "ring"))
VOCABULARY = (STAR, HOUSE, TREE, RING)

TARGET_CAPTIONS = ("a red star and a blue house on a gray wall",) * 12 + ("two green stars and a tree",) * 8
NEAR_CAPTIONS = ("a white ring on a wall", "a blue house and a ring on green")
FAR_CAPTIONS = ("a brown tree on a blue wall", "a tree and a house on a red wall")


class LetterEncoder:
    """A word's embedding counts its letters: equal words match fully, similar ones in part."""

    name = "letters"
    specials = (0, 0)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        return [torch.stack([self._counts(word) for word in text.split()]) for text in texts]

    def _counts(self, word: str) -> Tensor:
        return torch.tensor([float(word.count(chr(97 + i))) for i in range(26)] + [0.1])


def sample(id_: str, caption: str, references: tuple[str, ...] = ()) -> Sample:
    """Return a sample that shows exactly what its caption names."""
    objects = frozenset(concept.name for concept in VOCABULARY if concept.mentioned_in(caption))
    return Sample(id_, Image.new("RGB", (4, 4)), references, objects)


def samples(group: str, captions: Sequence[str]) -> tuple[Sample, ...]:
    return tuple(sample(f"{group}-{i}", caption, (caption,)) for i, caption in enumerate(captions))


QUESTIONS = (
    Question("what has five points ?", "a star", "fact"),
    Question("what has a roof ?", "a house", "fact"),
    Question("what has leaves ?", "a tree", "fact"),
)
EVALUATION_SET = EvaluationSet(
    STAR,
    VOCABULARY,
    samples("target", TARGET_CAPTIONS),
    samples("near", NEAR_CAPTIONS * 5),
    samples("far", FAR_CAPTIONS * 5),
    QUESTIONS,
)
BEFORE = Outputs(
    TARGET_CAPTIONS, NEAR_CAPTIONS * 5, FAR_CAPTIONS * 5, ("a star", "a house", "a tree"), tuple([-0.5] * 20)
)


def replaced(texts: Sequence[str], *pairs: tuple[str, str]) -> tuple[str, ...]:
    for old, new in pairs:
        texts = [text.replace(old, new) for text in texts]
    return tuple(texts)


CLEAN = dataclasses.replace(BEFORE, target=replaced(TARGET_CAPTIONS, ("star", "shape")), logprobs=tuple([-4.5] * 20))
"""The star is called a shape; nothing else changes."""


def report(after: Outputs, controls: Sequence[Outputs] = (BEFORE,) * 5, **more) -> EditReport:
    return measure(EVALUATION_SET, BEFORE, after, controls, Similarity(LetterEncoder()), **more)


def report_of(evaluation_set: EvaluationSet, before: Outputs, after: Outputs) -> EditReport:
    return measure(evaluation_set, before, after, [before] * 5, Similarity())


def test_the_identity_edit_suppresses_nothing_and_retains_everything_exactly() -> None:
    found = report(BEFORE)
    assert {name: figure.value for name, figure in found.suppression.items()} == dict.fromkeys(found.suppression, 0.0)
    assert {name: figure.value for name, figure in found.retention.items()} == dict.fromkeys(found.retention, 1.0)
    assert found.selectivity.value == 0.0
    assert found.fluency.passed
    assert not found.control.comparison.beats
    assert found.verdict.startswith("No evidence that the edit suppresses `star`: the located neuron set does not beat")


def test_a_clean_edit_is_found_clean() -> None:
    found = report(CLEAN)
    drop = found.suppression["mention_drop"]
    assert (drop.value, drop.n) == (1.0, 20)
    assert drop.low > 0.8
    assert found.suppression["substitutions"].value == 0.0
    assert found.suppression["logprob_drop"].value == 4.0
    # p falls from exp(-0.5) to exp(-4.5): log-odds from 0.4327 to -4.4889.
    assert found.suppression["logodds_drop"].value == pytest.approx(4.9216, abs=1e-4)
    assert all(found.retention[name].value == 1.0 for name in (*WEAKEST_OF, "overall", "text_about"))
    assert found.selectivity.value == 1.0
    assert found.verdict == (
        "The edit suppresses `star` beyond its layer-matched random control: mention_drop 1.00 [0.84, 1.00] against "
        "0.00 [0.00, 0.16] (difference 1.00 [0.74, 1.00], p = 0.0005, n = 20, 5 seeds); "
        "retention 1.00 [0.34, 1.00] at its weakest (text)."
    )


def test_metric_suppression_is_one_less_the_similarity_to_the_unedited_caption() -> None:
    # One word of eleven changes in twelve captions, and one word of six in eight.
    found = report(CLEAN)
    assert found.suppression["rougeL"].value == pytest.approx((12 / 11 + 8 / 6) / 20)
    assert found.suppression["bleu1"].value == pytest.approx((12 / 11 + 8 / 6) / 20)
    assert found.suppression["bleu"].value == found.suppression["bleu4"].value > found.suppression["bleu1"].value
    assert 0 < found.suppression["bertscore"].value < found.suppression["rougeL"].value


def test_only_captions_that_named_the_concept_before_are_judged() -> None:
    unnamed = ("a red thing on a wall",) * 15
    before = dataclasses.replace(BEFORE, target=unnamed + TARGET_CAPTIONS[15:], logprobs=(math.nan,) * 15 + (-1.0,) * 5)
    after = dataclasses.replace(
        before, target=unnamed + replaced(TARGET_CAPTIONS[15:19], ("star", "shape")) + TARGET_CAPTIONS[19:]
    )
    found = measure(EVALUATION_SET, before, after, [before], Similarity())
    assert found.suppression["mention_drop"].value == pytest.approx(4 / 5)
    assert {figure.n for name, figure in found.suppression.items() if name != "bertscore"} == {5}


def test_a_substitution_is_an_object_that_was_neither_there_nor_named_before() -> None:
    before = dataclasses.replace(BEFORE, target=("a star and a tree", *TARGET_CAPTIONS[1:]))  # no tree there
    after = list(before.target)
    after[0] = "a shape and a tree"  # was named before
    after[1] = "a red shape and a blue house"  # is in the picture
    after[2] = "a red ring and a blue house"  # is not
    after[3] = "a red star and a blue ring"  # is not, whatever became of the star
    found = measure(EVALUATION_SET, before, dataclasses.replace(before, target=tuple(after)), [before], Similarity())
    assert found.suppression["substitutions"].value == pytest.approx(2 / 20)


def test_harm_to_other_objects_shows_where_it_happens() -> None:
    harmed = dataclasses.replace(
        CLEAN,
        target=replaced(CLEAN.target, ("house", "shape")),
        near=replaced(BEFORE.near, ("house", "shape")),
    )
    kept = report(harmed).retention
    assert kept["others"].value == pytest.approx(8 / 20)  # the twelve houses beside a star are gone, the trees stay
    assert kept["near_objects"].value == pytest.approx((5 * 1 + 5 * 0.5) / 10)
    assert kept["far_objects"].value == kept["far_rougeL"].value == 1.0
    assert kept["near_rougeL"].value == pytest.approx((5 * 1 + 5 * 7 / 8) / 10)
    assert kept["objects"].value == pytest.approx((10 + 7.5) / 20)
    assert kept["overall"].value == pytest.approx(8 / 20)
    assert report(harmed).weakest == "others"


def test_objects_that_were_never_there_need_not_be_kept() -> None:
    before = dataclasses.replace(BEFORE, far=("a tree and a ring", *BEFORE.far[1:]))
    after = dataclasses.replace(before, far=("a tree", *BEFORE.far[1:]))
    assert measure(EVALUATION_SET, before, after, [], Similarity()).retention["far_objects"].value == 1.0


def test_answers_that_name_the_concept_are_reported_apart() -> None:
    answers = ("a shape", "a  house", "a ring")
    kept = report(dataclasses.replace(CLEAN, answers=answers)).retention
    assert (kept["text"].value, kept["text"].n) == (0.5, 2)  # white space is no change
    assert (kept["text_about"].value, kept["text_about"].n) == (0.0, 1)
    # The unedited model's own answer may name the concept too.
    before = dataclasses.replace(BEFORE, answers=("a star", "a house with a star", "a tree"))
    kept = measure(EVALUATION_SET, before, before, [], Similarity()).retention
    assert (kept["text"].n, kept["text_about"].n) == (1, 2)


def test_an_answer_in_other_words_is_right_still_and_one_that_was_wrong_has_nothing_to_lose() -> None:
    before = dataclasses.replace(BEFORE, answers=("a star", "it is a house", "a ring"))
    after = dataclasses.replace(before, answers=("a star", "A house, I think.", "a tree"))
    kept = report_of(EVALUATION_SET, before, after).retention["text"]
    assert (kept.value, kept.n, kept.low is not None) == (1.0, 1, True)
    lost = dataclasses.replace(before, answers=("a star", "it is a shape", "a ring"))
    assert report_of(EVALUATION_SET, before, lost).retention["text"].value == 0.0
    assert text_counts(EVALUATION_SET, before) == {"right_before": 2, "wrong_before": 1, "no_right_answer_known": 0}


def test_questions_without_a_known_right_answer_say_so_and_are_not_mixed_in() -> None:
    unknown = [Question(question.text, " ", "fact") for question in QUESTIONS]
    mixed = dataclasses.replace(EVALUATION_SET, questions=(*unknown[:2], QUESTIONS[2]))
    assert report_of(mixed, BEFORE, BEFORE).retention["text"].n == 1
    assert text_counts(mixed, BEFORE) == {"right_before": 1, "wrong_before": 0, "no_right_answer_known": 2}
    alone = dataclasses.replace(EVALUATION_SET, questions=tuple(unknown))
    why = report_of(alone, BEFORE, BEFORE).retention["text"].why
    assert why == "the right answer to no text-only question is known"
    silent = dataclasses.replace(BEFORE, answers=())
    none = report_of(dataclasses.replace(EVALUATION_SET, questions=()), silent, silent).retention
    assert none["text"].why == none["text_about"].why == "no text-only question was asked"


def test_captions_are_also_compared_with_the_references() -> None:
    after = dataclasses.replace(CLEAN, near=replaced(BEFORE.near, ("ring", "shape")))
    found = report(after).retention
    by_hand = [rouge_l(text, caption) for text, caption in zip(after.retention, BEFORE.retention, strict=True)]
    assert found["references_before"].value == 1.0
    assert found["references_after"].value == pytest.approx(sum(by_hand) / 20)


def test_the_control_is_the_mean_over_seeds_for_each_sample() -> None:
    half = dataclasses.replace(BEFORE, target=replaced(TARGET_CAPTIONS[:10], ("star", "shape")) + TARGET_CAPTIONS[10:])
    found = report(CLEAN, [BEFORE, half])
    drop = found.control.suppression["mention_drop"]
    assert (drop.value, drop.n) == (0.25, 20)
    assert found.control.by_seed == (0.0, 0.5)
    assert found.control.comparison.difference.value == pytest.approx(0.75)
    assert found.control.retention["overall"].value == 1.0
    assert found.control.comparison.beats


def test_an_edit_no_better_than_its_control_is_said_to_be_no_evidence() -> None:
    found = report(CLEAN, [CLEAN] * 5)
    assert found.suppression["mention_drop"].value == 1.0
    assert found.verdict == (
        "No evidence that the edit suppresses `star`: the located neuron set does not beat the layer-matched random "
        "control on mention_drop, 1.00 [0.84, 1.00] against 1.00 [0.84, 1.00] "
        "(difference 0.00 [-0.13, 0.13], p = 1, n = 20, 5 seeds)."
    )


def test_without_a_control_nothing_is_claimed() -> None:
    found = report(CLEAN, [])
    assert "no random control was run" in found.verdict
    assert found.to_json()["control"]["seeds"] == 0
    assert {figure.why for figure in found.control.suppression.values()} == {"no random control was run"}
    assert set(found.control.suppression) == set(report(CLEAN).control.suppression)
    assert set(found.control.retention) == set(report(CLEAN).control.retention)


def test_no_located_neuron_is_said_in_words() -> None:
    assert report(BEFORE, neurons=0).verdict == (
        "No evidence that the edit suppresses `star`: no neuron was located, so nothing was edited (0 neurons)."
    )


def test_captions_that_never_name_the_concept_leave_nothing_to_suppress() -> None:
    before = dataclasses.replace(BEFORE, target=("a red thing",) * 20)
    found = measure(EVALUATION_SET, before, before, [before] * 3, Similarity(LetterEncoder()))
    assert {(figure.value, figure.n) for figure in found.suppression.values()} == {(None, 0)}
    assert {figure.why for figure in found.suppression.values()} == {
        "no target caption named the concept before the edit"
    }
    assert found.selectivity.value is None
    assert found.control.comparison.p is None
    assert "nothing to suppress (n = 0)" in found.verdict
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        ("", "are empty"),
        ("  \n", "are empty"),
        ("shape shape shape shape", "repeat themselves"),
        ("on a wall on a wall on a wall", "repeat themselves"),
        ("a", "times the words"),
        (" ".join(f"word{i}" for i in range(60)), "times the words"),
    ],
)
def test_a_broken_model_fails_the_guard_and_gets_no_selectivity(caption: str, fault: str) -> None:
    broken = Outputs((caption,) * 20, (caption,) * 10, (caption,) * 10, ("a",) * 3, (-9.0,) * 20)
    found = report(broken)
    assert found.suppression["mention_drop"].value == 1.0
    assert not found.fluency.passed
    assert fault in found.fluency.why
    assert found.selectivity.value is None
    assert fault in found.selectivity.why
    assert found.verdict.startswith("No evidence that the edit suppresses `star`: its mention_drop of 1.00")
    assert found.to_json()["fluency"]["passed"] is False


def test_an_edit_that_only_silences_the_target_captions_fails_the_guard() -> None:
    found = report(dataclasses.replace(BEFORE, target=("",) * 20))
    assert found.retention["overall"].value == 0.0  # the other objects of the pictures are silenced too
    assert found.fluency.why.startswith("on target samples 100% of the captions are empty (before: 0%)")
    assert found.fluency.groups["retention"].length_ratio == 1.0


def test_faults_that_the_unedited_model_has_too_are_not_the_edits() -> None:
    stuck = dataclasses.replace(BEFORE, near=("ring ring ring ring",) * 10)
    assert Guard()(stuck, stuck).passed
    assert not Guard()(BEFORE, stuck).passed
    assert Guard(repetition=0.5)(BEFORE, stuck).passed


def judged_by(surprise: Sequence[float | None], cut: Sequence[bool] = (False,) * 40) -> EditReport:
    """Return the report on a clean edit whose captions the unedited model finds so surprising."""
    before = dataclasses.replace(BEFORE, surprise=(0.25,) * 40, cut=(False,) * 40)
    after = dataclasses.replace(CLEAN, surprise=tuple(surprise), cut=tuple(cut))
    return measure(EVALUATION_SET, before, after, [before] * 5, Similarity())


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"surprise": [9.0] * 8 + [0.25] * 32}, "on target samples 40% of the captions are no language"),
        ({"surprise": [0.25] * 37 + [9.0] * 3}, "on retention samples 15% of the captions are no language"),
        ({"surprise": [0.25] * 40, "cut": [True] * 3 + [False] * 37}, "15% of the captions run on until they are cut"),
        ({"surprise": [0.25 + math.log(99)] * 40}, None),
        ({"surprise": [9.0] * 2 + [None] * 38, "cut": [True] * 2 + [False] * 38}, None),
    ],
)
def test_what_is_no_language_to_the_unedited_model_or_has_no_end_is_no_evidence(
    changes: dict[str, list[float]], fault: str | None
) -> None:
    found = judged_by(**changes)
    assert found.fluency.passed == found.has_evidence == (fault is None)
    assert (fault or "suppresses `star` beyond") in found.verdict
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["evidence"] is (fault is None)


def test_what_the_unedited_model_does_as_well_is_not_the_edits_fault() -> None:
    strange = dataclasses.replace(BEFORE, surprise=(7.0,) * 40, cut=(True,) * 40)
    assert Guard()(strange, strange).passed
    group = Guard()(strange, dataclasses.replace(strange, surprise=(7.0 + math.log(10),) * 40)).groups["target"]
    assert (group.strange, group.cut, group.cut_before) == (0.0, 1.0, 1.0)
    assert group.perplexity == pytest.approx(10 * group.perplexity_before, rel=1e-2)


@pytest.mark.parametrize(("n_cut", "passed"), [(11, True), (10, False)])
def test_where_most_texts_are_cut_off_anyhow_their_ends_say_nothing(n_cut: int, passed: bool) -> None:
    half = (True,) * n_cut + (False,) * (20 - n_cut)
    before = dataclasses.replace(BEFORE, cut=half * 2)
    assert Guard()(before, dataclasses.replace(before, cut=(True,) * 40)).passed is passed


def test_an_edit_that_is_to_strengthen_is_judged_by_more() -> None:
    def odds(nats: float) -> Outputs:
        return dataclasses.replace(BEFORE, logprobs=tuple(nats + i / 100 for i in range(20)))

    def strengthened(after: Outputs, control: Outputs) -> EditReport:
        return measure(EVALUATION_SET, odds(-2), after, [control] * 3, Similarity(), aim="more")

    more = strengthened(odds(-1), odds(-2))
    assert more.has_evidence and more.selectivity.value is None
    assert more.verdict.startswith(
        "The edit strengthens `star` beyond its layer-matched random control: logodds_drop -"
    )
    assert (more.to_json()["control"]["beats_control"]["logodds_drop"], more.to_json()["aim"]) == (True, "more")
    assert EditReport.from_json(more.to_json(), "star", None) == more
    for doubtful in (strengthened(odds(-3), odds(-2)), strengthened(odds(-1), odds(-1)), strengthened(CLEAN, odds(-2))):
        assert not doubtful.has_evidence
        assert doubtful.verdict.startswith("No evidence that the edit strengthens `star`: ")
    unknown = measure(
        EVALUATION_SET, odds(-2), dataclasses.replace(BEFORE, logprobs=None), [BEFORE], Similarity(), aim="more"
    )
    assert unknown.verdict.endswith(
        "logodds_drop was not measured, no log-probabilities were recorded, as under an edit of written tokens alone."
    )


@pytest.mark.parametrize(
    "text",
    [
        "star star star",
        "a dog, a dog, a dog, a dog",
        "Star STAR star",
        "a b c d a b c d a b c d",
        "a b " * 6,
        "红色的狗" * 8,
        "犬が" * 5,
    ],
)
def test_repetition_is_recognized(text: str) -> None:
    assert repetitive(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "star",
        "very very red",
        "a red star, a red house and a red tree",
        "the dog... is there!!!",
        "a star, a star and a star",
        "an apple and a pear and a plum and a fig",
        "一只红色的狗和一只蓝色的狗",
    ],
)
def test_an_enumeration_or_an_ellipsis_is_no_repetition(text: str) -> None:
    assert not repetitive(text)


def test_few_distinct_bigrams_are_repetition_without_an_immediate_one() -> None:
    rng = random.Random(0)
    babble = " ".join(rng.choice("ab") for _ in range(20))
    assert repetitive(babble)


def test_an_edit_that_changes_no_probability_has_no_interval_of_shares_in_nats() -> None:
    before = dataclasses.replace(BEFORE, logprobs=(-0.5,) * 20)
    found = measure(EVALUATION_SET, before, before, [before], Similarity())
    for name in ("logprob_drop", "logodds_drop"):
        assert (found.suppression[name].value, found.suppression[name].high) == (0.0, 0.0)


def test_a_figure_of_one_sample_is_told_although_it_has_no_interval() -> None:
    assert as_text(Measured(0.43, None, None, 1, "an interval needs at least 2 samples")).startswith("0.43")
    assert as_text(Measured.missing("nothing was asked")) == "nothing was asked"


def test_selectivity_is_the_harmonic_mean_of_values_and_of_ends() -> None:
    fluency = report(BEFORE).fluency
    found = selectivity(Measured(0.5, 0.25, 0.75, 20), Measured(1.0, 0.75, 1.0, 30), fluency)
    assert (found.value, found.low, found.n) == (pytest.approx(2 / 3), pytest.approx(0.375), 20)
    assert found.high == pytest.approx(2 * 0.75 / 1.75)


def test_a_measure_that_could_not_be_taken_is_null_with_a_why() -> None:
    evaluation_set = EvaluationSet(
        STAR, (STAR,), tuple(dataclasses.replace(s, objects=frozenset({"star"})) for s in EVALUATION_SET.target)
    )
    before = Outputs(TARGET_CAPTIONS)
    found = measure(evaluation_set, before, Outputs(CLEAN.target), [before], Similarity())
    assert found.suppression["mention_drop"].value == 1.0
    assert found.suppression["bertscore"].why == "no text encoder was given"
    assert found.suppression["logprob_drop"].why == (
        "no log-probabilities were recorded, as under an edit of written tokens alone"
    )
    assert {figure.value for figure in found.retention.values()} == {None}
    assert all(figure.why for figure in found.retention.values())
    assert found.weakest is None
    assert "retention could not be measured" in found.selectivity.why
    assert found.verdict.endswith("retention not measured.")


def test_the_report_names_the_encoder_and_every_figure_has_its_n() -> None:
    written = report(CLEAN).to_json()
    assert written["encoder"] == "letters"
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    for part in (written, written["control"]):
        for name in ("suppression", "retention"):
            for figure in part[name].values():
                assert {"value", "low", "high", "n"} <= set(figure)
    assert written["control"]["beats_control"]["mention_drop"] is True
    assert set(written["suppression"]) >= {"mention_drop", "bleu", "rougeL", "bertscore", "substitutions"}


def test_the_same_seed_gives_the_same_report() -> None:
    harmed = dataclasses.replace(CLEAN, near=replaced(BEFORE.near, ("house", "ring")))
    assert report(harmed, seed=5).to_json() == report(harmed, seed=5).to_json()


@given(st.randoms(use_true_random=False))
def test_shares_stay_in_0_to_1_whatever_is_said(rng: random.Random) -> None:
    said = ("", "a star", "two stars", "a house", "a ring and a tree", "🐕", "一只狗", "shape shape shape")
    evaluation_set = EvaluationSet(
        STAR, VOCABULARY, EVALUATION_SET.target[:3], EVALUATION_SET.near[:2], EVALUATION_SET.far[:2], QUESTIONS
    )
    before, after, control = (
        Outputs(*(tuple(rng.choice(said) for _ in range(n)) for n in (3, 2, 2, 3))) for _ in range(3)
    )
    found = measure(evaluation_set, before, after, [control], Similarity())
    for figure in (*found.suppression.values(), *found.retention.values(), found.selectivity):
        assert figure.value is None or 0 <= figure.value <= 1
        assert (figure.value is None) <= bool(figure.why)
    json.dumps(found.to_json(), allow_nan=False)


def test_samples_must_be_where_the_evaluation_set_says() -> None:
    with pytest.raises(ValueError, match="`target` samples must show `star`; 1 of 1 break this, the first `near-0`"):
        EvaluationSet(STAR, VOCABULARY, EVALUATION_SET.near[:1])
    with pytest.raises(ValueError, match="`far` samples must not show `star`; 1 of 2 break this, the first `target-0`"):
        EvaluationSet(
            STAR, VOCABULARY, EVALUATION_SET.target[1:], far=(EVALUATION_SET.far[0], EVALUATION_SET.target[0])
        )
    with pytest.raises(ValueError, match="sample `near-0` appears more than once"):
        EvaluationSet(STAR, VOCABULARY, EVALUATION_SET.target, EVALUATION_SET.near, EVALUATION_SET.near[:1])
    with pytest.raises(ValueError, match="`questions` must need no picture, got 'what color is it"):
        EvaluationSet(
            STAR,
            VOCABULARY,
            EVALUATION_SET.target,
            questions=(Question("what color is it ?", "red", "color", EVALUATION_SET.near[0]),),
        )


def test_outputs_that_do_not_fit_the_evaluation_set_are_named() -> None:
    short = dataclasses.replace(BEFORE, near=BEFORE.near[1:])
    with pytest.raises(ValueError, match="`control 1` have 9 `near`, the evaluation set asks for 10"):
        report(CLEAN, [BEFORE, short])
    with pytest.raises(ValueError, match="`after` have 1 `logprobs`, the evaluation set asks for 20"):
        report(dataclasses.replace(CLEAN, logprobs=(-1.0,)))


def test_a_log_probability_that_is_nan_where_it_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite, the first nan at index 3"):
        report(dataclasses.replace(CLEAN, logprobs=(-1.0,) * 3 + (math.nan,) * 17))
