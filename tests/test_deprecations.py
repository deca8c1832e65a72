"""A library's deprecation fails the tests, and for users it goes to the log."""

import logging
import warnings
from types import SimpleNamespace

import pytest
from omegaconf import DictConfig

import kedit
from kedit.cli.jobs import renamed, reported
from kedit.deprecations import KINDS, deprecations_logged
from kedit.samples import QuestionSplit

every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
@pytest.mark.parametrize("module", ["kedit.example", "transformers.modeling_utils"])
def test_a_deprecation_fails_the_tests_whoever_it_is_put_down_to(kind: type[Warning], module: str) -> None:
    with pytest.raises(kind, match="old"):
        warnings.warn_explicit("old", kind, "example.py", 1, module)


def test_another_warning_inside_a_library_does_not() -> None:
    with pytest.warns(UserWarning, match="odd"):
        warnings.warn_explicit("odd", UserWarning, "example.py", 1, "transformers.modeling_utils")


@every_kind
def test_a_job_logs_a_deprecation_and_prints_nothing(
    kind: type[Warning],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A command's log is its own: the root logger's handlers rest meanwhile.
    monkeypatch.setattr(logging.getLogger("kedit"), "handlers", [caplog.handler])
    job = reported(lambda settings: warnings.warn("old " + "cache " * 1000, kind, stacklevel=1))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        job(DictConfig({}))
    (line,) = caplog.messages
    assert line.startswith(f"{kind.__name__} (")
    assert "old cache" in line and len(line) < 700
    assert capsys.readouterr().err == ""


def test_other_warnings_are_shown_and_all_are_again_afterwards() -> None:
    with pytest.warns() as shown, warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError), deprecations_logged():
            warnings.warn("odd", stacklevel=1)
            warnings.warn("old", FutureWarning, stacklevel=1)
            raise RuntimeError
        warnings.warn("older", FutureWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["odd", "older"]


def test_the_former_names_of_counts_work_with_one_line() -> None:
    with pytest.warns(DeprecationWarning, match=r"`Looks\(located=...\)` is now called `locate`"):
        assert kedit.Looks(located=5) == kedit.Looks(locate=5)

    class Asked:
        def split_questions(self, *, locate: int, evaluate: int, seed: int) -> QuestionSplit:
            raise LookupError(f"{locate} and {evaluate}")

    text = r"`locating` is now `counts=Counts\(locate=...\)`, `controls` is now"
    with pytest.warns(DeprecationWarning, match=text), pytest.raises(LookupError, match="3 and 40"):
        kedit.task(SimpleNamespace(caption=print, module=None), Asked(), locating=3, controls=2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'asked'"):
        kedit.task(None, Asked(), asked=3)  # type: ignore[arg-type]


def test_the_former_keys_of_a_command_are_read_as_those_of_now(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["located=3", "target=9", "data.target=1", "++controls=2", "-m", "concept=located"]
    read = renamed(words, {"located": "evaluate.locate", "target": "evaluate.target", "controls": "evaluate.controls"})
    assert read == ["evaluate.locate=3", "evaluate.target=9", "data.target=1", "++evaluate.controls=2", *words[-2:]]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "deprecated: `located` is now `evaluate.locate`, `target` is now" in message
    assert renamed(["concept=star"], {"located": "evaluate.locate"}) == ["concept=star"]
    assert capsys.readouterr().err == ""
