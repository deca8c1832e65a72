"""The comparison of locating methods: its tables by hand, and its command line on the shipped model."""

import csv
import dataclasses
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

import kedit
import kedit.cli.compare as recipe
from kedit.cli.comparison.choices import chosen as read
from kedit.cli.comparison.choices import several, understood
from kedit.cli.errors import ConfigurationError
from kedit.cli.sharing import forget
from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.scores import paired_scores, pooled
from kedit.evaluation.statistics import Measured, holm
from kedit.locate.activation import Activation
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.locate.shipped import shipped
from kedit.models.mllm import MLLM
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.models.shipped import HERE
from kedit.neurons import NeuronId, NeuronSet
from kedit.paths import conf_dir
from kedit.pipelines.comparison.choices import Choices, Method
from kedit.pipelines.comparison.effects import FIGURES, Effect
from kedit.pipelines.comparison.matrix import Matrix
from kedit.pipelines.comparison.result import Comparison, Ranking, overlap
from kedit.pipelines.comparison.rows import Row, mean_row, ranked, with_tests
from kedit.pipelines.comparison.scoring import Bench, Failed
from kedit.pipelines.preparation import usable
from kedit.results.cache import Cache
from kedit.results.run_folder import Run
from kedit.samples import Concept, Counterfactual, Sample, silent
from kedit.store import Store
from tests.page_reader import EVIL, read_page

FAR = Measured(0.5, 0.4, 0.6, 10)
STAR, HOUSE, MOON = (Concept(name) for name in ("star", "house", "moon"))


def neurons(*ids: tuple[int, int], site: str = "mid") -> NeuronSet:
    return NeuronSet(tuple(NeuronId(*one) for one in ids), site)  # type: ignore[arg-type]


def share(value: float | None) -> Measured:
    return Measured.missing("no reason") if value is None else Measured(value, value, value, 10)


def row(
    method: str,
    selectivity: float | None = 0.5,
    *,
    drop: float | None = 0.5,
    samples: Mapping[str, Sequence[float]] | None = None,
    concept: str = "star",
    sets: tuple[NeuronSet, ...] = (neurons((0, 1)),),
    cost: Mapping[str, float] | None = None,
) -> Row:
    figures = {"selectivity": share(selectivity), "mention_drop": share(drop)}
    effect = Effect({**dict.fromkeys(FIGURES, FAR), **figures}, "others", samples or {"mention_drop": [], "kept": []})
    return Row(concept, "3", method, sets, effect, cost)


# Tables and statistics


def test_holms_values_are_those_worked_out_by_hand_and_keep_their_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        holm([1.5])


def test_rows_go_from_high_to_low_selectivity_then_the_missing_then_the_failed() -> None:
    failed = Row("star", "3", "broken", why="no unembedding")
    found = ranked(
        [failed, row("low", 0.1), row("mute", None, drop=0.9), row("high", 0.9), row("also", None, drop=0.2)]
    )
    assert [one.method for one in found] == ["high", "low", "mute", "also", "broken"]


def test_a_paired_test_compares_the_same_samples_and_is_adjusted_over_methods() -> None:
    base = {"mention_drop": [1.0] * 8, "kept": [1.0] * 3}
    same, worse = {"mention_drop": [1.0] * 8, "kept": []}, {"mention_drop": [0.0] * 8, "kept": [1.0, 1.0, 0.5]}
    rows = [row("ref", samples=base), row("same", samples=same), row("worse", samples=worse)]
    found = with_tests(rows, "ref", seed=0)
    tests = {one.method: one.tests for one in found}
    assert tests["ref"] is None
    # Eight differences of one sign: 2 of 256 sign patterns are as extreme; Holm doubles the smaller of two.
    assert tests["worse"] is not None and tests["same"] is not None
    assert tests["worse"]["mention_drop"].p == pytest.approx(2 / 256)
    assert tests["worse"]["mention_drop"].adjusted == pytest.approx(4 / 256)
    assert tests["worse"]["mention_drop"].difference.value == -1
    assert tests["same"]["mention_drop"].adjusted == 1
    assert tests["worse"]["kept"].difference.value == pytest.approx(-1 / 6)
    assert "kept" not in tests["same"]


def test_a_failed_reference_leaves_the_rows_without_tests() -> None:
    found = with_tests([Row("star", "3", "ref", why="broken"), row("other")], "ref", seed=0)
    assert [one.tests for one in found] == [None, None]


