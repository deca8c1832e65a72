"""`kedit inpaint`: what it leaves, what it says, and how it fails; and the figure that it draws."""

import json
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

import kedit.cli.inpaint as recipe
from kedit.data.inpaint import MeanFill
from kedit.data.scenes import Scenes
from kedit.samples import find_concept
from tests import tiny_segmenters
from tests.tiny_diffusion import saved


class Finished(NamedTuple):
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture
def kedit_inpaint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Finished]:
    """Run `kedit inpaint WORDS` in this process, into the folder `out`."""

    def call(*words: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["kedit inpaint", "hydra.run.dir=out", *words])
        capsys.readouterr()
        with chdir(tmp_path):
            code = recipe.main()
        return Finished(code, *capsys.readouterr())

    return call


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.array(opened)


def test_a_preview_leaves_every_picture_a_figure_and_where_they_are(
    kedit_inpaint: Callable[..., Finished], tmp_path: Path
) -> None:
    done = kedit_inpaint("concept=house", "inpaint=mean", "inpaint.control=true", "samples=3", "shown=2", "seed=4")
    out = tmp_path / "out"
    assert (done.code, done.err) == (0, "")
    assert "`house` painted out of 3 pictures by mean" in done.out
    for place in (out / "figures" / "counterfactuals.png", out / "pictures"):
        assert str(place.relative_to(tmp_path)) in done.out
        assert place.exists()
    report = json.loads((out / "inpaint.json").read_text())
    assert report["samples"] == {"made": 3, "skipped": {}}
    concept = find_concept(Scenes().concepts, "house")
    samples = Scenes().split(concept, locate=3, target=1, retention=0, seed=4).locate
    for sample, told in zip(samples, report["pictures"], strict=True):
        pair = MeanFill(control=True)(sample, concept)
        assert told["id"] == sample.id
        assert np.array_equal(pixels(out / told["counterfactual"]), np.array(pair.image))
        assert pair.control is not None
        assert np.array_equal(pixels(out / told["control"]), np.array(pair.control))
    assert (out / "STATUS").read_text() == "done\n"


def test_pictures_without_regions_are_painted_where_clipseg_finds_the_concept(
    kedit_inpaint: Callable[..., Finished], tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"sub/{number}.png" for number in range(3)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (40, 56, 3)).astype(np.uint8)).save(folder / name)
    (folder / "pictures.jsonl").write_text(
        "".join(json.dumps({"image": name, "caption": "a", "objects": ["a"]}) + "\n" for name in names)
    )
    words = ("data=folder", f"data.folder={folder}", "concept=a", "samples=2", "inpaint=opencv", "inpaint.dilation=0")
    refused = kedit_inpaint(*words)
    assert refused.code == 2
    assert "has no region for `a`; regions: none; `segment=clipseg` looks for it in the picture" in refused.err
    model = tiny_segmenters.clipseg(tmp_path / "clipseg")
    done = kedit_inpaint(*words, "segment=clipseg", f"segment.path={model}")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "inpaint.json").read_text())
    assert report["samples"]["made"] == 2
    assert all(0 < told["changed"] < 1 for told in report["pictures"])
    assert all(Path(told["counterfactual"]).parent == Path("pictures") for told in report["pictures"])


def test_a_pipeline_that_withholds_every_picture_is_one_line_with_the_count(
    kedit_inpaint: Callable[..., Finished], tmp_path: Path
) -> None:
    pipeline = saved("checked", tmp_path / "pipeline")
    words = (f"inpaint.path={pipeline}", "inpaint.steps=1", f"inpaint.cache={tmp_path / 'cache'}", "samples=2")
    done = kedit_inpaint("inpaint=diffusers", *words)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("kedit: `star` could be painted out of none of 2 pictures: 2 withheld_by_safety_checker")
    assert (tmp_path / "out" / "STATUS").read_text().startswith("failed: ConfigurationError")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("inpaint=diffusers",), "`inpaint.path` has no value"),
        (("inpaint=diffusers", "inpaint.path=/no/such"), "no pipeline folder `/no/such`"),
        (("segment=sam", "segment.path=/no/sam", "inpaint=mean"), "no SamModel in `/no/sam`"),
        (("inpaint=opencv", "inpaint.method=poisson"), "`method` is telea or navier_stokes, got 'poisson'"),
        (("samples=0",), "`samples` is a whole number, 1 or more; got 0"),
        (("concept=strr",), "nearest: star, tree"),
    ],
)
def test_a_wrong_value_is_one_line(kedit_inpaint: Callable[..., Finished], words: tuple[str, ...], part: str) -> None:
    done = kedit_inpaint(*words)
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert part in done.err
