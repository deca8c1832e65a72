"""A wrong command line is one line that shows what would be right, and exit code 2."""

import shlex
import sys
from collections.abc import Callable
from contextlib import chdir
from importlib import import_module
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from kedit.cli import main
from kedit.cli.errors import repeated, written

Command = Callable[[list[str]], tuple[int, str]]
AWKWARD = (
    "a=b",
    "My Pictures (2024)",
    "it's",
    "a#b",
    "日本語",
    "~/pics",
    "[1]",
    "café",
    'say "hi"',
    "end\\",
    "${x}",
    "1e3",
)


@pytest.fixture
def kedit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give `kedit` words in a folder with a file and a folder; return the exit code and the last line on stderr."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pictures.jsonl").write_text("")
    (tmp_path / "folder" / "scores.safetensors").write_text("")

    def call(words: list[str]) -> tuple[int, str]:
        with chdir(tmp_path):
            code = main(words)
        lines = [line for line in capsys.readouterr().err.splitlines() if "kedit.tested" not in line]
        assert len(lines) == 1, lines
        return code, lines[0]

    return call


def as_read(setting: str) -> object:
    """Return the value that a job gets of a setting."""
    return OmegaConf.create({"key": OverridesParser.create().parse_override(setting).value()}).key


@pytest.mark.parametrize("text", AWKWARD)
def test_a_text_in_quotes_comes_through_a_shell_as_it_was(text: str) -> None:
    (setting,) = shlex.split(written("key", text))
    assert as_read(setting) == text


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("'\"\\$={}`! "), max_size=12))
def test_any_text_does(text: str) -> None:
    (setting,) = shlex.split(written("key", text))
    assert as_read(setting) == text


@pytest.mark.parametrize("value", ["a=[", "My Pictures (2024)", "it's", "a#b", "日本語", "~/pics", "[1]", "2024"])
def test_a_value_that_hydra_reads_otherwise_is_shown_in_quotes(value: str, kedit: Command) -> None:
    code, text = kedit(["inpaint", "data=folder", "inpaint=mean", f"data.folder={value}"])
    assert code == 2
    assert written("data.folder", value) in text