def test_overlap_is_jaccard_and_the_mean_over_random_sets() -> None:
    one, other = (neurons((0, 1), (0, 2)),), (neurons((0, 2), (0, 3)),)
    drawn = (neurons((0, 1), (0, 2)), neurons((1, 1), (1, 2)))
    assert overlap(one, other) == pytest.approx(1 / 3)
    assert overlap(one, drawn) == 0.5
    assert overlap(drawn, drawn) == 1
    assert overlap(one, (neurons((0, 1), (0, 2), site="act"),)) == 0


def test_the_mean_over_concepts_leaves_out_what_could_not_be_measured() -> None:
    cost = {"forwards": 2, "backwards": 4, "seconds": 1.0}
    double = {"forwards": 4, "backwards": 4, "seconds": 3.0}
    several_rows = [row("a", 0.2, cost=cost), row("a", 0.6, cost=double), row("a", None, cost=cost)]
    found = mean_row(several_rows)
    assert found.concept == "mean"
    assert found.figure("selectivity").value == pytest.approx(0.4)
    assert found.figure("selectivity").n == 2
    assert found.cost == {"forwards": pytest.approx(8 / 3), "backwards": 4, "seconds": pytest.approx(5 / 3)}
    assert mean_row([Row("star", "3", "a", why="broken")]).why == "broken"


def comparison(*rows: Row, **more: Any) -> Comparison:
    return Comparison({"model": "m"}, "a", 0, {0: 4, 1: 4}, rows, **more)


def test_a_mean_table_averages_the_overlaps_and_layers_of_its_concepts() -> None:
    found = comparison(
        row("a", sets=(neurons((0, 1)),)),
        row("b", sets=(neurons((0, 1)),)),
        row("a", concept="house", sets=(neurons((1, 1)),)),
        row("b", concept="house", sets=(neurons((0, 1)),)),
    )
    (mean,) = found.means
    assert mean.overlap()["a"] == {"a": 1.0, "b": 0.5}
    failed = row("b", concept="moon", sets=())
    without = comparison(
        *found.rows, row("a", concept="moon", sets=(neurons((0, 1)),)), dataclasses.replace(failed, effect=None)
    )
    assert without.means[0].overlap()["a"] == {"a": 1.0, "b": 0.5}
    assert mean.layers() == {"a": {"0": 0.5, "1": 0.5}, "b": {"0": 1.0}}
    assert found.shown == [mean]
    assert [one.concept for one in found.tables] == ["star", "house"]
    assert found.neurons["house"]["3"]["a"] == neurons((1, 1))


def test_specificity_is_the_diagonal_less_the_mean_of_the_rest() -> None:
    cells = {
        "star": {"star": share(1.0), "house": share(0.2), "moon": share(0.0)},
        "house": {"star": share(0.0), "house": share(0.5), "moon": share(None)},
        "moon": {"star": share(0.3), "house": share(0.3), "moon": share(None)},
    }
    found = Matrix(cells, {"star": 3, "house": 3, "moon": 3}, {})
    assert found.specificity.value == pytest.approx((0.9 + 0.5) / 2)
    assert found.specificity.n == 2
    assert found.own.value == 0.75
    assert found.others.value == pytest.approx(0.05)
    assert Matrix({}, {}, {"star": "broken"}).specificity.why
    names = ("star", "house")
    alike = Matrix(
        {own: {one: share(float(one == own)) for one in names} for own in names}, dict.fromkeys(names, 3), {}
    )
    assert (alike.specificity.low, alike.specificity.high) == (1.0, 1.0)  # a difference has no interval of a share


def test_what_is_kept_of_the_other_objects_is_counted_in_every_picture_that_named_one() -> None:
    plain = Image.new("RGB", (4, 4))
    shows = {"a": {"star", "house", "moon"}, "b": {"star"}, "c": {"house"}, "d": {"moon"}}
    a, b, c, d = (Sample(name, plain, objects=frozenset(objects)) for name, objects in shows.items())
    evaluation_set = EvaluationSet(STAR, (STAR, HOUSE, MOON), (a, b), (c,), (d,))
    before = Outputs(("a star, a house and a moon", "a star"), ("a house",), ("a house",))
    one = Outputs(("a house", "nothing"), ("nothing",), ("a house",))
    other = Outputs(("a house and a moon", "nothing"), ("a house",), ("nothing",))
    # Of picture b nothing else was named; the house said of d is not there.
    alone, also = (paired_scores(evaluation_set, before, after) for after in (one, other))
    assert alone["kept"] == [0.5, 0.0]
    assert pooled([alone, also])["kept"] == [0.75, 0.5]


