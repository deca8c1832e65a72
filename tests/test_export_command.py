"""`kedit export` of a finished run, and `kedit run edit=none` of what it left: the files, the lines, the exit codes."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

import kedit.cli.run as recipe
from kedit.cli import export, table
from kedit.models.shipped import HERE
from kedit.pipelines import export as pipeline

pytest.importorskip("peft")
pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)
SMALL = ("evaluate.locate=4", "evaluate.target=3", "evaluate.retention=2", "evaluate.controls=1",
         "evaluate.text=false", "figures=false", "page=false")  # fmt: skip
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, which each test leaves as it was."""
    place = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch, chdir(place):
        patch.setattr(sys, "argv", ["kedit run", "concept=star", "hydra.run.dir=star", *SMALL])
        assert recipe.main() == 0
    return place / "star"


@pytest.fixture
def kedit_export(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call `kedit export WORDS` in this process; return code, out and err."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kedit export", *map(str, words)])
        capsys.readouterr()
        code = export.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_run_is_exported_beside_it_and_measured_again(
    folder: Path, kedit_export: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, out, err = kedit_export(folder, "to=ia3")
    place = folder.with_name("star-ia3")
    assert (code, err) == (0, "")
    assert out.startswith(f"ia3: {place} (4 files, ")
    assert "check: logits identical to the bit, captions equal on 3 of 3; the edit moves them by " in out
    report = json.loads((folder / "report.json").read_text())
    card, told = (place / "README.md").read_text(), json.loads((place / "reproduce.json").read_text())
    assert f"**{report['verdict']}**" in card
    assert told["commands"][0].startswith("kedit run concept=star ")
    assert told["commands"][1] == f"kedit export {folder} to=ia3"
    assert told["edit"]["neurons"] == json.loads((folder / "neurons.json").read_text())["neurons"]
    code, _, err = kedit_export(folder, "to=ia3")
    assert (code, err.count("\n")) == (2, 1)
    assert "is there; name another folder, or replace it with `overwrite=true`" in err
    assert kedit_export(folder, "to=ia3", "overwrite=true")[0] == 0

    words = [
        "edit=none",
        f"model.adapter={place}",
        f"hydra.run.dir={tmp_path}/again",
        "concept=star",
        "evaluate.chair=true",
        *SMALL,
    ]
    monkeypatch.setattr(sys, "argv", ["kedit run", *words])
    assert recipe.main() == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["suppression"] == report["suppression"]
    assert again["retention"] == report["retention"]
    assert set(again["chair"]) >= {"words", "target"}
    assert (again["locator"], again["operator"], again["neurons"]) == ("none", "weights of star-ia3", {"count": 0})
    assert (tmp_path / "again" / "captions.jsonl").read_text() == (folder / "captions.jsonl").read_text()
    code, _, err = kedit_export(tmp_path / "again")
    assert code == 2
    assert "measured an adapter (`edit=none`): there is no edit of kedit's to export" in err
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["kedit table", str(tmp_path / "again")])
    assert table.main() == 0
    assert "weights of star-ia3" in capsys.readouterr().out


def test_a_patch_that_was_measured_is_measured_again_on_the_same_pictures(
    kedit_export: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = ["kedit run", "concept=star", "edit=patch", f"hydra.run.dir={tmp_path}/patched", *SMALL]
    monkeypatch.setattr(sys, "argv", asked)
    assert recipe.main() == 0
    exported: list[tuple[Any, Any, Any]] = []
    write = pipeline.export
    monkeypatch.setattr(
        pipeline, "export", lambda edit, model, folder, *, pictures, **how: (
            exported.append((edit, model, pictures)), write(edit, model, folder, pictures=pictures, **how)
        )[1],
    )  # fmt: skip
    code, out, err = kedit_export(tmp_path / "patched", "to=lora", f"folder={tmp_path}/out")
    assert (code, err) == (0, "")
    assert "captions equal on 3 of 3" in out
    ((edit, model, pictures),) = exported
    assert repr(edit.operator) == "Patch(counterfactual mean)"
    with edit.applied(model):
        captions = [one.text for one in model.caption(pictures)]
    rows = [json.loads(line) for line in (tmp_path / "patched" / "captions.jsonl").read_text().splitlines()]
    assert captions == [row["after"] for row in rows if row["group"] == "target"]
    code, _, err = kedit_export(tmp_path / "patched", "to=merged")
    assert (code, err.count("\n")) == (2, 1)
    assert "a patch adds a constant, which `to=merged` cannot hold: export it with `to=lora`" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("to=ia4",), "`to` is one of merged, ia3, lora, delta, got 'ia4'; nearest: ia3"),
        (("to=xx",), "`to` is one of merged, ia3, lora, delta, got 'xx'"),
        (("form=ia3",), "`form=ia3` is no setting of an export; keys: to, folder, overwrite, as in `to=ia3`"),
        (("overwrite=1",), "`overwrite` is true or false; got 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    words: tuple[str, ...], line: str, folder: Path, kedit_export: Command
) -> None:
    assert kedit_export(folder, *words) == (2, "", f"kedit: {line}\n")


def test_what_has_no_form_is_told_before_the_model_is_loaded(
    folder: Path, tmp_path: Path, kedit_export: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("kedit.models.loading.load", load)
    shutil.copytree(folder, tmp_path / "decoded")
    settings = tmp_path / "decoded" / ".hydra" / "config.yaml"
    settings.write_text(settings.read_text().replace("phase: both", "phase: decode"))
    code, _, err = kedit_export(tmp_path / "decoded")
    assert (code, err.count("\n")) == (2, 1)
    assert "an edit at `positions=all`, `phase=decode` depends on where a token stands" in err


def test_a_sweep_is_told_from_its_jobs(tmp_path: Path, kedit_export: Command) -> None:
    (tmp_path / "multirun.yaml").write_text("")
    assert kedit_export(tmp_path) == (
        2, "", f"kedit: `{tmp_path}` is a sweep: give one of its jobs, such as `{tmp_path / '0'}`\n"
    )  # fmt: skip


def test_what_is_no_run_is_told(tmp_path: Path, kedit_export: Command) -> None:
    assert kedit_export(tmp_path) == (2, "", f"kedit: `{tmp_path}` is no finished run of `kedit run`\n")
    assert kedit_export()[0] == 2


def test_without_an_adapter_there_is_nothing_to_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kedit run", "edit=none", f"hydra.run.dir={tmp_path}/x", *SMALL])
    assert recipe.main() == 2
    assert "`edit=none` measures what an adapter does: give it as `model.adapter=FOLDER`" in capsys.readouterr().err