WRONG = {
    "rnu": "no command `rnu`; nearest: `run`",
    "help rnu": "no command `rnu`",
    "run --concept star": "no option `--concept`; a setting is written without dashes, as in `concept=...`",
    "run --hlep": "no option `--hlep`; nearest: `--help`",
    "run --cfg": "`--cfg job`, `--cfg hydra` or `--cfg all`",
    "run --config-name": "`--config-name` takes a value",
    "run =star": "a setting has a name; write `key=value`",
    "run concept": "cannot read `concept`",
    "run concpet=star": "no key `concpet`; nearest: `concept`",
    "run concept=star,house": "add `-m` to the command; a list is `concept=[star,house]`, a text",
    "run concept=café": "it holds a character that Hydra reads only in quotes",
    "run 'concept=star\nhouse'": "cannot read `concept=star; house`",
    "run concept=": "`concept` is empty; give it as `concept=...`",
    "run concept=null": "`concept` is a text, and null was read as nothing; write it in quotes: 'concept=\"null\"'",
    "run concept=1e3": "`concept` is a text, and 1e3 was read as a number",
    "run concept=[star]": "`concept` is a text, and [star] was read as a list",
    "run ++concept=true": "`concept` is a text, and true was read as true or false",
    "run +concept=star": "An item is already at 'concept'",
    "run figures=maybe": "`figures` is true or false; got maybe",
    "run figures.format=gif": "`figures.format` is png, pdf or svg; got 'gif'",
    "run figures.titles=maybe": "`figures.titles` is true or false; got maybe",
    "locate figures.width=3": "`figures.width` is single or double; got 3",
    "run figures=false figures.format=pdf": "`figures` has no keys here; in its place: `figures={format: ...}`",
    "run evaluate.target=": "`evaluate.target` is a whole number, 1 or more; got nothing",
    "run evaluate.encoder=bert": "`bert` is nothing that can be built",
    "run evaluate.chair=perhaps": "`evaluate.chair` is true or false; got perhaps",
    "run evaluate.synonyms=file": "`evaluate.synonyms` is of use with `evaluate.chair=true` only",
    "run evaluate.chair=true evaluate.synonyms=folder": "`evaluate.synonyms` is a file, and `folder` is a folder",
    "run evaluate.chair=true evaluate.synonyms=none.txt evaluate.locate=2": "no file `none.txt` of synonyms",
    "run evaluate.pope=true evaluate.pope_question=what": 'the question of POPE has `{}` once, for "a dog"',
    "compare evaluate.chair=true": "a comparison does not take `evaluate.chair`, which `kedit run` does",
    "run model.batch_size=0": "`model.batch_size` is a whole number, 1 or more; got 0",
    "run scores=folder": "`scores` is a file, and `folder` is a folder; in it: `scores=folder/scores.safetensors`",
    "run data=folder data.folder=. data.questions_file=folder": "`data.questions_file` is a file, and `folder` is a",
    "run model=huggingface model.path=scenes model.dtype=fp16": "`dtype=fp16` is called `float16` here",
    "inspect launch=joblib": "no `launch` here",
    "locate shard.index=3 shard.count=2": "3",
    "table ''": "an empty word is no folder",
    "run model=huggingface": "`model.path` has no value; give it as `model.path=...`",
    "run model=huggingface model.path=./nowhere evaluate.locate=500": "no model folder `./nowhere`",
    "locate model.device=cuda:99 evaluate.locate=500": "`device` is 'cuda:99'",
    "run model.path=123 model=huggingface": "`model.path` is a text, and 123 was read as a number",
    "locate folder": "`folder` is a folder, and no setting",
    "compare methods=[grad_act,random]": "set `reference=grad_act`",
    "folder check folder data.fodler=3": "no key `data.fodler`; nearest: `data.folder`",
    "verify --all": "no option `--all`; usage: kedit verify RUN",
    "leaderboard nowhere": "`nowhere` is no sweep",
}


@pytest.mark.parametrize(("words", "message"), WRONG.items(), ids=WRONG)
def test_a_wrong_command_line_is_one_line(words: str, message: str, kedit: Command) -> None:
    code, line = kedit(shlex.split(words))
    assert code == 2
    assert line.startswith("kedit: ") and message in line


WRONG_STUDIES = {
    "blocks": "`folder` has no value; give it as `folder=...`",
    "blocks folder=": "`folder` is empty",
    "blocks folder=file": "`folder` `file` is a file",
    "blocks folder=folder": "`folder` `folder` is not empty",
    "teach": "`folder` has no value",
}


@pytest.mark.parametrize(("words", "message"), WRONG_STUDIES.items(), ids=WRONG_STUDIES)
def test_a_wrong_command_line_of_a_study_is_one_line_too(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pictures.jsonl").write_text("")
    study, *settings = shlex.split(words)
    monkeypatch.setattr(sys, "argv", ["run.py", *settings])
    with chdir(tmp_path):
        assert import_module(f"experiments.training.tiny.{study}").main() == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("kedit: ") and message in line


def test_a_setting_that_is_given_twice_is_told_of() -> None:
    words = ["-m", "concept=star", "seed=1", "++concept=house", "hydra.run.dir=a", "hydra.run.dir=b"]
    assert repeated(words) == ["`concept` is given 2 times; `house` counts"]


@pytest.mark.parametrize(
    "words", ["run -h", "compare --help", "cache -h", "table -h", "verify --help", "leaderboard -h"]
)
def test_help_is_no_error_whoever_reads_the_words(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(words.split())
    except SystemExit as ended:  # argparse's and Hydra's way
        code = ended.code
    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert printed.out
