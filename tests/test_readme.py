"""The README's code runs, and its commands are commands."""

import re
import shlex
from functools import partial
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from experiments.comparison.choices import understood
from kedit.cli import COMMANDS
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.paths import conf_dir
from kedit.pipelines import run as pipeline
from kedit.pipelines.locate import Counts

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [
    line.partition("#")[0].strip()
    for language, code in BLOCKS
    if language == "bash"
    for line in code.splitlines()
    if line.partition("#")[0].strip()
]
HYDRA = (
    *("run", "compare", "inspect", "operators", "doctor", "inpaint", "task", "counterfactuals", "blocks", "teach"),
)
RUNS = sorted(
    {
        line
        for line in [*SHELL, *re.findall(r"`(kedit [^`]+)`", TEXT)]
        if line.startswith(tuple(f"kedit {name} " for name in HYDRA)) and "--help" not in line
    }
)


def test_the_first_block_does_the_main_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Counts", partial(Counts, locate=4, target=6, retention=3, controls=1))
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[0], "README.md", "exec"), {})
    assert "mention_drop" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "star" / "report.json").is_file()


def test_the_steps_of_the_main_job_take_the_star_out_of_the_captions(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(PYTHON[1], "README.md", "exec"), {})
    pairs = [line.split(" -> ") for line in capsys.readouterr().out.splitlines()]
    assert len(pairs) == 4
    assert all("star" in before for before, _ in pairs)
    assert all("star" not in after and "shape" in after for _, after in pairs)


def test_the_locate_method_of_the_readme_scores_the_neurons_that_see_the_picture(planted: Planted) -> None:
    names: dict[str, type] = {}
    code = next(one for one in PYTHON if "class MeanActivation" in one)
    exec(compile(code, "README.md", "exec"), names)
    locator = Locator({"mean": Stage(names["MeanActivation"](), TopK(2))})
    scores = locator.score(planted.model, [without(picture("all", tuple(range(16))), STAR_CONCEPT)])
    star, house = next(iter(planted.star)), next(iter(planted.house))
    assert scores["mean"].of([star]).item() > scores["mean"].of([house]).item() == 0


@pytest.mark.parametrize("command", RUNS)
def test_each_run_of_the_readme_composes(command: str) -> None:
    _, name, *words = shlex.split(command)
    settings = [word for word in words if not word.startswith("-")]
    # A comparison takes lists; of a sweep, the first job.
    single = understood(settings) if name == "compare" else [word.partition(",")[0] for word in settings]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert compose(name, overrides=single)


def test_every_command_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in SHELL:
        tool, *rest = shlex.split(line)
        if tool == "make":
            assert rest[0] in targets, line
        elif tool == "kedit":
            assert rest[0] in COMMANDS, line
        else:
            assert (ROOT / tool).is_file(), line


def test_every_file_the_readme_shows_is_there() -> None:
    linked = [path for path in re.findall(r"\]\(([^)#]+)\)", TEXT) if not path.startswith("http")]
    assert linked
    assert not [path for path in linked if not (ROOT / path).exists()]
