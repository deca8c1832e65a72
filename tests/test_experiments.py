"""The main job through its command line: what it leaves, what it says, and how it fails."""

import errno
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from PIL import Image

import kedit
import kedit.cli.run as recipe
from kedit import __version__, cli
from kedit.cli import jobs as commands
from kedit.cli import sharing
from kedit.models import loading
from kedit.models.shipped import HERE
from kedit.neurons import NeuronSet, load_scores
from kedit.pipelines import outputs
from tests.wandb_reader import offline_run

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("evaluate.locate=4", "evaluate.target=6", "evaluate.retention=3", "evaluate.controls=2")
TINY = ("evaluate.locate=2", "evaluate.target=2", "evaluate.retention=1", "evaluate.controls=1", "evaluate.text=false",
        "figures=false")  # fmt: skip
LEAST = (
    "evaluate.locate=1",
    "evaluate.target=1",
    "evaluate.retention=0",
    "evaluate.controls=0",
    "evaluate.text=false",
    "figures=false",
    "page=false",
)
FILES = {
    ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "kedit.log", "STATUS", "scores.safetensors",
    "neurons.json", "neurons.csv", "captions.jsonl", "report.json", "report.md", "timing.json",
    "report.html", "page.json",
    "figures/layers.png", "figures/scores.png", "figures/heatmaps.png",
    "figures/before_after.png", "figures/effects.png",
}  # fmt: skip
NO_SHARE = ("logprob_drop", "logodds_drop", "difference", "M-generality teacher-forced")
"""Measured values that are not shares: three in nats, one a difference."""


