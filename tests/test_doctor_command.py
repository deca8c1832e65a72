"""`kedit doctor`: what it prints and leaves, and how it ends."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit import __version__, cli
from kedit.models.planted import planted

Outcome = tuple[int, str, str]


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Run `kedit doctor WORDS` in `tmp_path`, in this process; its folder is `out`."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Outcome:
        capsys.readouterr()  # what was said before
        code = cli.main(["doctor", *words, "hydra.run.dir=out"])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_a_sound_model_ends_with_0_and_a_report(doctor: Callable[..., Outcome]) -> None:
    code, out, err = doctor("model=tiny", "checks=[zero,sites,identity]")
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[:3]] == [
        ["SUPPORTED", "sites"],
        ["SUPPORTED", "identity"],
        ["SUPPORTED", "zero"],
    ]
    report = json.loads(Path("out/report.json").read_text())
    assert report["kedit"] == __version__ and report["model"] == "tiny-llava" and report["sound"] is True
    assert report["checks"]["identity"] == {
        "status": "SUPPORTED", "value": 0.0, "bound": 0, "relation": "<=",
        "what": "logits changed by scaling with 1, relative", "why": "",
    }  # fmt: skip
    assert report["cost"]["seconds"] > 0
    assert Path("out/STATUS").read_text() == "done\n"


def test_a_broken_model_ends_with_1_and_a_line_that_names_the_checks(
    doctor: Callable[..., Outcome], tmp_path: Path
) -> None:
    broken = planted().model
    broken.module.model.multi_modal_projector.linear_2.weight.data.zero_()  # type: ignore[operator, union-attr]
    broken.module.save_pretrained(tmp_path / "blind")  # type: ignore[operator]
    broken.processor.save_pretrained(tmp_path / "blind")
    code, out, err = doctor("model=huggingface", f"model.path={tmp_path / 'blind'}", "checks=[media,padding]")
    assert code == 1
    assert "SILENTLY_WRONG  media" in out and "the logits do not depend on the image" in out
    assert err == "kedit: 1 of 2 checks failed on `blind`: `media` (SILENTLY_WRONG)\n"
    assert json.loads(Path("out/report.json").read_text())["sound"] is False
    assert Path("out/STATUS").read_text().startswith("failed: ")


def test_an_unknown_check_ends_with_2_before_the_model_is_read(doctor: Callable[..., Outcome]) -> None:
    code, _, err = doctor("model=huggingface", "model.path=/nowhere", "checks=[colum]")
    assert (code, err) == (2, "kedit: no check `colum`; nearest: column, compiled\n")


def test_a_table_of_runs_passes_by_a_diagnosis(
    doctor: Callable[..., Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    doctor("model=tiny", "checks=sites")
    assert cli.main(["table", "out"]) == 2
    assert "no finished run in `out`" in capsys.readouterr().err
