"""`kedit gone` of a finished run: the files beside its report, the table, and what is refused in one line."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

import pytest

import kedit.cli.run as recipe
from kedit.cli import gone
from kedit.models.shipped import HERE
from kedit.results.run_folder import clear

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)
SMALL = ("evaluate.locate=4", "evaluate.target=3", "evaluate.retention=2", "evaluate.controls=1",
         "evaluate.text=false", "figures=false", "page=false")  # fmt: skip
FEW = ("steps=1", "captions=2", "controls=1", "figures=false")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    place = tmp_path_factory.mktemp("asked")
    with pytest.MonkeyPatch.context() as patch, chdir(place):
        patch.setattr(sys, "argv", ["kedit run", "concept=star", "hydra.run.dir=star", *SMALL])
        assert recipe.main() == 0
    return place / "star"


@pytest.fixture
def kedit_gone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call `kedit gone WORDS` in this process; return code, out and err."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kedit gone", *map(str, words)])
        capsys.readouterr()
        code = gone.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_run_is_asked_about_with_its_own_edit_and_its_report_stays(folder: Path, kedit_gone: Command) -> None:
    report = (folder / "report.json").read_bytes()
    code, out, _ = kedit_gone(folder, *FEW)
    assert code == 0
    assert "no never-knew model: not measured" in out
    content = json.loads((folder / "gone.json").read_text())
    assert content["lessons"] == {"pictures": 2, "steps": [0, 1], "rate": 1e-4}
    assert set(content["gone"]) == {"relearning", "round trips", "other questions", "depth", "still seen"}
    named, *_ = content["gone"]["relearning"]
    # Merged and asked as the run asked: what the run's report says of the hook.
    drop = json.loads(report)["suppression"]["mention_drop"]
    assert named["edited"]["value"] == pytest.approx(1 - drop["value"])
    assert named["edited"]["n"] == drop["n"]
    assert (folder / "report.json").read_bytes() == report
    assert (folder / "STATUS").read_text() == "done\n"
    copy = folder.with_name("again")
    shutil.copytree(folder, copy)
    clear(copy)
    assert not (copy / "gone.json").exists()
    assert not (copy / "gone.md").exists()


def test_what_cannot_be_asked_is_told_in_one_line(folder: Path, kedit_gone: Command, tmp_path: Path) -> None:
    wrong: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path,), "is no finished run of `kedit run`"),
        ((folder, "step=3"), "`step=3` is no setting of this command; keys: never_knew, steps"),
        ((folder, "steps=0"), "`steps` is a whole number, 1 or more; got 0"),
        ((folder, "rate=0"), "`rate` is a learning rate above 0"),
        ((folder, "never_knew=/no/where", *FEW), "`never_knew` is the folder of a model; got `/no/where`"),
    ]
    for words, message in wrong:
        code, _, err = kedit_gone(*words)
        assert (code, err.strip().count("\n")) == (2, 0), err
        assert message in err
    scoped = folder.with_name("scoped")
    shutil.copytree(folder, scoped)
    config = scoped / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("positions: all\n  phase", "positions: last\n  phase"))
    code, _, err = kedit_gone(scoped, *FEW)
    assert code == 2
    assert "depends on where a token stands" in err