def test_the_csv_has_a_line_for_each_row_and_nothing_where_nothing_was_measured() -> None:
    table = comparison(row("a", 0.25), Row("star", "3", "b", why='no "word", it says')).table()
    lines = list(csv.DictReader(io.StringIO(table.csv())))
    assert [line["method"] for line in lines] == ["a", "b"]
    assert lines[0]["selectivity"] == "0.25" and lines[0]["forwards"] == ""
    assert lines[1]["selectivity"] == "" and lines[1]["why"] == 'no "word", it says'


def test_what_failed_is_told_under_the_table_and_has_no_row() -> None:
    table = Ranking("star", "3", [row("a", 0.25), Row("star", "3", "b", why="no words")]).table()
    assert [cells[0] for cells in table.rows] == ["a"]
    assert table.notes == ("b: not measured: no words",)
    assert dict(zip(table.columns, table.texts[0], strict=True))["selectivity"] == "0.25 [0.25, 0.25]"


def test_an_interrupted_comparison_shows_what_was_done_and_says_so() -> None:
    partial = comparison(row("a", 0.9), interrupted=True)
    page = partial.markdown()
    assert "Interrupted" in page and "| a |" in page and "The reference is `a`" in page
    assert "interrupted" in str(partial)
    assert partial.to_json()["complete"] is False


# What the user asks for


def test_a_list_with_commas_is_one_comparison_and_a_sweep_only_with_m() -> None:
    words = ["concept=star,house", "budget=2,4", "methods=[a,b]", "seed=1,2", "concept='star,house'"]
    lists = ["concept=[star,house]", "budget=[2,4]", "methods=[a,b]", "seed=1,2", "concept='star,house'"]
    assert understood(words) == lists
    assert understood(["-m", "concept=star,house"]) == ["-m", "concept=star,house"]
    assert understood(["samples.gradcam=8", "overrides={}"]) == ["++samples.gradcam=8", "overrides={}"]
    assert several("star, house,star", "concept") == ["star", "house"]
    assert several(OmegaConf.create([2, 4]), "budget") == [2, 4]
    with pytest.raises(ConfigurationError, match="`methods` is empty"):
        several(OmegaConf.create([]), "methods")


def chosen(**changes: Any) -> Choices:
    plain = {
        "concept": "star", "methods": ["two_stage", "gradcam", "random"], "reference": "two_stage", "budget": "own",
        "site": "mid", "positions": "own", "overrides": {}, "samples": {}, "seed": 5, "random_seeds": 3,
        "evaluate": {"locate": 3, "target": 3, "retention": 2},
    }  # fmt: skip
    return read(OmegaConf.create({**plain, **changes}))


def test_what_is_forced_reaches_every_scorer_and_the_rest_keeps_its_own() -> None:
    own, forced = chosen(), chosen(positions="text", site="act", methods=["two_stage", "random_layer_matched"])
    stages = own.method("two_stage").locators[0].stages
    assert [stages[name].scorer.positions for name in stages] == ["image", "image"]
    two_stage, matched = (forced.method(name).locators[0] for name in ("two_stage", "random_layer_matched"))
    for locator in (two_stage, matched.locator):
        assert {one.scorer.positions for one in locator.stages.values()} == {"text"}
        assert locator.site == "act"


def test_a_random_method_has_a_locator_for_each_seed() -> None:
    drawn = chosen(methods=["two_stage", "random", "random_layer_matched"])
    assert [one.stages["random"].scorer.seed for one in drawn.method("random").locators] == [5, 6, 7]
    assert [one.seed for one in drawn.method("random_layer_matched").locators] == [5, 6, 7]
    assert len(drawn.method("two_stage").locators) == 1


