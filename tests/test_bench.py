"""The benchmark on the planted model: who takes turns, what is counted, and correct before fast; never how fast."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.costs import sweeping as costs_of_sweeps
from experiments.costs import tables
from experiments.costs.locating import Locating, Prepared
from experiments.costs.ratios import in_turns, ratio, spread
from experiments.costs.rows import (
    BARE,
    EDIT_TARGET,
    KEDIT,
    NONE,
    OVER,
    RAW,
    Clock,
    Row,
    edit_everywhere,
    edit_one_layer,
    locating,
)
from experiments.costs.sets import CHECKED, SETS_TARGET, WRITTEN, captioning, n_apart, n_different, sets_in
from experiments.costs.ways import (
    RIVALS,
    Task,
    UnavailableError,
    Way,
    checked,
    kedit_edit,
    raw_hooks,
    traces_left,
    unedited,
)
from experiments.costs.workload import Workload, drawn
from kedit.cli.comparison.memory import LiveBytes, peak_bytes
from kedit.edit.edit import active
from kedit.internals.hooks import before
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture, planted, without
from kedit.neurons import NeuronId, NeuronSet

N_NEW = 4
ONCE = Clock(repeats=2, warmup=0)
PICTURES = [picture("one", star=(1, 2)), picture("two", star=(5,), house=(9,)), picture("three", star=(14,))]


@pytest.fixture(scope="module")
def tiny() -> Planted:
    return planted()


@pytest.fixture
def task(tiny: Planted) -> Task:
    """Zero the star neuron."""
    return Task(tiny.model.module, tiny.model.site(), tiny.star, workload(tiny))


@pytest.fixture(scope="module")
def work(tiny: Planted) -> Locating:
    """Find the star in more pairs than fit into one batch."""
    pairs = [without(one, STAR_CONCEPT) for one in PICTURES * 2]
    locator = Locator({"difference": Stage(ActivationDifference(), TopK(2)), "gradcam": Stage(GradCAM(), TopK(1))})
    return Locating(locator, pairs, tiny.model.caption([pair.sample.image for pair in pairs]))


def workload(tiny: Planted) -> Workload:
    return Workload.of(tiny.model, [one.image for one in PICTURES], N_NEW)


def noting(name: str, log: list[str]) -> Callable[[], None]:
    return lambda: log.append(name)


# Taking turns


def test_every_way_has_its_turn_in_every_repetition() -> None:
    log: list[str] = []
    seconds = in_turns({name: noting(name, log) for name in "abc"}, repeats=6, warmup=2)
    rounds = ["".join(log[start : start + 3]) for start in range(0, len(log), 3)]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert [sorted(one) for one in rounds] == [["a", "b", "c"]] * 8
    assert len(set(rounds)) > 1, "the order never changes"


def test_equal_seeds_give_equal_orders() -> None:
    logs: list[list[str]] = [[], []]
    for log in logs:
        in_turns({name: noting(name, log) for name in "abc"}, repeats=5, seed=3)
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("settings", "found"),
    [({"repeats": 0}, "got 0"), ({"repeats": 1, "warmup": -1}, "-1"), ({"repeats": 1, "clock": "sun"}, "'sun'")],
)
def test_a_setting_out_of_range_is_refused_with_its_value(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        in_turns({"a": lambda: None}, **settings)


def test_the_ratio_of_times_to_themselves_is_one() -> None:
    same = ratio([1.0, 2.0, 5.0], [1.0, 2.0, 5.0])
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)


def test_a_ratio_is_taken_repetition_by_repetition() -> None:
    # The machine is ten times slower in the second repetition: both ways suffer, and the ratio does not.
    slowed = ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0])
    assert (slowed.value, slowed.low, slowed.high) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_ratio_holds_its_value_and_stays_within_what_was_seen() -> None:
    found = ratio([1.0, 1.2, 0.9, 1.1, 3.0], [1.0] * 5)
    assert 0.9 <= found.low <= found.value <= found.high <= 3.0
    assert found.value == 1.1


def test_quartiles_lie_around_the_median() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0)


# Live bytes


def test_bytes_count_until_their_tensor_is_freed() -> None:
    with LiveBytes() as counted:
        kept = torch.zeros(1000)
        torch.zeros(500)
        again = torch.zeros(500)
    assert (counted.live, counted.peak) == (6000, 6000)
    del kept, again
    assert (counted.live, counted.peak) == (0, 6000)


def test_views_and_changes_in_place_count_nothing() -> None:
    def run() -> None:
        one = torch.zeros(10, 100)
        one.view(1000)[3:].add_(1)
        one.t()

    assert peak_bytes(run) == 4000


def test_what_was_there_before_counts_nothing() -> None:
    given = torch.zeros(1000)
    assert peak_bytes(lambda: given.view(10, 100).mul_(2)) == 0


def test_activations_kept_for_the_backward_count() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def run(keep: bool) -> None:
        with torch.set_grad_enabled(keep):
            # exp keeps its result for its derivative: three results live at once, or only one and its input.
            weight.exp().exp().exp()

    assert peak_bytes(lambda: run(True)) == 12000
    assert peak_bytes(lambda: run(False)) == 8000


# The neurons that are edited


def test_a_share_of_the_neurons_is_drawn_from_every_layer(tiny: Planted) -> None:
    site = tiny.model.site()
    assert {layer: len(found) for layer, found in drawn(site, 0.25, 0).by_layer().items()} == {0: 2, 1: 2}
    assert {layer: len(found) for layer, found in drawn(site, 0.01, 0).by_layer().items()} == {0: 1, 1: 1}


def test_as_many_neurons_are_drawn_from_one_layer(tiny: Planted) -> None:
    assert {layer: len(found) for layer, found in drawn(tiny.model.site(), 0.25, 0, layer=1).by_layer().items()} == {
        1: 4
    }


@pytest.mark.parametrize(("share", "layer", "found"), [(0.0, None, "0.0"), (1.5, None, "1.5"), (0.9, 1, "has 8")])
def test_a_share_that_cannot_be_drawn_is_refused(tiny: Planted, share: float, layer: int | None, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        drawn(tiny.model.site(), share, 0, layer=layer)


# Correct before fast


def test_the_raw_hook_does_what_the_edit_is_for_and_leaves(task: Task) -> None:
    raw, plain = raw_hooks(task), unedited(task)
    untouched = plain.generate()
    assert not torch.equal(raw.forward(), plain.forward())
    assert not torch.equal(raw.generate(), untouched)
    assert torch.equal(plain.generate(), untouched)


def test_every_row_of_a_generation_gets_the_same_number_of_tokens(task: Task) -> None:
    n_prompt = task.work.inputs["input_ids"].shape[1]
    assert unedited(task).generate().shape == raw_hooks(task).generate().shape == (len(PICTURES), n_prompt + N_NEW)


@pytest.mark.parametrize("layers", [(0,), (0, 1)])
def test_kedit_gives_bit_for_bit_what_raw_hooks_give(tiny: Planted, layers: tuple[int, ...]) -> None:
    neurons = tiny.star | NeuronSet(tuple(NeuronId(layer, 2) for layer in layers))
    task = Task(tiny.model.module, tiny.model.site(), neurons, workload(tiny))
    raw = raw_hooks(task)
    assert set(task.columns) == {task.site.module_path(layer) for layer in layers}
    assert checked(task, kedit_edit, raw).generate().equal(raw.generate())


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_gives_bit_for_bit_what_the_raw_hook_gives(task: Task, name: str) -> None:
    pytest.importorskip(name)
    way, raw = checked(task, RIVALS[name], raw_hooks(task)), raw_hooks(task)
    # Again, since a rival may be right only once: pyvene deletes hooks that the second call needs.
    assert torch.equal(way.forward(), raw.forward())
    assert torch.equal(way.generate(), raw.generate())


@pytest.mark.slow
@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_leaves_the_model_that_the_others_use_alone(task: Task, name: str) -> None:
    pytest.importorskip(name)
    weights = {path: one.requires_grad for path, one in task.module.named_parameters()}
    forwards = {path: one.__dict__.get("forward") for path, one in task.module.named_modules()}
    RIVALS[name](task).forward()
    assert {path: one.requires_grad for path, one in task.module.named_parameters()} == weights
    assert {path: one.__dict__.get("forward") for path, one in task.module.named_modules()} == forwards


def test_a_way_that_does_something_else_is_refused(task: Task) -> None:
    with pytest.raises(UnavailableError, match=r"logits differ from the raw hook's by up to \d"):
        checked(task, unedited, raw_hooks(task))


def test_a_way_that_fails_is_refused_with_its_reason(task: Task) -> None:
    def broken() -> Tensor:
        raise KeyError("no such layer")

    with pytest.raises(UnavailableError, match="KeyError: 'no such layer'"):
        checked(task, lambda _: Way(broken, broken), raw_hooks(task))


def test_an_edit_that_is_over_has_left_nothing(task: Task) -> None:
    assert traces_left(task) == []


def test_what_an_edit_would_leave_is_found(task: Task) -> None:
    attached: list[Any] = []

    def leave(*_: object) -> None:
        if active(task.module):
            attached.append(task.module.lm_head.register_forward_pre_hook(lambda *_: None))

    with before(task.module, "model.language_model", leave):
        found = traces_left(task)
    attached[0].remove()
    assert found == ["lm_head"]


# The rows


def test_an_edit_of_every_layer_is_compared_with_raw_hooks_and_with_none(tiny: Planted) -> None:
    task = Task(tiny.model.module, tiny.model.site(), drawn(tiny.model.site(), 0.2, 0), workload(tiny))
    rows = {row.way: row for row in edit_everywhere(task, ONCE)}
    assert [*rows] == [NONE, OVER, RAW, KEDIT]
    assert (rows[KEDIT].against, rows[KEDIT].target) == (RAW, EDIT_TARGET)
    assert (rows[OVER].against, rows[OVER].note) == (NONE, "nothing is registered")
    assert all(
        row.median and row.quartiles and row.quartiles[0] <= row.median <= row.quartiles[1] for row in rows.values()
    )


def test_a_rival_that_is_not_there_is_a_row_that_says_so(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.costs.ways.find_spec", lambda name: None)
    rows = edit_one_layer(task, list(RIVALS), ONCE)
    absent = [row for row in rows if row.way in RIVALS]
    assert [row.way for row in absent] == [*RIVALS, *RIVALS], "one row for the forward pass, one for the generation"
    assert all(row.median is None and "is not installed" in row.note for row in absent)
    assert all(row.median is not None for row in rows if row not in absent)


def test_locating_reads_the_same_pictures_as_its_bare_passes(tiny: Planted, work: Locating) -> None:
    def decoded(run: Callable[[Any], object]) -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        with before(
            tiny.model.module, "model.language_model", lambda _, given: seen.append(tuple(given["inputs_embeds"].shape))
        ):
            run(tiny.model)
        return sorted(seen)

    bare = decoded(work.bare)
    assert len(bare) == 4, "two batches, two forwards each"
    assert decoded(work.with_kedit) == bare


def test_the_bare_backward_reaches_the_first_layer(tiny: Planted, work: Locating) -> None:
    gradients = work.bare(tiny.model)
    assert [len(one) for one in gradients] == [4, 2]
    assert all(one[..., tiny.star.ids[0].index].abs().max() > 0 for one in gradients)


def test_the_bare_passes_leave_no_hook(tiny: Planted, work: Locating) -> None:
    work.bare(tiny.model)
    path = tiny.model.site().module_path(0)
    assert not tiny.model.module.get_submodule(path)._forward_pre_hooks


def test_prepared_pictures_are_read_once_and_change_no_score(tiny: Planted, work: Locating) -> None:
    prepared: Any = Prepared(tiny.model)
    first, again, direct = work.with_kedit(prepared), work.with_kedit(prepared), work.with_kedit(tiny.model)
    assert len(prepared.batches) == 4
    for stage in direct:
        assert torch.equal(first[stage].values, direct[stage].values)
        assert torch.equal(again[stage].values, direct[stage].values)


def test_locating_is_compared_in_time_and_in_memory(tiny: Planted, work: Locating) -> None:
    rows = locating(tiny.model, work, ONCE)
    assert [(row.way, row.unit) for row in rows] == [(BARE, "ms"), (KEDIT, "ms")] * 2 + [(BARE, "MB"), (KEDIT, "MB")]
    bare, ours = rows[-2:]
    assert bare.median is not None and ours.median is not None and ours.ratio is not None
    assert ours.ratio.value == pytest.approx(ours.median / bare.median)
    assert ours.ratio.value > 1, "scores take memory"


# Many neuron sets


def test_captions_under_many_sets_are_the_same_whether_written_or_checked(tiny: Planted, work: Locating) -> None:
    images = [one.image for one in PICTURES]
    plain, ours = captioning(tiny.model, work, images, 4, ONCE)
    assert (plain.way, ours.way) == (WRITTEN, CHECKED)
    assert "2 located sets" in plain.note
    assert "2 random ones" in plain.note
    assert ours.note == f"0 of 12 captions differ from {WRITTEN}"
    assert (plain.against, ours.against, ours.target) == (None, WRITTEN, SETS_TARGET)


def test_half_of_the_sets_are_located_and_the_others_match_them(tiny: Planted, work: Locating) -> None:
    located, random = sets_in(tiny.model, work, 3, seed=0)
    assert (len(located), len(random)) == (2, 1)
    assert tiny.star.ids[0] in located[0].ids
    assert not set(random[0].ids) & set(located[0].ids)
    assert {layer: len(some) for layer, some in random[0].by_layer().items()} == {
        layer: len(some) for layer, some in located[0].by_layer().items()
    }


def test_captions_that_differ_are_counted() -> None:
    one, other = Generated("a", (1,)), Generated("b", (2,))
    assert n_different([one, other, one], [one, one, one]) == 1
    assert n_apart([[one], [other]], [[other], [one]]) == 2


# The tables


ROWS = [
    Row("generate", RAW, "ms", 10.0, (9.0, 11.0)),
    Row("generate", KEDIT, "ms", 10.2, (9.5, 11.0), ratio([1.02, 1.02], [1.0, 1.0]), RAW, 1.05),
    Row("generate", "nnsight", note="`nnsight` is not installed"),
    Row("locate", KEDIT, "ms", 13.0, (12.0, 14.0), ratio([1.3], [1.0]), BARE, 1.15),
]
ABOUT = {"model": "planted", "repetitions": "2"}


def test_a_target_is_met_or_missed_or_there_is_none() -> None:
    assert [row.met for row in ROWS] == [None, True, None, False]


def test_the_table_says_which_target_is_missed_and_who_is_absent() -> None:
    text = tables.markdown(ROWS, ABOUT)
    assert "| kedit | 10.2 (9.5-11) ms | 1.020 | raw hook | 1.05 met |" in text
    assert "| nnsight | - | - |  |  |" in text
    assert "- nnsight: `nnsight` is not installed" in text
    assert "1.15 missed" in text
    assert text.count("### ") == 2
    assert "model planted, repetitions 2." in text


def test_the_terminal_shows_the_same_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    tables.show(ROWS, ABOUT)
    shown = capsys.readouterr().out
    assert all(cell in shown for row in ROWS for cell in tables.cells(row) if cell)


def test_the_data_survives_json() -> None:
    data = json.loads(json.dumps(tables.plain(ROWS, ABOUT)))
    assert [row["met"] for row in data["rows"]] == [None, True, None, False]
    assert data["rows"][1]["ratio"]["value"] == pytest.approx(1.02)


def test_the_surroundings_name_the_model_and_the_versions(tiny: Planted) -> None:
    about = tables.surroundings(tiny.model, ONCE)
    assert about["model"].startswith("planted (")
    # The index's builds call themselves `2.7.0+cu126` and are listed as `2.7.0`.
    assert about["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert about["repetitions"] == "2"


# The command


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("rivals=[baukit]", "`rivals` may name nnsight, pyvene, got `baukit`"),
        ("clock=sun", "`clock` is one of wall, cpu, got `sun`"),
        ("repeats=0", "`repeats` is a whole number, 1 or more; got 0"),
        ("parts=[edits,bats]", "`parts` names some of edits, locating, sets, sweep, got ['bats']"),
        ("parts=[]", "`parts` names some of edits, locating, sets, sweep, got none"),
        ("sets=1", "`sets` is a whole number, 2 or more; got 1"),
        ("repeat=3", "repeat"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    word: str, message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.costs import run as bench

    monkeypatch.setattr(sys, "argv", ["run.py", word, f"hydra.run.dir={tmp_path}"])
    assert bench.main() == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert "Traceback" not in error


def test_a_sweep_is_held_against_runs_alone_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def obey(words: Sequence[str], store: Path, clock: str) -> float:
        """Leave the files that a command would, of which job 1 differs alone, and take a second for it."""
        commands.append(list(words))
        folder = Path(words[-1].partition("dir=")[2])
        if "-m" in words:
            folder.mkdir(exist_ok=True)
            (folder / "sweep.json").write_text(json.dumps({"jobs": [["seed=0"], ["seed=1"]]}))
        for job in [folder / "0", folder / "1"] if "-m" in words else [folder] if "store=null" in words else []:
            job.mkdir(parents=True, exist_ok=True)
            differs = "store=null" in words and job.name == "1"
            (job / "report.json").write_text("other" if differs else "the same")
            (job / "neurons.json").write_text("[]")
        return 1.0

    monkeypatch.setattr(costs_of_sweeps, "_seconds", obey)
    alone, whole, _ = costs_of_sweeps.sweeping(tmp_path, ["seed=0,1"], singles=2, seed=0)
    assert len(commands) == 5
    assert "1 of their files differ from the sweep's" in str(alone.note)
    assert whole.ratio is not None
    assert whole.ratio.value == 0.5