@dataclass(frozen=True)
class Finished:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on standard error."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def kedit_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Finished]:
    """Run `kedit run WORDS` in `tmp_path`, in this process; a single job's folder is `out`."""

    def call(*words: str) -> Finished:
        where = [] if "-m" in words else ["hydra.run.dir=out"]
        monkeypatch.setattr(sys, "argv", ["kedit run", *where, *words])
        capsys.readouterr()
        with chdir(tmp_path):
            code = recipe.main()
        printed = capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """One good run that all tests of its files share, and where it lies."""
    folder = tmp_path_factory.mktemp("good")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kedit run", "hydra.run.dir=out", "concept=star", *SMALL])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        with chdir(folder):
            code = recipe.main()
    return folder / "out", Finished(code, out.getvalue(), err.getvalue())


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def status(folder: Path) -> str:
    return (folder / "STATUS").read_text()


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def measured(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every measured value of a report under its path."""
    if isinstance(node, dict):
        if "value" in node:
            yield path, node
        else:
            for key, inner in node.items():
                yield from measured(inner, f"{path}/{key}".strip("/"))


# What a good run leaves and says


def test_a_notebook_finds_in_the_store_what_a_command_left(
    good: tuple[Path, Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model was run again")

    model = kedit.load("scenes")
    for name in ("ask", "caption", "logits"):
        monkeypatch.setattr(type(model), name, refuse)
    counts = kedit.Counts(**{key.removeprefix("evaluate."): int(n) for key, n in (one.split("=") for one in SMALL)})
    result = kedit.run(model, kedit.Scenes(), "star", counts=counts, store=os.environ["KEDIT_STORE"])
    assert result.to_json() == report_of(good[0])


def test_a_run_leaves_what_the_design_lists_and_nothing_else(good: tuple[Path, Finished]) -> None:
    folder, done = good
    assert (done.code, done.err) == (0, "")
    assert files_in(folder) == FILES
    assert status(folder) == "done\n"
    log = (folder / "kedit.log").read_text()
    assert f"kedit {__version__}, overrides: concept=star" in log
    assert log.rstrip().endswith("done")


def test_the_figures_open_and_have_a_picture_in_them(good: tuple[Path, Finished]) -> None:
    for path in (good[0] / "figures").glob("*.png"):
        with Image.open(path) as figure:
            assert min(figure.size) > 200
            assert len(set(figure.convert("L").resize((64, 64)).tobytes())) > 10


def test_the_report_keeps_the_contract(good: tuple[Path, Finished]) -> None:
    report = report_of(good[0])
    assert report["kedit"] == __version__
    chosen = {key: report[key] for key in ("concept", "model", "locator", "operator")}
    assert chosen == {"concept": "star", "model": "scenes", "locator": "two_stage", "operator": "Zero()"}
    assert report["neurons"]["count"] == sum(report["neurons"]["by_layer"].values()) > 0
    assert report["neurons"]["share"] == report["neurons"]["count"] / 2048
    assert {"mention_drop", "substitutions", "bleu", "rougeL", "bertscore"} <= set(report["suppression"])
    assert {"objects", "others", "text", "bleu", "rougeL", "bertscore"} <= set(report["retention"])
    assert report["samples"] == {
        "located": 4,
        "skipped": {"counterfactual_names_it": 0, "caption_does_not_name_it": 0},
        "target": 6,
        "retention": 6,
        "text": {"right_before": 48, "wrong_before": 0, "no_right_answer_known": 0},
    }
    assert report["cost"] == {"forwards": 2 * 4, "backwards": 4}
    timing = json.loads((good[0] / "timing.json").read_text())
    assert timing["seconds"] > timing["locate_seconds"] > 0
    assert report["control"]["seeds"] == 2
    assert report["encoder"] == "scenes, hidden state -1 of its language model"


def test_every_measured_value_is_a_share_with_its_interval_or_says_why_there_is_none(
    good: tuple[Path, Finished],
) -> None:
    values = dict(measured(report_of(good[0])))
    assert len(values) > 40
    for path, one in values.items():
        assert {"value", "low", "high", "n"} <= set(one), path
        if one["value"] is None:
            assert one["why"], path
        elif path.rpartition("/")[2] not in NO_SHARE:
            low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
            assert 0 <= low <= one["value"] <= high <= 1, path
            assert one["n"] > 0, path


def test_the_model_loses_the_star_and_a_random_edit_does_not(good: tuple[Path, Finished]) -> None:
    report = report_of(good[0])
    assert report["suppression"]["mention_drop"]["value"] >= 0.9
    assert report["control"]["suppression"]["mention_drop"]["value"] <= 0.1
    assert report["retention"]["overall"]["value"] >= 0.8
    assert report["verdict"].startswith("The edit suppresses `star` beyond its layer-matched random control")


def test_the_table_in_the_terminal_says_what_the_report_says(good: tuple[Path, Finished]) -> None:
    folder, done = good
    report, said = report_of(folder), " ".join(done.out.split())
    drop = report["suppression"]["mention_drop"]
    assert f"{drop['value']:.2f} [{drop['low']:.2f}, {drop['high']:.2f}]" in said
    assert f"Zero() of {report['neurons']['count']} neurons" in said
    assert report["verdict"] in said
    assert said.count("before: ") == said.count("after: ") == 3
    assert f"files: {folder}" in said


def test_the_page_shows_the_verdict_captions_and_every_figure(good: tuple[Path, Finished]) -> None:
    page = (good[0] / "report.md").read_text()
    assert page.startswith("# star in scenes\n")
    assert report_of(good[0])["verdict"] in page
    for path in (good[0] / "figures").glob("*.png"):
        assert f"![{path.stem}](figures/{path.name})" in page


def test_the_saved_neurons_are_those_the_saved_scores_select(good: tuple[Path, Finished]) -> None:
    folder, report = good[0], report_of(good[0])
    neurons, scores = NeuronSet.load(folder / "neurons.json"), load_scores(folder / "scores.safetensors")
    assert len(neurons) == report["neurons"]["count"]
    assert list(scores) == ["difference", "gradcam"]
    assert scores["gradcam"].values.shape == (4, 512)
    assert set(neurons) <= set(scores["gradcam"].ranking()[:200])


def test_captions_are_there_for_each_sample_and_question(good: tuple[Path, Finished]) -> None:
    rows = [json.loads(line) for line in (good[0] / "captions.jsonl").read_text().splitlines()]
    groups = [row["group"] for row in rows]
    assert {group: groups.count(group) for group in ("target", "near", "far")} == {"target": 6, "near": 3, "far": 3}
    assert all(set(row) == {"id", "group", "before", "after"} for row in rows)
    named = [row for row in rows if row["group"] == "target" and "star" in row["before"]]
    assert len(named) == report_of(good[0])["suppression"]["mention_drop"]["n"]


def test_the_same_seed_gives_the_same_report_and_the_tracker_mirrors_it(
    good: tuple[Path, Finished], kedit_run: Callable[..., Finished], tmp_path: Path
) -> None:
    done = kedit_run("concept=star", *SMALL, "tracker=wandb", "store=null")
    assert (done.code, done.err) == (0, "")
    again = report_of(tmp_path / "out")
    for name in ("report.json", "report.md", "captions.jsonl", "neurons.json", "scores.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (good[0] / name).read_bytes(), name

    (kept,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    assert done.out.splitlines()[-1] == f"W&B: kept offline; to upload it: wandb sync {kept}"
    mirror = offline_run(tmp_path / "out")
    assert mirror["exit"] == 0
    assert mirror["config"]["concept"] == "star"
    assert mirror["config"]["evaluate"]["target"] == 6
    drop = again["suppression"]["mention_drop"]
    assert mirror["summary"]["suppression/mention_drop"] == drop["value"]
    assert mirror["summary"]["suppression/mention_drop/low"] == drop["low"]
    assert mirror["summary"]["neurons.nrows"] == again["neurons"]["count"]
    assert mirror["summary"]["captions.nrows"] == len((tmp_path / "out" / "captions.jsonl").read_text().splitlines())
    (files,) = (tmp_path / "out").glob("wandb/offline-run-*/files")
    for name in ("layers", "scores", "heatmaps", "before_after", "effects"):
        picture = files / mirror["summary"][f"{name}.path"]
        assert picture.read_bytes() == (tmp_path / "out" / "figures" / f"{name}.png").read_bytes()


def test_a_stage_that_keeps_nothing_leaves_a_finished_run_that_says_so(
    kedit_run: Callable[..., Finished], tmp_path: Path
) -> None:
    done = kedit_run(*TINY[:-1], "locate.stages.gradcam.select.at_most=0")
    assert done.code == 0
    assert "stage `gradcam` keeps no neuron" in done.line
    assert "its highest score is" in done.line
    report = report_of(tmp_path / "out")
    assert (report["neurons"]["count"], report["neurons"]["by_layer"]) == (0, {})
    assert report["suppression"]["mention_drop"]["value"] == 0
    assert report["verdict"] == (
        "No evidence that the edit suppresses `star`: no neuron was located, so nothing was edited (0 neurons)."
    )
    assert report["heat_maps"] == {"why": "no neuron was located"}
    assert "no neuron was located" in " ".join(done.out.split())
    assert status(tmp_path / "out") == "done\n"
    assert files_in(tmp_path / "out") == FILES - {"figures/heatmaps.png"}


def test_a_run_without_retention_samples_or_control_says_what_it_lacks(
    kedit_run: Callable[..., Finished], tmp_path: Path
) -> None:
    done = kedit_run(*LEAST)
    assert (done.code, done.err) == (0, "")
    report = report_of(tmp_path / "out")
    assert report["retention"]["bleu"] == {
        "value": None, "low": None, "high": None, "n": 0, "why": "the evaluation set has no sample without the concept"
    }  # fmt: skip
    assert report["control"]["suppression"]["mention_drop"]["why"] == "no random control was run"
    assert "no random control was run beside it" in report["verdict"]


# What is wrong with the command is said in one line, before anything slow happens


def fails(done: Finished, code: int, *parts: str) -> None:
    """Check the exit code and that one line says all `parts`."""
    assert (done.code, done.out) == (code, "")
    assert done.line.startswith("kedit: ")
    for part in parts:
        assert part in done.line


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if a model is loaded."""

    # A name of kedit's, or it would be refused as a foreign `_target_`.
    @wraps(loading.load)
    def load(**options: Any) -> None:
        raise AssertionError(f"a model is loaded: {options}")

    monkeypatch.setattr(loading, "load", load)


WRONG_VALUES = {
    ("concept=strr",): ("no concept `strr`", "nearest: star, tree"),
    ("concept=spaceship",): ("no concept `spaceship`", "there are arrow, circle,"),
    ("locate.stages.gradcam.select.q=1.5",): ("`locate.stages.gradcam.select`", "`q` is", "between 0 and 1, got 1.5"),
    ("locate=gradcam", "locate.stages.gradcam.select.k=-1"): ("`k` is a number of neurons", "got -1"),
    ("locate.site=nowhere",): ("`locate`", "`site` is one of mid, act, pre, got 'nowhere'"),
    ("locate.scope=nowhere",): ("`locate`", "`scope` is one of language, vision", "got 'nowhere'"),
    ("locate=causal_effect", "locate.scope=vision"): ("`locate`", "cannot score neurons of scope `vision`"),
    ("locate.scope=vision", "edit.positions=image"): ("mean the language model's sequence", "of scope `vision`"),
    ("locate.scope=vision", "edit=patch"): ("a reference is measured in the language model",),
    ("locate.target.value=guess",): ("`locate.target`", "logit, logprob, prob, margin, got 'guess'"),
    ("edit.positions=moon",): ("`positions` is one of all, image, text, image_end, last, got 'moon'",),
    ("edit=scale", "edit.operator.factor=x"): ("`edit.operator`", "`factor`", "got 'x'"),
    ("inpaint=mean", "inpaint.dilation=-1"): ("`inpaint`", "`dilation`", "got -1"),
    ("inpaint=diffusers", "inpaint.path=/no/pipeline"): ("no pipeline folder `/no/pipeline`", "`model_index.json`"),
    ("inpaint=mean", "segment=sam", "segment.path=/no/sam"): ("no SamModel in `/no/sam`", "`segment.download=true`"),
    ("data.colors=some",): ("`data`", "`colors` is `distinct` or `free`, got 'some'"),
    ("tracker=wandb", "tracker.mode=loud"): ("`tracker`", "offline, online, disabled; got 'loud'"),
    ("evaluate.target=0",): ("`evaluate.target` is a whole number, 1 or more; got 0",),
    ("evaluate.target=2.5",): ("`evaluate.target` is a whole number", "got 2.5"),
    ("threads=-1",): ("`threads` is a whole number, 1 or more or null; got -1",),
    ("seed=-1",): ("`seed` is a whole number, 0 or more; got -1",),
    ("evaluate.encoder={_target_: kedit.models.encoder.FolderEncoder, path: /no/bert, layer: 9}",): ("`/no/bert`",),
    ("model=huggingface",): ("`model.path` has no value; give it as `model.path=...`",),
    ("edit.operator._target_=os.system",): ("`_target_` must start with `kedit.`, got `os.system`",),
    ("edit.operator._target_=kedit.results.run_folder.os.system",): (
        "`_target_` must start with",
        "got `kedit.results.run_folder.os.system`",
    ),
    ("edit.operator._target_=kedit.edit.operators.Zeroes",): ("no `_target_` `kedit.edit.operators.Zeroes`",),
    ("+edit.operator.extra=1",): ("`edit.operator`", "unexpected keyword argument 'extra'"),
}


@pytest.mark.parametrize(("words", "parts"), WRONG_VALUES.items(), ids=" ".join)
def test_a_wrong_value_is_named_before_the_model_is_loaded(
    words: tuple[str, ...], parts: tuple[str, ...], kedit_run: Callable[..., Finished], no_model: None, tmp_path: Path
) -> None:
    done = kedit_run(*words)
    fails(done, 2, *parts)
    assert status(tmp_path / "out").startswith("failed: ConfigurationError: ")
    assert "Traceback" in (tmp_path / "out" / "kedit.log").read_text()
    left = {name for name in files_in(tmp_path / "out") if not name.startswith(".hydra/")}
    assert left == {"STATUS", "kedit.log"}


WRONG_KEYS = {
    ("edit=zer",): ("no `edit=zer`", "options of `edit`: amplify, none, patch, scale, zero"),
    ("locate.stages.gradcam.select.qq=1",): ("`locate.stages.gradcam.select.qq`", "`locate.stages.gradcam.select.q`"),
    ("concpt=star",): ("no key `concpt`; nearest: `concept`",),
    ("evaluate.samples=9",): ("no key `evaluate.samples`; keys there: `evaluate.locate`, `evaluate.target`",),
    ("edit.operator.factor=2",): ("no key `edit.operator.factor`",),
    ("concept", "star"): ("cannot read `concept`", "write `key=value`"),
    ("concept=a=[",): ("cannot read `concept=a=[`",),
}


@pytest.mark.parametrize(("words", "parts"), WRONG_KEYS.items(), ids=" ".join)
def test_a_wrong_key_is_named_and_nothing_is_written(
    words: tuple[str, ...], parts: tuple[str, ...], kedit_run: Callable[..., Finished], tmp_path: Path
) -> None:
    fails(kedit_run(*words), 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["/no/such/model", "./nearby", "hub/never-fetched"])
def test_a_missing_model_is_named_at_once(
    path: str, kedit_run: Callable[..., Finished], good: tuple[Path, Finished], tmp_path: Path
) -> None:
    began = time.perf_counter()
    done = kedit_run("model=huggingface", f"model.path={path}")
    # A search on the hub without a network takes 23 seconds.
    assert time.perf_counter() - began < 15
    fails(done, 2, f"`{path}`", "shipped models: scenes, scenes_draw, scenes_plain")
    assert status(tmp_path / "out").startswith("failed: ConfigurationError: ")


def test_a_broken_model_folder_is_named(kedit_run: Callable[..., Finished], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(HERE / "scenes", broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    fails(kedit_run(f"model.path={broken}"), 2, f"`{broken}` is incomplete or broken")


# What goes wrong in a job is said in one line, and the rest is in its folder


def test_a_concept_that_no_caption_names_fails_with_the_way_out(
    kedit_run: Callable[..., Finished], tmp_path: Path
) -> None:
    done = kedit_run(*TINY, "model.max_new_tokens=1")
    fails(done, 1, "none of the model's 2 captions names `star`", "(`locate.target.on_missing=force`)")
    assert status(tmp_path / "out").startswith("failed: ValueError: none of the model's 2 captions names `star`")
    log = (tmp_path / "out" / "kedit.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "pipelines/locate.py" in log
    assert done.line.endswith(f"; the traceback is in {tmp_path / 'out' / 'kedit.log'}")


def test_interrupting_ends_with_130_and_a_status(
    kedit_run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "edited", interrupted)
    fails(kedit_run(*TINY, "store=null"), 130, "interrupted; to go on: kedit run", "hydra.run.dir=out")
    assert status(tmp_path / "out") == "failed: interrupted\n"
    assert {"scores.safetensors", "neurons.json"} <= files_in(tmp_path / "out")
    assert "report.json" not in files_in(tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_named(
    kedit_run: Callable[..., Finished], tmp_path: Path, no_model: None
) -> None:
    (tmp_path / "taken").write_text("a file")
    done = kedit_run("hydra.run.dir=taken/out")
    fails(done, 1, "taken/out", "Not a directory", "choose another run folder with `hydra.run.dir`")
    assert files_in(tmp_path) == {"taken"}


@pytest.mark.parametrize("written", [0, 2])
def test_a_full_disk_is_named_and_leaves_no_half_file(
    written: int, kedit_run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, flushed = os.fsync, []

    def full(handle: int) -> None:
        flushed.append(handle)
        # A file and its folder are flushed one after the other.
        if len(flushed) > 2 * written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    done = kedit_run(*TINY, "store=null")
    name = "neurons.json" if written else "STATUS"
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith(f"kedit: cannot write `{tmp_path / 'out' / name}`: No space left")
    assert "Traceback" not in done.err
    kept = {"STATUS", "scores.safetensors"} if written else set()
    assert {one for one in files_in(tmp_path / "out") if not one.startswith(".hydra/")} == kept | {"kedit.log"}


def test_a_failure_is_told_to_the_tracker(kedit_run: Callable[..., Finished], tmp_path: Path) -> None:
    assert kedit_run(*TINY, "model.max_new_tokens=1", "tracker=wandb").code == 1
    mirror = offline_run(tmp_path / "out")
    assert mirror["exit"] == 1
    assert mirror["summary"]["failed"].startswith("ValueError: none of the model's 2 captions names `star`")


# Sweeps


def sweep_folders(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in (tmp_path / "multirun").rglob("STATUS"))


def test_a_sweep_runs_each_job_in_its_folder_and_loads_the_model_once(
    kedit_run: Callable[..., Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, load = [], loading.load
    counted = wraps(load)(lambda **options: loads.append(options) or load(**options))
    monkeypatch.setattr(loading, "load", counted)
    sharing.forget("model")
    done = kedit_run("-m", "concept=star,house", "locate.stages.gradcam.select.q=0.9,0.99", *LEAST)
    assert done.code == 0
    folders = sweep_folders(tmp_path)
    assert [folder.name for folder in folders] == ["0", "1", "2", "3"]
    assert [status(folder) for folder in folders] == ["done\n"] * 4
    assert [report_of(folder)["concept"] for folder in folders] == ["star", "star", "house", "house"]
    counts = [report_of(folder)["neurons"]["count"] for folder in folders]
    assert counts[1] <= counts[0]
    assert counts[3] <= counts[2]
    assert len(loads) == 1
    for folder, concept in zip(folders, ["star", "star", "house", "house"], strict=True):
        log = (folder / "kedit.log").read_text()
        assert log.count("overrides: ") == 1
        assert f"overrides: concept={concept}" in log


def test_the_other_jobs_of_a_sweep_survive_one_that_fails(kedit_run: Callable[..., Finished], tmp_path: Path) -> None:
    done = kedit_run("-m", "model.max_new_tokens=1,28", *LEAST)
    assert done.code == 1
    assert done.line.startswith("kedit: job 0 (model.max_new_tokens=1,")
    assert "none of the model's 1 captions names `star`" in done.line
    failed, fine = sweep_folders(tmp_path)
    assert status(failed).startswith("failed: ValueError")
    assert status(fine) == "done\n"


def test_a_sweep_over_wrong_values_names_each_and_is_misuse(kedit_run: Callable[..., Finished]) -> None:
    done = kedit_run("-m", "concept=strr,hose")
    assert done.code == 2
    first, second = done.err.splitlines()
    assert "job 0 (concept=strr): no concept `strr`" in first
    assert "job 1 (concept=hose): no concept `hose`" in second


def test_in_a_worker_process_a_failure_is_raised_for_the_launcher_to_carry_over() -> None:
    def job(settings: DictConfig) -> None:
        raise ValueError(f"no {settings.what}")

    with pytest.raises(ValueError, match="no luck"):
        commands.reported(job)(DictConfig({"what": "luck"}))


# The command


def test_a_process_of_its_own_says_what_is_wrong_and_nothing_else(tmp_path: Path) -> None:
    words = ["-m", "kedit", "run", "concept=strr", "hydra.run.dir=out"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if "kedit.tested" not in line]  # which names the time
    wrong = "no concept `strr` in the data; nearest: star, tree"
    assert (done.returncode, done.stdout, told) == (2, "", [f"kedit: {wrong}"])
    assert status(tmp_path / "out").startswith("failed: ")


def test_help_lists_the_groups_and_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("edit=zero", "Options: amplify, none, patch, scale, zero", "concept=star", "[GROUP=OPTION ...]"):
        assert part in printed


@pytest.mark.slow
def test_a_process_of_its_own_leaves_the_terminal_clean_and_obeys_a_signal(tmp_path: Path) -> None:
    start = [sys.executable, "-m", "kedit", "run"]
    done = subprocess.run(
        [*start, *TINY, "hydra.run.dir=fine"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert status(tmp_path / "fine") == "done\n"

    words = ["hydra.run.dir=cut", "evaluate.target=2000"]
    running = subprocess.Popen([*start, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "cut" / "neurons.json").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    way = shlex.join(["python", *start[1:], "evaluate.target=2000", "hydra.run.dir=cut"])
    assert (running.returncode, err) == (130, f"kedit: interrupted; to go on: {way}\n")
    assert status(tmp_path / "cut") == "failed: interrupted\n"


def test_the_corpus_figures_say_that_the_captions_of_the_concept_changed_most(good: tuple[Path, Finished]) -> None:
    corpus = report_of(good[0])["corpus"]
    assert corpus["target"].keys() == corpus["retention"].keys() >= {"bleu", "rougeL", "bertscore"}
    assert all(corpus["target"][name] < corpus["retention"][name] <= 1 + 1e-9 for name in ("bleu", "rougeL"))


def test_the_operators_act_on_a_fading_concept_as_they_are_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from experiments.operators.run import main

    few = ["located=6", "evaluate.target=12", "strengths=[0.35,1.0]"]  # the first has a new name
    monkeypatch.setattr(sys, "argv", ["run.py", "hydra.run.dir=out", *few])
    with chdir(tmp_path):
        assert main() == 0
    rows = json.loads((tmp_path / "out" / "operators.json").read_text())
    faint = {name: cell["value"] for name, cell in rows["0.35"].items()}
    assert faint["zero"] == faint["patch"] == 0 < faint["scale 0.5"] < faint["none"] <= faint["amplify 2.0"]
    assert rows["1.0"]["none"]["value"] == 1
    with Image.open(tmp_path / "out" / "figures" / "operators.png") as figure:
        assert figure.width > 800
    printed = capsys.readouterr()
    assert "| concept drawn |" in printed.out
    assert "deprecated: `located` is now `evaluate.locate`" in printed.err