def test_overrides_change_a_method_and_its_row_says_so() -> None:
    changes = {"gradcam": {"stages": {"gradcam": {"scorer": {"over_positions": "sum"}}}}}
    found = chosen(overrides=changes).method("gradcam")
    assert found.locators[0].stages["gradcam"].scorer == GradCAM(over_positions="sum")
    assert found.note == "over_positions=sum"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["two_stage", "gradcan"]}, r"`methods`: no method `gradcan`; nearest: gradcam"),
        ({"methods": []}, "`methods` is empty"),
        (
            {"reference": "miner"},
            r"`reference` is one of the methods that are compared \(two_stage, gradcam\); got miner",
        ),
        ({"reference": "random"}, "`reference` is one of the methods"),
        ({"budget": 0}, "`budget` is a number of neurons, 1 or more, .* got 0"),
        ({"budget": -1}, "got -1"),
        ({"budget": "x"}, "got x"),
        ({"budget": True}, "got True"),
        ({"budget": 2.5}, r"got 2\.5"),
        ({"budget": "random"}, "got random"),
        ({"site": "foo"}, "`site` is `own` or one of mid, act, pre; got foo"),
        ({"positions": "foo"}, "`positions` is `own` or one of all, image, text, image_end, target; got foo"),
        ({"samples": {"gradcam": 0}}, r"`samples\.gradcam` is a number of pairs, 1 or more; got 0"),
        ({"overrides": {"nobody": {}}}, "`overrides`: no method `nobody`"),
        ({"overrides": {"gradcam": {"stage": {}}}}, r"`overrides\.gradcam`: .*stage"),
    ],
)
def test_a_wrong_choice_names_the_key_and_what_would_be_right(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chosen(**changes)


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "locate").glob("*.yaml")))
def test_a_shipped_method_is_what_hydra_builds_of_its_file(name: str) -> None:
    built = chosen(methods=["two_stage", name], site="own").method(name).locator
    assert repr(shipped(name)) == repr(built)


def test_a_method_is_a_name_a_locator_or_a_method() -> None:
    mine = Locator({"mine": Stage(GradCAM(), TopK(2))}, site="act")
    methods = Choices(["gradcam", mine, Method("slow", mine, samples=2)], [4], "mine").methods
    assert [one.name for one in methods] == ["gradcam", "mine", "slow"]
    assert [one.locator.site for one in methods] == ["mid"] * 3
    assert methods[2].remark == "located with 2 pairs"
    with pytest.raises(ValueError, match="two methods are called `mine`"):
        Choices([mine, mine], [4], "mine")
    with pytest.raises(LookupError, match="no method `gradcan`; nearest: gradcam"):
        Choices(["gradcan"], [4], "gradcan")


# The passes that methods share


def star_pairs() -> list[Counterfactual]:
    samples = [picture("one", (5,)), picture("two", (1, 2), (9,)), picture("three", (0,), (15, 14))]
    return [without(sample, STAR_CONCEPT) for sample in samples]


def method(name: str, **scorers: Any) -> Method:
    return Method(name, Locator({key: Stage(one, TopK(2)) for key, one in scorers.items()}))


METHODS = (
    method("both", difference=ActivationDifference(), gradcam=GradCAM()),
    method("difference", difference=ActivationDifference()),
    method("activation", activation=Activation()),
    method("gradcam", gradcam=GradCAM()),
)


def bench(planted: Planted, folder: Path | None = None, *, share: bool = True) -> Bench:
    cache = Cache(Store(folder), "a model") if folder else Cache()
    return Bench(planted.model, usable(planted.model, star_pairs(), silent, cache), cache, share=share)


@pytest.fixture
def passes(planted: Planted) -> Iterator[list[int]]:
    """The rows of each forward of the language model, without generating."""
    seen: list[int] = []

    def count(_module: Any, _args: Any, kwargs: Mapping[str, Any]) -> None:
        if not kwargs.get("use_cache", True):
            seen.append(len(kwargs["input_ids"]))

    handle = planted.model.module.register_forward_pre_hook(count, with_kwargs=True)
    yield seen
    handle.remove()


def test_methods_share_their_passes_and_score_as_they_would_alone(planted: Planted, passes: list[int]) -> None:
    together = bench(planted).scores(METHODS)
    # One forward on the originals and one on the counterfactuals, for all four methods, by length of the caption.
    assert sum(passes) == 3 * 2
    passes.clear()
    alone = bench(planted, share=False).scores(METHODS)
    assert sum(passes) == 3 * (2 + 2 + 1 + 1)
    for name, found in alone.items():
        shared = together[name]
        assert not isinstance(found, Failed) and not isinstance(shared, Failed)
        for stage, one in found[0].items():
            assert shared[0][stage].values.equal(one.values)
            for cost in ("forwards", "backwards"):
                assert shared[0][stage].provenance[cost] == one.provenance[cost]


