"""What is cached: found when everything that decides it is the same, made again when anything is not."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from test_architecture import imports, modules, within

from kedit.edit.edit import Edit
from kedit.edit.operators import Patch, Scale, Zero
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.metrics import Similarity
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, Planted, picture, without
from kedit.models.planted import planted as build
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.locate import check_given, locate
from kedit.pipelines.outputs import collect_outputs, measure_outputs
from kedit.pipelines.preparation import usable
from kedit.pipelines.provenance import ScoresError
from kedit.results import cache as module
from kedit.results.cache import Cache, of_edit
from kedit.samples import silent
from kedit.store import Store

PAIRS = [without(picture(f"p{n}", star=(n,), house=(n + 4,)), STAR_CONCEPT) for n in range(3)]

TWO_STAGE = Locator({"difference": Stage(ActivationDifference(), TopK(4)), "gradcam": Stage(GradCAM(), TopK(2))})


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(Store(tmp_path), "a model")


class Made:
    """Counts how often it is asked."""

    def __init__(self, value: Any) -> None:
        self.value, self.n_times = value, 0

    def __call__(self) -> Any:
        self.n_times += 1
        return self.value


def test_what_was_made_once_is_found_again(cache: Cache) -> None:
    made = Made({"a": [1.5, None], "b": "text"})
    for _ in range(3):
        assert cache.json("report", "it", lambda: {"x": 1}, made) == {"a": [1.5, None], "b": "text"}
    assert made.n_times == 1


def test_without_a_store_everything_is_made() -> None:
    made = Made(1)
    assert [Cache().json("report", "it", dict, made) for _ in range(2)] == [1, 1]
    assert made.n_times == 2


def test_nothing_is_kept_or_found_while_an_edit_acts_on_the_model(
    planted: Planted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Edit(planted.star, Zero(), name="outer").applied(planted.model):
        planted.model.caption([PAIRS[0].image])
        assert Cache.of_model(tmp_path, planted.model).store is None
    assert caplog.text.count("the edit `outer` acts on the model: all is measured under it") == 1
    with Edit(planted.star, Zero(), name="outer").applied(planted.model):
        planted.model.caption([PAIRS[0].image])
        assert Cache.of_model(None, planted.model).store is None
    assert caplog.text.count("the edit `outer` acts on the model: all is measured under it") == 2
    assert Cache.of_model(tmp_path, planted.model).store is not None


def nothing(*_: Any) -> None:
    pass


@pytest.mark.parametrize("act", ["hook", "pre-hook", "method", "partial"])
def test_nothing_is_kept_or_found_while_code_of_anothers_acts_on_the_model(
    act: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = build().model
    (path, part), *_ = [one for one in model.module.named_modules() if one[0].endswith("down_proj")]
    assert Cache.of_model(tmp_path, model).store is not None
    if act == "hook":
        part.register_forward_hook(nothing)
    elif act == "pre-hook":
        part.register_forward_pre_hook(nothing)
    else:
        forward: Any = type(part).forward
        part.forward = MethodType(forward, part) if act == "method" else partial(nothing, part)
    kept = Cache.of_model(tmp_path, model).store is not None
    # A method that is torch's own does what the class does.
    assert kept == (act == "method")
    assert (f"foreign code acts in `{path}`" in caplog.text) != kept


def test_whatever_decides_a_result_makes_another_entry(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(1)
    cache.json("report", "it", lambda: {"x": 1}, made)
    for other, kind, what, about in (
        (cache, "report", "it", {"x": 2}),
        (cache, "report", "that", {"x": 1}),
        (cache, "scores", "it", {"x": 1}),
        (replace(cache, model="another model"), "report", "it", {"x": 1}),
    ):
        other.json(kind, what, lambda about=about: about, made)
    assert made.n_times == 5
    monkeypatch.setattr(module, "of_code", lambda *rooms: "changed")
    module._code.cache_clear()
    Cache(cache.store, "a model").json("report", "it", lambda: {"x": 1}, made)
    assert made.n_times == 6
    module._code.cache_clear()


NO_RESULT = frozenset(
    {"arguments", "entries", "fingerprints", "notebook", "paths", "progress", "settings", "store", "tested"}
)
"""Parts that only check, tell, show, name, keep or find things; what they do shows in the keys themselves."""


@pytest.mark.parametrize("kind", module.ROOMS)
def test_all_of_kedit_that_makes_an_entry_is_in_its_code(kind: str) -> None:
    """Whatever the parts of a kind import is among them, down to the words that a caption is searched for."""
    rooms = module.ROOMS[kind]
    missing = {
        f"{one.name}: {found.name}"
        for one in modules()
        if any(within(one.name, f"kedit.{room}") for room in rooms) and not within(one.name, "kedit.pipelines")
        for found in imports(one)
        if within(found.name, "kedit") and not any(within(found.name, f"kedit.{room}") for room in rooms)
        and found.name.split(".")[1:2] and found.name.split(".")[1] not in NO_RESULT
    }  # fmt: skip
    assert missing == set()


def test_of_many_only_those_that_are_not_there_are_made_and_equal_ones_once(cache: Cache) -> None:
    asked: list[Sequence[int]] = []

    def make(places: Sequence[int]) -> list[str]:
        asked.append(tuple(places))
        return [f"made {place}" for place in places]

    assert cache.many("generations", "it", [{"n": n} for n in (1, 2, 1)], make) == ["made 0", "made 1", "made 0"]
    assert cache.many("generations", "it", [{"n": n} for n in (3, 2, 1)], make) == ["made 0", "made 1", "made 0"]
    assert cache.many("generations", "it", [{"n": n} for n in (1, 2, 3)], make) == ["made 0", "made 1", "made 0"]
    assert asked == [(0, 1), (0,)]


def test_a_damaged_entry_is_named_and_made_again(
    cache: Cache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(1)
    cache.json("report", "it", dict, made)
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    path.write_bytes(path.read_bytes()[:-60] + b"x" * 60)
    with caplog.at_level(logging.WARNING):
        cache.json("report", "it", dict, made)
        cache.json("report", "it", dict, made)
    assert made.n_times == 2
    path.write_bytes(b"9" + path.read_bytes()[1:])
    with caplog.at_level(logging.WARNING):
        assert cache.json("report", "it", dict, made) == 1
    assert made.n_times == 3
    assert str(path) in caplog.text


# --- the steps


@pytest.fixture
def evaluation_set() -> EvaluationSet:
    targets = [picture(f"t{n}", star=(n,), house=(15 - n,)) for n in range(2)]
    return EvaluationSet(STAR_CONCEPT, (STAR_CONCEPT, HOUSE_CONCEPT), tuple(targets), far=(picture("f", house=(2,)),))


def test_cached_scores_and_captions_are_those_of_a_run_without_a_store(planted: Planted, cache: Cache) -> None:
    fresh = locate(planted.model, TWO_STAGE, PAIRS, silent)
    for _ in range(2):
        found = locate(planted.model, TWO_STAGE, PAIRS, silent, cache)
        assert found.captions == fresh.captions
        for name, one in fresh.scores.items():
            assert torch.equal(found.scores[name].values, one.values)
            assert found.scores[name].method == one.method
        assert found.stages == fresh.stages


def test_another_threshold_runs_no_model(planted: Planted, cache: Cache) -> None:
    locate(planted.model, TWO_STAGE, PAIRS, silent, cache)

    def refuse(*inputs: object) -> None:
        raise AssertionError("the model was run")

    refusing = planted.model.module.register_forward_pre_hook(refuse)
    try:
        found = locate(planted.model, TWO_STAGE.limited(1), PAIRS, silent, cache)
        assert len(found.neurons) == 1
        for locator, pairs in ((replace(TWO_STAGE, site="act"), PAIRS), (TWO_STAGE, PAIRS[:2])):
            with pytest.raises(AssertionError, match="the model was run"):
                locate(planted.model, locator, pairs, silent, cache)
    finally:
        refusing.remove()


def test_cached_outputs_and_reports_are_those_of_a_run_without_a_store(
    planted: Planted, cache: Cache, evaluation_set: EvaluationSet
) -> None:
    sets = [planted.star, NeuronSet((NeuronId(0, 2),)), NeuronSet((NeuronId(0, 4),))]
    asked = (planted.model, evaluation_set, [Edit(one, Zero()) for one in sets], silent)
    fresh, similarity = collect_outputs(*asked), Similarity()
    report = measure_outputs(evaluation_set, fresh, similarity, 1, 0)
    for _ in range(2):
        outputs = collect_outputs(*asked, cache)
        assert repr(outputs) == repr(fresh)
        assert measure_outputs(evaluation_set, outputs, similarity, 1, 0, cache) == report


@pytest.mark.parametrize(
    "other",
    [
        Edit(NeuronSet((NeuronId(0, 1),)), Zero()),
        Edit(NeuronSet((NeuronId(0, 3),)), Scale(0.0)),
        Edit(NeuronSet((NeuronId(0, 3),)), Zero(), positions="last"),
        Edit(NeuronSet((NeuronId(0, 3),)), Zero(), phase="decode"),
        Edit(NeuronSet((NeuronId(0, 3),), "act"), Zero()),
        Edit(NeuronSet((NeuronId(0, 3),)), Patch({0: torch.ones(8)}, "mean")),
        Edit(NeuronSet((NeuronId(0, 3),)), Patch({0: torch.zeros(8)}, "mean")),
    ],
    ids=["neurons", "operator", "positions", "phase", "site", "values", "other values"],
)
def test_what_changes_an_edit_changes_its_key(other: Edit) -> None:
    one = Edit(NeuronSet((NeuronId(0, 3),)), Zero(), name="first")
    assert of_edit(one) == of_edit(replace(one, name="second"))
    assert of_edit(other) != of_edit(one)
    assert of_edit(Edit(other.neurons, Patch({0: torch.full((8,), 2.0)}, "mean"))) != of_edit(other)


# --- scores that are given


def test_scores_that_are_given_stand_for_those_that_would_be_taken(planted: Planted) -> None:
    scores = locate(planted.model, TWO_STAGE, PAIRS, silent).scores
    found = locate(planted.model, TWO_STAGE.limited(1), PAIRS, silent, given=scores)
    assert all(found.scores[name] is one for name, one in scores.items())
    assert len(found.neurons) == 1


def test_scores_of_something_else_are_refused(planted: Planted) -> None:
    scores = locate(planted.model, TWO_STAGE, PAIRS, silent).scores
    found = usable(planted.model, PAIRS, silent)
    one_stage = Locator({"difference": Stage(ActivationDifference(), TopK(1))})
    with pytest.raises(ScoresError, match=r"the scores are of difference.*gradcam"):
        check_given(scores, planted.model, one_stage, found)
    fewer = usable(planted.model, PAIRS[:2], silent)
    with pytest.raises(
        ScoresError, match=r'another samples, `\["p0", "p1", "p2"\]`; the run asks for `\["p0", "p1"\]`'
    ):
        check_given(scores, planted.model, TWO_STAGE, fewer)
    with pytest.raises(ScoresError, match="another model, `planted`; the run asks for `other`"):
        check_given(scores, replace(planted.model, name="other"), TWO_STAGE, found)
    with pytest.raises(ScoresError, match="another site, `mid`; the run asks for `act`"):
        check_given(scores, planted.model, replace(TWO_STAGE, site="act"), found)
