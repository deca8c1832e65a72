"""Verifying a run: the same bytes come out again, and a file that does not is named."""

import json
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

import kedit.cli.run as recipe
from kedit.cli import export, gone, verify
from kedit.models.shipped import HERE
from kedit.neurons import load_scores, save_scores

pytestmark = pytest.mark.skipif(
    not (HERE / "scenes" / "model.safetensors").is_file(), reason="the shipped model is not in this checkout"
)
SMALL = ("evaluate.locate=4", "evaluate.target=3", "evaluate.retention=2", "evaluate.controls=1", "figures=false",
         "page=false")  # fmt: skip
Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, which each test leaves as it was."""
    place = tmp_path_factory.mktemp("verified")
    with pytest.MonkeyPatch.context() as patch, chdir(place):
        patch.setattr(sys, "argv", ["kedit run", "concept=star", "hydra.run.dir=one", *SMALL])
        assert recipe.main() == 0
    return place / "one"


@pytest.fixture
def kedit_verify(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Call `kedit verify WORDS` in this process; return code, out and err."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kedit verify", *map(str, words)])
        capsys.readouterr()
        code = verify.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_run_comes_out_the_same_and_the_store_is_not_asked(
    folder: Path, kedit_verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the store was asked")

    for name in ("get", "cached", "keep"):
        monkeypatch.setattr(f"kedit.store.Store.{name}", refuse)
    assert kedit_verify(folder) == (0, f"{folder}: the same\n", "")


def test_every_file_that_differs_is_named(folder: Path, kedit_verify: Verify) -> None:
    before = {name: (folder / name).read_bytes() for name in verify.FILES if (folder / name).is_file()}
    try:
        report = json.loads(before["report.json"])
        report["neurons"]["count"] += 1
        (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        scores = load_scores(folder / "scores.safetensors")
        scores["gradcam"].values[0, 0] += 1e-6
        save_scores(scores, folder / "scores.safetensors")
        code, out, _ = kedit_verify(folder)
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)
    assert (code, out) == (1, f"{folder}: scores.safetensors, report.json came out differently\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "`nowhere` is no finished run of `kedit run`"),
        ([], "usage: kedit verify RUN"),
        (["--runs"], "no option `--runs`; usage: kedit verify RUN"),
    ],
)
def test_what_cannot_be_verified_is_one_line(kedit_verify: Verify, words: list[str], message: str) -> None:
    code, out, err = kedit_verify(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("kedit_command", [verify.main, export.main, gone.main], ids=["verify", "export", "gone"])
def test_the_folder_of_another_command_is_told_as_such(
    kedit_command: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / ".hydra").mkdir()
    for name, text in {
        "STATUS": "done\n",
        "report.json": "{}",
        ".hydra/hydra.yaml": "hydra: {job: {config_name: task}}",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "argv", ["kedit", str(tmp_path)])
    assert kedit_command() == 2
    assert capsys.readouterr().err == f"kedit: `{tmp_path}` is no finished run of `kedit run`, but of `kedit task`\n"


def test_pictures_that_were_painted_and_kept_are_painted_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    had = OmegaConf.create({"inpaint": {"cache": "somewhere", "steps": 2}, "store": "somewhere", "threads": 1})
    monkeypatch.setattr(verify, "settings_of", lambda run: had)
    monkeypatch.setattr(
        recipe, "job", lambda settings, *_: asked.append(settings) or SimpleNamespace(save_in=lambda *_, **__: 0)
    )
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {locate: two_stage}}}")
    assert verify.differing(tmp_path) == []
    assert asked[0].inpaint == {"cache": None, "steps": 2} and asked[0].store is None


def test_a_run_that_is_not_finished_is_refused(folder: Path, kedit_verify: Verify) -> None:
    (folder / "STATUS").write_text("running\n")
    try:
        code, _, err = kedit_verify(folder)
    finally:
        (folder / "STATUS").write_text("done\n")
    assert code == 2
    assert "is no finished run of `kedit run`" in err


def test_the_scores_of_a_run_say_nothing_of_time(folder: Path) -> None:
    assert all("seconds" not in one.provenance for one in load_scores(folder / "scores.safetensors").values())
    assert all(value.dtype == torch.float32 for value in load_file(folder / "scores.safetensors").values())
