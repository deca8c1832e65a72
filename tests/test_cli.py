"""The command answers fast, names what it does not know, and finds the recipes wherever kedit lies."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kedit
from kedit.cli import COMMANDS, main
from kedit.paths import conf_dir, home

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "numpy", "transformers", "hydra", "omegaconf", "wandb", "evaluate", "diffusers", "matplotlib")

RECIPE = """
import sys
from experiments.greeting import HELLO

def main():
    print(HELLO, __file__, sys.argv)
    return 1 if "fail=true" in sys.argv else None
"""


def python(*words: str, path: Path = ROOT, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a Python that finds the kedit under `path` first."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=environment, cwd=folder or path, check=False
    )


def lay_out(package_parent: Path, recipes: Path) -> None:
    """Put the shell of kedit into one folder and a recipe with its configuration into another."""
    (package_parent / "kedit").mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "cli.py", "deprecations.py", "paths.py"):
        shutil.copy(ROOT / "kedit" / name, package_parent / "kedit")
    (recipes / "conf").mkdir(parents=True)
    (recipes / "conf" / "run.yaml").write_text("concept: star\n")
    (recipes / "experiments").mkdir()
    (recipes / "experiments" / "__init__.py").touch()
    (recipes / "experiments" / "greeting.py").write_text("HELLO = 'hello from'\n")
    (recipes / "experiments" / "run.py").write_text(RECIPE)


@pytest.fixture(params=["checkout", "wheel"])
def installation(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """Return where the package lies and where its recipes do."""
    place = tmp_path / "place"
    recipes = place if request.param == "checkout" else place / "kedit" / "_shipped"
    lay_out(place, recipes)
    if request.param == "checkout":
        (place / "pyproject.toml").touch()
    return place, recipes


def test_a_command_calls_its_recipe_with_the_remaining_words(installation: tuple[Path, Path], tmp_path: Path) -> None:
    place, recipes = installation
    # A package of the same name in the working folder must not be taken for kedit's recipes.
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('not kedit')\n")
    done = python("-m", "kedit", "run", "concept=star", "-m", path=place, folder=tmp_path)
    assert done.stdout == f"hello from {recipes / 'experiments' / 'run.py'} ['kedit run', 'concept=star', '-m']\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_code_of_a_recipe_is_that_of_the_command(installation: tuple[Path, Path]) -> None:
    assert python("-m", "kedit", "run", "fail=true", path=installation[0]).returncode == 1


def test_worker_processes_of_a_recipe_find_it_too(installation: tuple[Path, Path], tmp_path: Path) -> None:
    place, recipes = installation
    worker = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import experiments.run as r; print(r)'])"
    (recipes / "experiments" / "run.py").write_text(f"def main():\n    {worker}\n")
    assert str(recipes) in python("-m", "kedit", "run", path=place, folder=tmp_path).stdout


def test_deprecations_stay_off_the_terminal_and_other_warnings_do_not(installation: tuple[Path, Path]) -> None:
    place, recipes = installation
    said = "warnings.warn('old', FutureWarning); warnings.warn('odd')"
    (recipes / "experiments" / "run.py").write_text(f"import warnings\ndef main():\n    {said}\n")
    done = python("-m", "kedit", "run", path=place)
    assert done.returncode == 0
    assert "FutureWarning: old" not in done.stderr
    assert "UserWarning: odd" in done.stderr


def test_an_installation_without_configuration_says_where_it_looked(tmp_path: Path) -> None:
    lay_out(tmp_path, tmp_path)  # no pyproject.toml: not a checkout
    told = python("-c", "import kedit.paths; kedit.paths.home()", path=tmp_path).stderr.splitlines()[-1]
    assert told.startswith("FileNotFoundError: no `conf/run.yaml`")
    assert str(tmp_path / "kedit" / "_shipped") in told


def test_here_the_recipes_are_those_of_the_checkout() -> None:
    assert home() == ROOT
    assert (conf_dir() / "run.yaml").is_file()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_recipe(name: str) -> None:
    recipe = ROOT / Path(*COMMANDS[name].module.split(".")).with_suffix(".py")
    assert "def main(" in recipe.read_text(encoding="utf-8")


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


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kedit {kedit.__version__}\n"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("rnu", "kedit: no command `rnu`; nearest: `run`; `kedit --help` lists what each does\n"),
        ("concept=star", f"kedit: no command `concept=star`; commands: {', '.join(f'`{c}`' for c in COMMANDS)}"),
    ],
)
def test_an_unknown_command_is_told_in_one_line(typed: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([typed, "edit=zero"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(told)
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