def test_a_method_that_lacks_something_fails_alone(planted: Planted) -> None:
    lacking = method("lacking", difference=ActivationDifference(control=True))
    found = bench(planted).scores((*METHODS, lacking))
    assert isinstance(found["lacking"], Failed)
    assert "control" in found["lacking"].why
    assert all(not isinstance(found[one.name], Failed) for one in METHODS)


def test_scores_in_the_store_run_no_model(planted: Planted, tmp_path: Path, passes: list[int]) -> None:
    first = bench(planted, tmp_path).scores(METHODS)
    passes.clear()
    again = bench(planted, tmp_path).scores(METHODS)
    assert passes == []
    for one in METHODS:
        old, new = first[one.name], again[one.name]
        assert not isinstance(old, Failed) and not isinstance(new, Failed)
        assert one.locators[0].select(old[0]) == one.locators[0].select(new[0])


# The command line

needs_scenes = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)
TINY = (
    "evaluate.locate=3", "evaluate.target=3", "evaluate.retention=2", "evaluate.text=false", "random_seeds=2",
    "matrix.target=2",
    "matrix.concepts=[star,house]", "methods=[difference,two_stage,gradcam,random]",
    "overrides.difference={stages: {difference: {scorer: {control: true}}}}", "budget=[two_stage,2]",
)  # fmt: skip
FILES = {
    "kedit.log", "STATUS", "compare.csv", "compare.json", "compare.md", "neurons.json", "figures/methods.png",
    "report.html", "page.json",
    "figures/overlap.png", "figures/layers.png", "figures/dose.png", "figures/matrix.png",
}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def kedit_compare(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Finished]:
    """Run `kedit compare WORDS` in `tmp_path`, in this process; its folder is `out`."""

    def call(*words: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["kedit compare", "hydra.run.dir=out", "store=kept", *words])
        capsys.readouterr()
        with chdir(tmp_path):
            code = recipe.main()
        printed = capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    return call


