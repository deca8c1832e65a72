"""The READMEs and CONTRIBUTING.md: their code runs, their commands are commands, and what they point at is there."""

import ast
import json
import re
import shlex
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import kedit
from kedit.cli import COMMANDS
from kedit.cli.comparison.choices import understood
from kedit.locate.locator import Locator, Stage
from kedit.locate.selection import TopK
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.paths import conf_dir
from kedit.pipelines import run as pipeline
from kedit.pipelines.preparation import Counts

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("kedit", "conf", "experiments", "tests")
PAGES = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md"),
    *sorted(page for folder in FOLDERS for page in (ROOT / folder).rglob("README.md")),
]
LONGEST = {"README.md": 280, "CONTRIBUTING.md": 45}
OTHERS = {"pip": "install", "wandb": "sync", "lm_eval": "run", "lmms-eval": "eval"}
"""The commands of other packages, and what the pages do with them."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text()) if name == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def quotes(page: Path) -> list[str]:
    """Return what stands between backticks in the text of a page."""
    return [" ".join(quoted.split()) for quoted in re.findall(r"`([^`]+)`", prose(page))]


def commands(page: Path) -> list[str]:
    """Return the command lines of a page: those of its blocks, and those in its text."""
    lines = [line for code in blocks(page, "bash") for line in code.replace("\\\n", " ").splitlines()]
    told = [quoted for quoted in quotes(page) if quoted.startswith(("kedit ", "make ", "python -m "))]
    return [command for line in [*lines, *told] if (command := line.partition("#")[0].strip())]


def single_job(name: str, words: list[str]) -> list[str]:
    """Return the settings of a command, of a sweep those of its first job; a comparison takes lists."""
    settings = [word for word in words if not word.startswith("-")]
    if name == "compare":
        return understood(settings)
    parsed = OverridesParser.create().parse_overrides(settings)
    return [
        f"{one.get_key_element()}={next(iter(one.sweep_string_iterator()))}" if one.is_sweep_override() else word
        for word, one in zip(settings, parsed, strict=True)
    ]


def composed_by(command: str) -> Path | None:
    """Return the configuration that a command of kedit or a study reads, or None where it reads none."""
    tool, name, module, *_ = [*shlex.split(command), "", ""]
    if (tool, name) == ("python", "-m"):
        *folder, last = module.split(".")
        file = ROOT.joinpath(*folder, "config.yaml" if last == "run" else f"{last}.yaml")
        return file if file.is_file() else None
    file = conf_dir() / f"{name.replace('-', '_')}.yaml"
    return file if tool == "kedit" and "--help" not in command and file.is_file() else None


RUNS = sorted({command for page in PAGES for command in commands(page) if composed_by(command)})


def python(page: str, mark: str) -> str:
    """Return the block of Python on a page that holds `mark`."""
    return next(code for code in blocks(ROOT / page, "python") if mark in code)


def test_the_first_block_does_the_main_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "Counts", partial(Counts, locate=2, target=2, retention=1, controls=1))
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md", "python")[0], "README.md", "exec"), {})
    assert "mention_drop" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "star" / "report.json").is_file()


def test_the_steps_of_the_main_job_take_the_star_out_of_the_captions(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(python("README.md", "with Edit("), "README.md", "exec"), {})
    pairs = [line.split(" -> ") for line in capsys.readouterr().out.splitlines()]
    assert len(pairs) == 4
    assert all("star" in before for before, _ in pairs)
    assert all("star" not in after and "shape" in after for _, after in pairs)


def test_the_pictures_to_practise_with_are_enough_for_the_run_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(python("kedit/data/README.md", 'Path("mine")'), "kedit/data/README.md", "exec"), {})
    listed = [json.loads(line) for line in (tmp_path / "mine" / "pictures.jsonl").read_text().splitlines()]
    data = kedit.Folder(str(tmp_path / "mine"))
    star = next(concept for concept in data.concepts if concept.name == "star")
    split = data.split(star, locate=8, target=12, retention=6, seed=0)
    assert len(listed) == 40
    assert all("star" in sample.regions for sample in (*split.locate, *split.target))


def test_the_locate_method_of_the_readme_scores_the_neurons_that_see_the_picture(planted: Planted) -> None:
    names: dict[str, type] = {}
    exec(compile(python("kedit/locate/README.md", "class MeanActivation"), "README.md", "exec"), names)
    locator = Locator({"mean": Stage(names["MeanActivation"](), TopK(2))})
    scores = locator.score(planted.model, [without(picture("all", tuple(range(16))), STAR_CONCEPT)])
    star, house = next(iter(planted.star)), next(iter(planted.house))
    assert scores["mean"].of([star]).item() > scores["mean"].of([house]).item() == 0


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_what_the_code_of_a_page_takes_from_kedit_is_there(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kedit"):
                assert all(hasattr(import_module(str(node.module)), alias.name) for alias in node.names), node.module
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kedit":
                assert hasattr(kedit, node.attr), node.attr


@pytest.mark.parametrize("command", RUNS)
def test_each_run_of_a_page_composes(command: str) -> None:
    file = composed_by(command)
    assert file is not None
    _, name, *words = shlex.split(command)
    settings = single_job(name, words[1:] if name == "-m" else words)
    with initialize_config_dir(str(file.parent), version_base="1.3"):
        assert compose(file.stem, overrides=settings)


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_every_command_of_a_page_exists(page: Path) -> None:
    for line in commands(page):
        tool, *rest = shlex.split(line)
        if tool == "make":
            assert rest[0] in TARGETS, line
        elif tool == "kedit":
            assert rest[0] in COMMANDS or rest[0] == "--help", line
        elif tool == "python":
            assert rest[0] == "-m" and ROOT.joinpath(*rest[1].split(".")).with_suffix(".py").is_file(), line
        elif tool in OTHERS:
            assert rest[0] == OTHERS[tool], line
        else:
            assert (ROOT / tool).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_what_a_page_links_to_and_shows_is_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        path, _, heading = link.partition("#")
        if not path.startswith("http"):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_the_files_that_a_page_names_are_there(page: Path) -> None:
    named = [quoted for quoted in quotes(page) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]+", quoted)]
    assert not [path for path in named if not (ROOT / path).exists()]


def test_the_pages_that_are_read_first_are_short() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in LONGEST}
    assert not {name: length for name, length in lengths.items() if length > LONGEST[name]}


def test_the_table_of_results_is_the_studys() -> None:
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    assert "two_stage" in " ".join(rows)
    assert set(rows) <= set((ROOT / "experiments" / "spread_knowledge" / "README.md").read_text().splitlines())


def headings(page: Path) -> set[str]:
    """Return what a link to a heading of the page ends in, as GitHub makes it."""
    lines = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
