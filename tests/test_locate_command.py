"""`kedit locate`: what it leaves, alone and in shards, and what it says of what went wrong."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import pytest

import experiments.locate as recipe
from kedit.data.scenes import Scenes
from kedit.neurons import NeuronSet, load_scores
from kedit.samples import find_concept

ROOT = Path(__file__).resolve().parent.parent
SAME = ("scores.safetensors", "neurons.json", "locate.json")
"""Files that are a function of what was asked, however it was shared out."""


class Finished(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


Command = Callable[..., Finished]


@pytest.fixture
def kedit_locate(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run `kedit locate WORDS` in this process, with few samples, in the folder of the test."""

    def call(*words: str, samples: int = 3) -> Finished:
        monkeypatch.setattr(sys, "argv", ["kedit locate", *words, f"samples={samples}"])
        capsys.readouterr()
        with chdir(tmp_path):
            code = recipe.main()
        return Finished(code, *capsys.readouterr())

    return call


def in_new_processes(*words: str, folder: Path, program: tuple[str, ...] = ("-m", "kedit")) -> Finished:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *program, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return Finished(done.returncode, done.stdout, done.stderr)


def assert_same(found: Path, expected: Path) -> None:
    for name in SAME:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_one_job_leaves_what_it_found_and_says_it(kedit_locate: Command, tmp_path: Path) -> None:
    done, out = kedit_locate("concept=star", "hydra.run.dir=out"), tmp_path / "out"
    assert (done.code, done.err) == (0, "")
    report = json.loads((out / "locate.json").read_text())
    samples = Scenes().split(find_concept(Scenes().concepts, "star"), locate=3, target=1, retention=0, seed=0).locate
    neurons = NeuronSet.load(out / "neurons.json")
    assert report["samples"]["ids"] == [one.id for one in samples]
    assert report["neurons"]["count"] == len(neurons) == report["stages"]["gradcam"]["count"] > 0
    assert report["stages"]["gradcam"]["select"] == "Quantile(q=0.9, of_max=0.2, at_most=None)"
    assert report["cost"] == {"forwards": 6, "backwards": 3}
    scores = load_scores(out / "scores.safetensors")
    assert scores["difference"].values.max().item() == report["stages"]["difference"]["highest"]
    assert set(json.loads((out / "timing.json").read_text())) == {"locate_seconds", "seconds"}
    assert (out / "figures" / "layers.png").is_file()
    assert not (out / "part.safetensors").exists()
    assert (out / "STATUS").read_text() == "done\n"
    assert "`star` in scenes by two_stage: 3 samples" in done.out
    assert f"neurons: {len(neurons)} (" in done.out


def test_shards_of_a_sweep_merge_into_what_one_job_leaves(kedit_locate: Command, tmp_path: Path) -> None:
    assert kedit_locate("concept=star", "hydra.run.dir=one").code == 0
    done = kedit_locate("-m", "concept=star", "shard.count=4", "shard.index=range(0,4)", "hydra.sweep.dir=sweep")
    assert (done.code, done.err) == (0, "")
    sweep = tmp_path / "sweep"
    assert_same(sweep / "merged", tmp_path / "one")
    assert (sweep / "merged" / "figures" / "layers.png").is_file()
    assert len(list(sweep.glob("*/part.safetensors"))) == 4
    assert "shard 3 of 4: 0 samples of `star` scored" in done.out


def test_a_shard_that_is_missing_is_named_and_merged_once_it_is_there(kedit_locate: Command, tmp_path: Path) -> None:
    words = ("concept=star", "shard.count=3", "model.batch_size=2")
    done = kedit_locate("-m", *words, "shard.index=0,2", "hydra.sweep.dir=sweep")
    assert done.code == 1
    assert "of 3 shards 1 are missing: 1; score them with `shard.count=3 shard.index=1`" in done.err
    assert (tmp_path / "sweep" / "merged" / "STATUS").read_text().startswith("failed: PartError: of 3 shards 1")
    assert kedit_locate(*words, "shard.index=1", "hydra.run.dir=sweep/late").code == 0
    done = kedit_locate("merge=sweep", "hydra.run.dir=merging")
    assert (done.code, done.err) == (0, "")
    assert kedit_locate("concept=star", "hydra.run.dir=one").code == 0
    assert_same(tmp_path / "sweep" / "merged", tmp_path / "one")


def test_a_sweep_over_concepts_in_shards_is_merged_for_each(kedit_locate: Command, tmp_path: Path) -> None:
    words = ("concept=star,house", "shard.count=2", "shard.index=0,1")
    done = kedit_locate("-m", *words, "hydra.sweep.dir=sweep", samples=2)
    assert (done.code, done.err) == (0, "")
    for concept in ("star", "house"):
        (found,) = (tmp_path / "sweep" / "merged").glob(f"*concept={concept}*")
        assert json.loads((found / "locate.json").read_text())["concept"] == concept


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("shard.index=2", "shard.count=2"), 2, "got 2 of 2"),
        (("shard.count=0",), 2, "`shard.count` is a whole number, 1 or more; got 0"),
        (("merge=nowhere",), 2, "`merge` is the folder of a sweep whose parts are merged; got `nowhere`"),
        (("merge=.",), 2, "there is no part to merge in `.`"),
        (("locate=nam", "shard.count=2"), 2, "stage `nam` has to see all samples at once"),
    ],
)
def test_what_cannot_be_is_one_line(kedit_locate: Command, words: tuple[str, ...], code: int, message: str) -> None:
    done = kedit_locate(*words, "hydra.run.dir=out")
    assert done.code == code
    assert message in done.err
    assert done.err.count("\n") == 1


@pytest.mark.slow
def test_torchrun_shares_the_samples_out_and_leaves_what_one_job_leaves(tmp_path: Path) -> None:
    assert in_new_processes("locate", "concept=star", "hydra.run.dir=one", folder=tmp_path).code == 0
    together = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "kedit")
    done = in_new_processes("locate", "concept=star", "hydra.run.dir=two", folder=tmp_path, program=together)
    assert done.code == 0, done.err
    assert_same(tmp_path / "two" / "merged", tmp_path / "one")
    assert sorted(one.name for one in (tmp_path / "two").iterdir()) == ["0", "1", "merged"]
    for words, message in (
        (("model.path=/nowhere", "hydra.run.dir=bad"), "kedit: rank 1 of 2 failed"),
        (("-m", "seed=0,1"), "torchrun shares the samples out among its processes, so leave out -m"),
    ):
        done = in_new_processes("locate", *words, folder=tmp_path, program=together)
        assert done.code == 1
        assert message in done.err
    assert not (tmp_path / "bad" / "merged").exists()


@pytest.mark.slow
def test_joblib_runs_the_shards_in_processes(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert in_new_processes("locate", "concept=star", "hydra.run.dir=one", folder=tmp_path).code == 0
    words = ("-m", "concept=star", "shard.count=3", "shard.index=range(0,3)", "hydra.sweep.dir=sweep")
    done = in_new_processes("locate", *words, "launch=joblib", folder=tmp_path)
    assert done.code == 0, done.err
    assert_same(tmp_path / "sweep" / "merged", tmp_path / "one")
