"""`kedit locate`: what it leaves, alone and in shards, and what it says of what went wrong."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import kedit.cli.locate as recipe
from kedit.data.scenes import Scenes
from kedit.neurons import NeuronSet, load_scores
from kedit.samples import find_concept


class Finished(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


PLAIN = ("figures=false", "page=false")
"""For what looks at neither."""


def located(folder: Path, *words: str) -> Finished:
    """Run `kedit locate WORDS` in this process, with three samples, in `folder`."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder), redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["kedit locate", *words, "evaluate.locate=3"])
        code = recipe.main()
    return Finished(code, out.getvalue(), err.getvalue())


@pytest.fixture
def kedit_locate(tmp_path: Path) -> Command:
    """Run `kedit locate WORDS` in the folder of the test."""
    return partial(located, tmp_path)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """What one job leaves and says; nobody changes it."""
    folder = tmp_path_factory.mktemp("one")
    return folder / "out", located(folder, "concept=star", "hydra.run.dir=out")


@pytest.fixture(scope="module")
def four_shards(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """What four shards of the same job leave and say; nobody changes it."""
    folder = tmp_path_factory.mktemp("shards")
    words = ("concept=star", "shard.count=4", "shard.index=range(0,4)", "hydra.sweep.dir=sweep", *PLAIN)
    return folder / "sweep", located(folder, "-m", *words)


def assert_close(found: Path, expected: Path) -> None:
    """Assert that two folders have the same neurons and numbers, and scores to nine places."""
    reports = [json.loads((folder / "locate.json").read_text()) for folder in (found, expected)]
    for stage in reports[0]["stages"].values():
        stage["highest"] = pytest.approx(stage["highest"], abs=1e-9)
    assert reports[0] == reports[1]
    assert (found / "neurons.json").read_bytes() == (expected / "neurons.json").read_bytes()
    mine, others = (load_scores(folder / "scores.safetensors") for folder in (found, expected))
    for name, one in mine.items():
        torch.testing.assert_close(one.values, others[name].values, atol=1e-9, rtol=0)


def test_one_job_leaves_what_it_found_and_says_it(one: tuple[Path, Finished]) -> None:
    out, done = one
    assert (done.code, done.err) == (0, "")
    report = json.loads((out / "locate.json").read_text())
    samples = Scenes().split(find_concept(Scenes().concepts, "star"), locate=3, target=1, retention=0, seed=0).locate
    neurons = NeuronSet.load(out / "neurons.json")
    assert report["samples"]["ids"] == [sample.id for sample in samples]
    assert report["neurons"]["count"] == len(neurons) == report["stages"]["gradcam"]["count"] > 0
    assert report["stages"]["gradcam"]["select"] == "Quantile(q=0.9, of_max=0.2, at_most=None, allow_empty=False)"
    assert report["cost"] == {"forwards": 6, "backwards": 3}
    scores = load_scores(out / "scores.safetensors")
    assert scores["difference"].values.max().item() == report["stages"]["difference"]["highest"]
    assert set(json.loads((out / "timing.json").read_text())) == {"locate_seconds", "seconds"}
    assert (out / "figures" / "layers.png").is_file()
    assert not (out / "shard.json").exists()
    assert (out / "STATUS").read_text() == "done\n"
    assert "`star` in scenes by two_stage: 3 samples" in done.out
    assert f"neurons: {len(neurons)} (" in done.out


def test_shards_merge_into_what_one_job_leaves(
    kedit_locate: Command, tmp_path: Path, one: tuple[Path, Finished], four_shards: tuple[Path, Finished]
) -> None:
    (whole, _), (sweep, done) = one, four_shards
    assert (done.code, done.err) == (0, "")
    assert "shard 0 of 4: 0 samples scored" in done.out
    shards = [f"{sweep}/{number}" for number in (2, 0, 1, 3)]
    for merge, drawn in ((f"merge={sweep}", ()), (f"merge=[{','.join(shards)}]", PLAIN)):
        done = kedit_locate(merge, "hydra.run.dir=merged", "overwrite=true", *drawn)
        assert (done.code, done.err) == (0, "")
        assert_close(tmp_path / "merged", whole)
        assert (tmp_path / "merged" / "figures" / "layers.png").is_file() == (not drawn)
    assert kedit_locate(f"merge={sweep}", "locate=gradcam", "hydra.run.dir=other").code == 2


def test_what_a_shard_without_a_named_sample_skipped_counts(
    kedit_locate: Command, tmp_path: Path, four_shards: tuple[Path, Finished]
) -> None:
    shutil.copytree(four_shards[0], tmp_path / "sweep")
    path = tmp_path / "sweep" / "0" / "shard.json"
    about = json.loads(path.read_text())
    assert load_scores(path.parent / "scores.safetensors") == {}
    about["skipped"] |= {"caption_does_not_name_it": 2, "too_small": 1}
    path.write_text(json.dumps(about))
    assert kedit_locate("merge=sweep", "hydra.run.dir=merged", *PLAIN).code == 0
    skipped = json.loads((tmp_path / "merged" / "locate.json").read_text())["samples"]["skipped"]
    assert (skipped["caption_does_not_name_it"], skipped["too_small"]) == (2, 1)
    scores = load_scores(tmp_path / "merged" / "scores.safetensors")
    assert {one.provenance["skipped"] for one in scores.values()} == {"2"}


def test_merged_scores_can_be_edited_with(kedit_locate: Command, tmp_path: Path, one: tuple[Path, Finished]) -> None:
    """`kedit run scores=` takes them: their samples are in the order of one job."""
    done = kedit_locate("-m", "concept=star", "shard.count=2", "shard.index=0,1", "hydra.sweep.dir=sweep", *PLAIN)
    assert done.code == kedit_locate("merge=sweep", "hydra.run.dir=merged", *PLAIN).code == 0
    merged, whole = (load_scores(folder / "scores.safetensors") for folder in (tmp_path / "merged", one[0]))
    assert {name: scores.provenance for name, scores in merged.items()} == {
        name: scores.provenance for name, scores in whole.items()
    }


def test_a_shard_that_is_missing_is_named_and_merged_once_it_is_there(kedit_locate: Command, tmp_path: Path) -> None:
    words = ("concept=star", "shard.count=3", *PLAIN)
    assert kedit_locate("-m", *words, "shard.index=0,2", "hydra.sweep.dir=sweep").code == 0
    done = kedit_locate("merge=sweep", "hydra.run.dir=merged")
    assert done.code == 2
    assert "each shard is needed once to merge `sweep`; there is 0 of 3, 2 of 3" in done.err
    assert kedit_locate(*words, "shard.index=1", "hydra.run.dir=late").code == 0
    done = kedit_locate("merge=[sweep/0,late,sweep/1]", "hydra.run.dir=merged", *PLAIN)
    assert (done.code, done.err) == (0, "")
    assert json.loads((tmp_path / "merged" / "locate.json").read_text())["samples"]["located"] == 3
    about = json.loads((tmp_path / "late" / "shard.json").read_text())
    why = {"weights": "the model's weights are not", "reading": "prompt are not", "asked": "kedit's version are not"}
    for mark, message in why.items():
        other = about | {"marks": about["marks"] | {mark: "another"}}
        (tmp_path / "late" / "shard.json").write_text(json.dumps(other))
        done = kedit_locate("merge=[sweep/0,late,sweep/1]", "hydra.run.dir=merged", *PLAIN)
        assert (done.code, "do not fit" in done.err, message in done.err) == (2, True, True)
    (tmp_path / "late" / "STATUS").write_text("failed: ValueError\n")
    done = kedit_locate("merge=[sweep/0,late,sweep/1]", "hydra.run.dir=merged", *PLAIN)
    assert (done.code, "the shard in `late` is not done" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("shard.index=2", "shard.count=2"), 2, "got 2 of 2"),
        (("shard.count=0",), 2, "`shard.count` is a whole number, 1 or more; got 0"),
        (("merge=nowhere",), 2, "each shard is needed once to merge `nowhere`; there is none"),
        (("merge=[here,there]",), 2, "each shard is needed once to merge `here, there`; there is none"),
        (("locate=miner", "shard.count=2"), 2, "Miner has to see all samples at once"),
        (("locate=domain_entropy", "shard.count=2"), 2, "stage `domain_entropy` has to see all samples at once"),
    ],
)
def test_what_cannot_be_is_one_line(kedit_locate: Command, words: tuple[str, ...], code: int, message: str) -> None:
    done = kedit_locate(*words, "hydra.run.dir=out")
    assert done.code == code
    assert message in done.err
    assert done.err.count("\n") == 1