@needs_scenes
def test_a_comparison_leaves_its_tables_and_goes_on_where_it_was(
    kedit_compare: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, folder = kedit_compare("concept=star", *TINY), tmp_path / "out"
    assert done.code == 0, done.err
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {one for one in files if not one.startswith(".hydra")} == FILES
    assert (folder / "STATUS").read_text() == "done\n"
    found = json.loads((folder / "compare.json").read_text())
    assert [(table["concept"], table["budget"]) for table in found["tables"]] == [("star", "two_stage"), ("star", "2")]
    for table in found["tables"]:
        _check_table(table)
    assert {one["neurons"] for one in found["tables"][1]["rows"] if one["method"] != "difference"} == {2}
    assert set(found["matrix"]["drops"]) == {"star", "house"}
    assert "Specificity" in done.out and "difference: not measured" in done.out

    refuse_to_run(monkeypatch)
    again = kedit_compare("concept=star", *TINY, "page=false")
    assert again.code == 0, again.err
    resumed = json.loads((folder / "compare.json").read_text())
    assert {**resumed, "seconds": 0} == {**found, "seconds": 0}


def refuse_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the model was run again")

    for name in ("ask", "caption"):  # a method that failed is tried again
        monkeypatch.setattr(kedit.HuggingFaceMLLM, name, refuse)


def _check_table(table: Mapping[str, Any]) -> None:
    rows = {one["method"]: one for one in table["rows"]}
    assert [*rows][-1] == "difference"
    assert "control" in rows["difference"]["why"]
    values = [one["selectivity"]["value"] or -1 for one in table["rows"]]
    assert values == sorted(values, reverse=True)
    assert rows["two_stage"]["tests"] is None
    assert set(rows["gradcam"]["tests"]) == {"mention_drop", "kept"}
    assert len(rows["random"]["mention_drop_by_seed"]) == rows["random"]["seeds"] == 2
    assert rows["two_stage"]["forwards"] == 2 * rows["gradcam"]["forwards"] > 0
    assert rows["random"]["forwards"] is None
    assert table["overlap"]["two_stage"]["two_stage"] == 1


FEW = ("concept=star", "methods=[two_stage,gradcam]", "matrix.concepts=[]", "evaluate.locate=2", "evaluate.target=2",
       "evaluate.retention=1", "evaluate.text=false", "figures=false", "page=false")  # fmt: skip


@needs_scenes
def test_nothing_is_stale_after_the_weights_of_a_models_folder_changed(
    kedit_compare: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(HERE / "scenes", folder)
    words = (*FEW, f"model.path={folder}")
    assert kedit_compare(*words).code == 0
    before = named_neurons(tmp_path / "out")
    forget()
    reverse_neurons(folder)
    changed = kedit_compare(*words)
    forget()
    assert changed.code == 0, changed.err
    assert named_neurons(tmp_path / "out") == {method: {(layer, WIDTH - 1 - index) for layer, index in found}
                                               for method, found in before.items()}  # fmt: skip


WIDTH = 512
"""Neurons of each layer of the shipped model."""


def named_neurons(folder: Path) -> dict[str, set[tuple[int, int]]]:
    (budget,) = json.loads((folder / "neurons.json").read_text())["star"].values()
    return {method: {(layer, index) for layer, index in one["neurons"]} for method, one in budget.items()}


def reverse_neurons(folder: Path) -> None:
    """Number the feed-forward neurons of each layer from behind: the same model, whose neurons are called otherwise."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "language_model" in name and name.endswith(("gate_proj.weight", "up_proj.weight")):
            weights[name] = weight.flip(0).contiguous()
        elif "language_model" in name and name.endswith("down_proj.weight"):
            weights[name] = weight.flip(1).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@needs_scenes
def test_an_interruption_leaves_what_there_is_and_the_next_run_goes_on_with_it(
    kedit_compare: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit.pipelines.comparison.effects import Trial

    tried, effect = list[Any](), Trial.effect

    def interrupt(self: Trial, sets: Sequence[NeuronSet]) -> Effect:
        if tried:
            raise KeyboardInterrupt
        tried.append(sets)
        return effect(self, sets)

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "effect", interrupt)
        broken = kedit_compare(*FEW)
    assert broken.code == 130 and "interrupted: these are the methods that were done" in broken.out
    partial = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert partial["complete"] is False
    assert [one["method"] for table in partial["tables"] for one in table["rows"]] == ["two_stage"]
    assert kedit_compare(*FEW).code == 0
    whole = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert whole["complete"] is True
    assert {one["method"] for table in whole["tables"] for one in table["rows"]} == {"two_stage", "gradcam"}


# As a notebook calls it


@needs_scenes
def test_one_call_compares_prints_itself_and_saves_what_it_says(tmp_path: Path) -> None:
    model: MLLM = kedit.load("scenes")
    mine = Locator({"mine": Stage(GradCAM(), TopK(3))})
    counts = kedit.Counts(locate=2, target=2, retention=1, controls=2, text=False)
    found = kedit.compare(
        model, kedit.Scenes(), "star", methods=["two_stage", mine, "random"], budget=[2], counts=counts
    )
    assert isinstance(found, Comparison) and found.matrix is None and found.means == []
    assert {name: len(sets) for name, sets in found.neurons["star"]["2"].items()} == {
        "two_stage": 2, "mine": 2, "random": 2,
    }  # fmt: skip
    for text in (str(found), found._repr_html_()):
        assert "mine" in text and "1.00 [" in text
    strange = dataclasses.replace(found, rows=[dataclasses.replace(row, concept=EVIL) for row in found.rows])
    seen = read_page(strange._repr_html_(), *(one.table() for one in strange.tables))
    assert len(seen.pictures) == 1 and not seen.texts[1].startswith("interrupted")
    assert read_page(dataclasses.replace(found, interrupted=True)._repr_html_()).texts[1].startswith("interrupted")
    saved = found.save(tmp_path / "out")
    assert Run(saved).status == "done"
    assert json.loads((saved / "compare.json").read_text()) == json.loads(json.dumps(found.to_json()))
    assert {one.stem for one in (saved / "figures").iterdir()} == set(found.figures) == {"methods", "overlap", "layers"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("concept=sstar", "no concept `sstar`"),
        ("methods=[two_stage,gradcan]", "no method `gradcan`"),
        ("matrix.concepts=[sun]", "no concept `sun`"),
        ("matrix.method=nam_x", "`matrix.method` is one of the methods"),
        ("against=nothing", "`against` is effect or truth; got nothing"),
        ("random_seeds=0", "`random_seeds` is a whole number, 1 or more; got 0"),
        ("budget=0", "`budget` is a number of neurons"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_2(
    kedit_compare: Callable[..., Finished], word: str, message: str
) -> None:
    few = [] if word.startswith("methods=") else ["methods=[two_stage,gradcam]"]
    done = kedit_compare(*few, word)
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert message in done.err
