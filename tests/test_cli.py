"""The command answers fast, names what it does not know, and finds its configuration wherever kedit lies."""

import os
import pwd
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kedit
from kedit.cli import COMMANDS, STUDIES, main
from kedit.paths import conf_dir

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "transformers", "hydra", "omegaconf", "wandb", "evaluate", "diffusers", "matplotlib")

MODULE = """
import sys

def main():
    print(__file__, sys.argv)
    return 1 if "fail=true" in sys.argv else None
"""


def python(*words: str, path: Path = ROOT, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python that finds the kedit under `path` first."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=folder or path, check=False
    )


@pytest.fixture(params=["checkout", "wheel"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with the shell of kedit in it, and a `run` that prints where it lies and what it was told."""
    place = tmp_path / "place"
    shutil.copytree(ROOT / "kedit" / "cli", place / "kedit" / "cli")
    for name in ("__init__.py", "__main__.py", "deprecations.py", "paths.py"):
        shutil.copy(ROOT / "kedit" / name, place / "kedit")
    (place / "kedit" / "cli" / "run.py").write_text(MODULE)
    conf = place / "conf" if request.param == "checkout" else place / "kedit" / "conf"
    conf.mkdir()
    (conf / "run.yaml").write_text("concept: star\n")
    if request.param == "checkout":
        (place / "pyproject.toml").touch()
    return place


def test_a_command_calls_its_module_with_the_remaining_words(place: Path, tmp_path: Path) -> None:
    done = python("-m", "kedit", "run", "concept=star", "-m", path=place, folder=tmp_path)
    assert done.stdout == f"{place / 'kedit' / 'cli' / 'run.py'} ['kedit run', 'concept=star', '-m']\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_code_of_a_module_is_that_of_the_command(place: Path) -> None:
    assert python("-m", "kedit", "run", "fail=true", path=place).returncode == 1


def test_deprecations_stay_off_the_terminal_and_other_warnings_do_not(place: Path) -> None:
    text = "warnings.warn('old', FutureWarning); warnings.warn('odd')"
    (place / "kedit" / "cli" / "run.py").write_text(f"import warnings\ndef main():\n    {text}\n")
    done = python("-m", "kedit", "run", path=place)
    assert done.returncode == 0
    assert "FutureWarning: old" not in done.stderr
    assert "UserWarning: odd" in done.stderr


def test_the_configuration_is_found_wherever_kedit_lies(place: Path, tmp_path: Path) -> None:
    # A folder of that name where the command is called must not be taken for kedit's.
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "run.yaml").touch()
    found = python("-c", "import kedit.paths; print(kedit.paths.conf_dir())", path=place, folder=tmp_path).stdout
    assert (Path(found.strip()) / "run.yaml").read_text() == "concept: star\n"


def test_an_installation_without_configuration_says_where_it_looked(place: Path) -> None:
    for conf in place.rglob("run.yaml"):
        conf.unlink()
    told = python("-c", "import kedit.paths; kedit.paths.conf_dir()", path=place).stderr.splitlines()[-1]
    assert told.startswith("FileNotFoundError: no `run.yaml`")
    assert str(place / "kedit" / "conf") in told


def test_here_the_configuration_is_that_of_the_checkout() -> None:
    assert conf_dir() == ROOT / "conf"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module(name: str) -> None:
    module = ROOT / Path(*COMMANDS[name].module.split(".")).with_suffix(".py")
    assert "def main(" in module.read_text(encoding="utf-8")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name}" in listed and command.summary in listed for name, command in COMMANDS.items())


def test_no_command_prints_help_on_stderr_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: kedit COMMAND" in captured.err


def test_a_process_without_a_home_has_one_until_the_command_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "KEDIT_STORE", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["cache", "ls"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("kedit: no home folder is known") and printed.err.count("\n") == 1
    assert "KEDIT_STORE=/a/folder" in printed.err
    scratch = Path(printed.err.split("`")[1])
    assert f"no entries in {scratch / '.cache' / 'kedit'}" in printed.out and not scratch.exists()
    assert not {"HOME", "USER"} & os.environ.keys() and not list(tmp_path.iterdir())


def test_a_home_that_cannot_be_written_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file" / "home"))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    assert main(["cache", "ls"]) == 0
    message = capsys.readouterr().err
    assert message.startswith(
        f"kedit: the home folder `{tmp_path / 'file' / 'home'}` cannot be written: caches go to `"
    )
    assert message.count("\n") == 1 and "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    assert main(["cache", "ls"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("words", [["help"], ["help", "table"], ["table", "help"], ["table", "-h"], ["cache", "help"]])
def test_help_is_given_however_it_is_asked_for(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(words)
    except SystemExit as ended:  # argparse's and Hydra's way
        code = ended.code
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert "usage: kedit" in printed.out


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kedit {kedit.__version__}\n"


@pytest.mark.parametrize("name", STUDIES)
def test_what_was_a_command_is_told_where_it_is_now(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 2
    module = f"experiments.{STUDIES[name]}"
    assert f"`python -m {module}`" in capsys.readouterr().err
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("rnu", "kedit: no command `rnu`; nearest: `run`; `kedit --help` lists what each does\n"),
        ("concept=star", f"kedit: no command `concept=star`; commands: {', '.join(f'`{c}`' for c in COMMANDS)}"),
    ],
)
def test_an_unknown_command_is_told_in_one_line(typed: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed, "edit=zero"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_help_imports_no_heavy_package() -> None:
    script = "import sys; from kedit.cli import main; main(['--help']); print(*sys.modules)"
    imported = python("-c", script).stdout.splitlines()[-1].split()
    assert "kedit.cli" in imported
    assert not set(HEAVY) & set(imported)


def test_help_takes_less_than_three_tenths_of_a_second() -> None:
    def seconds() -> float:
        """Return the processor time of one call, which a busy machine does not stretch as it does the clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "kedit", "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.3


def test_public_names_come_from_their_modules_without_being_imported_first() -> None:
    assert [name for name in kedit.__all__ if not hasattr(kedit, name)] == []
    imported = python("-c", "import sys, kedit; print(*sys.modules)").stdout.split()
    assert not set(HEAVY) & set(imported)


def test_a_name_that_kedit_lacks_is_told_with_those_it_has() -> None:
    with pytest.raises(AttributeError, match=r"no attribute `Konzept`; it has: .*Concept"):
        kedit.Konzept  # noqa: B018
