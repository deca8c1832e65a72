"""Two runs never share a folder, and what is finished is replaced only by those who say so."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sweep_folder import alone_in_run
from kedit.results.run_folder import FIGURES, FILES, FinishedRunError, result_folder, write_atomic

ROOT = Path(__file__).resolve().parent.parent
CONF = {
    "recipe.yaml": """
defaults:
  - _self_
  - edit: zero
  - override /hydra/hydra_logging: none
  - override /hydra/job_logging: none
  - override /hydra/help: null
  - override /hydra/hydra_help: null
  - override /hydra/output: null
  - override /hydra/env: null
seed: 0
scores: null
data: {folder: data}
on_error: continue
overwrite: false
tracker: {_target_: kedit.results.tracking.NoTracker}
hydra:
  run: {dir: "ran-${now:%Y}"}
  sweep: {dir: "swept-${now:%Y}", subdir: "${hydra.job.num}"}
  callbacks: {sweep: {_target_: kedit.cli.sweep_callbacks.Sweeping}}
""",
    "edit/zero.yaml": "factor: 0",
    "edit/scale.yaml": "factor: 0.5",
}
Command = Callable[..., tuple[int, str]]


def leave_seed(kept: Any, settings: DictConfig) -> None:
    kept.save_json("report.json", settings.seed)


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Callable[[Any, DictConfig], object]]:
    """What the job of the command does, under `job`."""
    for name, content in CONF.items():
        path = tmp_path / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"job": leave_seed}


@pytest.fixture
def kedit(
    recipe: dict[str, Callable[[Any, DictConfig], object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """Run a command in `tmp_path`; return its exit code and what it said."""

    @hydra.main(version_base="1.3", config_path=str(tmp_path / "conf"), config_name="recipe")
    @reported
    def main(cfg: DictConfig) -> None:
        with run_folder(cfg, {"seed": 0}) as (kept, _):
            recipe["job"](kept, cfg)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kedit run", *words])
        capsys.readouterr()
        with chdir(tmp_path):
            return guarded(main), capsys.readouterr().err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- a folder of its own


def test_runs_that_start_at_the_same_moment_get_folders_of_their_own(kedit: Command, tmp_path: Path) -> None:
    for seed in range(3):
        assert kedit(f"seed={seed}") == (0, "")
    told = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("ran-*/report.json")}
    first = min(told, key=len)
    assert told == {first: 0, f"{first}-2": 1, f"{first}-3": 2}


def test_sweeps_that_start_at_the_same_moment_get_folders_of_their_own(kedit: Command, tmp_path: Path) -> None:
    folders = []
    for seeds in ("1,2", "3,4"):
        assert kedit("-m", f"seed={seeds}") == (0, "")
        folders = sorted(tmp_path.glob("swept-*"), key=lambda path: len(path.name))
    found = [[json.loads((folder / job / "report.json").read_text()) for job in "01"] for folder in folders]
    assert found == [[1, 2], [3, 4]]


def test_a_folder_in_which_another_process_runs_is_refused_and_left_alone(kedit: Command, tmp_path: Path) -> None:
    write_atomic(tmp_path / "out" / "STATUS", "running\n")
    with alone_in_run(tmp_path / "out"):
        code, text = kedit("hydra.run.dir=out")
    assert code == 2
    assert text.startswith("kedit: another process is working on this run in `out`")
    assert contents(tmp_path / "out") == {"STATUS": b"running\n"}
    assert kedit("hydra.run.dir=out") == (0, "")


# --- a folder that is given again


def test_a_finished_run_stays_where_other_settings_are_given_its_folder(kedit: Command, tmp_path: Path) -> None:
    assert kedit("hydra.run.dir=out", "seed=1") == (0, "")
    before = contents(tmp_path / "out")
    code, text = kedit("hydra.run.dir=out", "seed=2", "edit=scale", "on_error=stop")
    assert (code, text.count("\n")) == (2, 1)
    assert "`out` holds a finished run with other settings (`edit` was zero, is scale; `seed` was 1, is 2)" in text
    assert "`overwrite=true`" in text and "`hydra.run.dir`" in text
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("how", [[], ["on_error=stop"], ["+overwrite=false"], ["edit=zero"]])
def test_the_same_settings_run_again(how: list[str], kedit: Command, recipe: Any, tmp_path: Path) -> None:
    assert kedit("hydra.run.dir=out", "seed=1") == (0, "")
    seeds = []
    recipe["job"] = lambda kept, settings: seeds.append(settings.seed)
    words = [word for word in how if not word.startswith("+")]
    assert kedit("hydra.run.dir=out", "seed=1", *words) == (0, "")
    assert seeds == [1]
    assert not (tmp_path / "out" / "report.json").exists()


def test_overwriting_leaves_no_old_file_of_a_run_and_every_other(kedit: Command, recipe: Any, tmp_path: Path) -> None:
    def much(kept: Any, settings: DictConfig) -> None:
        for name in (
            "report.html",
            "neurons.csv",
            "figures/layers.png",
            "pictures/001-old.control.png",
            "wandb/offline-run-1/run.wandb",
        ):
            write_atomic(kept.folder / name, "old")

    recipe["job"] = much
    assert kedit("hydra.run.dir=out", "seed=1") == (0, "")
    mine = {"notes.txt": b"mine", "figures/mine.svg": b"mine", "data.json": b"mine"}
    for name, content in mine.items():
        write_atomic(tmp_path / "out" / name, content)
    recipe["job"] = leave_seed
    assert kedit("hydra.run.dir=out", "seed=2", "overwrite=true") == (0, "")
    found = contents(tmp_path / "out")
    of_hydra = {f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")}
    assert found.keys() == {"STATUS", "kedit.log", "report.json", *of_hydra, *mine}
    assert found["report.json"] == b"2\n" and {name: found[name] for name in mine} == mine
    assert found["kedit.log"].count(b"overrides:") == 1


@pytest.mark.parametrize("status", ["running\n", "failed: ValueError: no star\n"])
def test_an_unfinished_run_gives_way(status: str, kedit: Command, tmp_path: Path) -> None:
    write_atomic(tmp_path / "out" / "STATUS", status)
    write_atomic(tmp_path / "out" / "captions.jsonl", "old")
    assert kedit("hydra.run.dir=out", "seed=2") == (0, "")
    assert not (tmp_path / "out" / "captions.jsonl").exists()
    assert (tmp_path / "out" / "report.json").read_text() == "2\n"


def test_a_finished_run_of_which_nobody_knows_the_settings_stays(kedit: Command, tmp_path: Path) -> None:
    write_atomic(tmp_path / "out" / "STATUS", "done\n")
    code, text = kedit("hydra.run.dir=out")
    assert code == 2 and "which, nobody knows" in text
    assert kedit("hydra.run.dir=out", "overwrite=true") == (0, "")


@pytest.mark.parametrize("read", ["out/scores.safetensors", "out"])
def test_what_a_run_reads_is_not_overwritten_by_it(read: str, kedit: Command, tmp_path: Path) -> None:
    for name, content in (("scores.safetensors", "old"), ("report.json", "1"), ("STATUS", "done\n")):
        write_atomic(tmp_path / "out" / name, content)
    code, text = kedit("hydra.run.dir=out", "overwrite=true", f"scores={read}")
    assert code == 2 and f"`{read}` is read by this run and would be replaced by it" in text
    assert (tmp_path / "out" / "scores.safetensors").read_text() == "old"
    assert (tmp_path / "out" / "report.json").read_text() == "1"


def test_the_folder_that_the_user_works_in_is_not_cleared(kedit: Command, tmp_path: Path) -> None:
    for seed in (1, 2):
        assert kedit("hydra.run.dir=.", f"seed={seed}", "overwrite=true") == (0, "")
        write_atomic(tmp_path / "report.md", "mine")
    assert (tmp_path / "report.md").read_text() == "mine"


BY_NAME = (
    *("report.md", "captions.jsonl", "neurons_two_stage.json", "figures/layers.png", "figures/effects.pdf"),
    *("pictures/000-star.counterfactual.png", "wandb/run-2026"),
)


@pytest.mark.parametrize("name", BY_NAME)
def test_files_that_no_run_has_left_are_not_replaced(name: str, kedit: Command, recipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    (folder / "figures").mkdir(parents=True)
    write_atomic(folder / name, "mine")
    (folder / "figures" / "mine.png").write_text("mine")
    before = contents(folder)
    for words in ((), ("overwrite=true",)):
        code, text = kedit("hydra.run.dir=paper", *words)
        assert (code, text) == (2, f"kedit: `paper` holds files that no run has left there ({name}), which would be "
                                   "replaced or removed: name another folder\n")  # fmt: skip
        assert before.items() <= contents(folder).items()
    asked = result_folder(folder, "report.json", {}, overwrite=False)
    with pytest.raises(FinishedRunError, match="holds files that no run has left there"), asked:
        pass
    (folder / name).unlink()
    assert kedit("hydra.run.dir=paper") == (0, "")
    assert (folder / "figures" / "mine.png").read_text() == "mine"


def test_pictures_of_the_user_stay_whatever_runs_beside_them(kedit: Command, recipe: Any, tmp_path: Path) -> None:
    mine = ("pictures/1.png", "pictures/deep/2.png", "figures/mine.png", "wandb/mine.txt", "linked/000-a.control.png")
    for name in mine:
        write_atomic(tmp_path / "my" / name, "mine")
    (tmp_path / "my" / "pictures.jsonl").write_text("")
    elsewhere = tmp_path / "elsewhere" / "000-a.counterfactual.png"
    write_atomic(elsewhere, "mine")
    for seed in (1, 2):
        assert kedit("hydra.run.dir=my", f"seed={seed}", "overwrite=true") == (0, "")
    (tmp_path / "other").mkdir()
    write_atomic(tmp_path / "other" / "STATUS", "done\n")
    (tmp_path / "other" / "pictures").symlink_to(elsewhere.parent)
    assert kedit("hydra.run.dir=other", "overwrite=true") == (0, "")
    assert elsewhere.read_text() == "mine"
    assert [name for name in mine if (tmp_path / "my" / name).read_text() == "mine"] == list(mine)


def test_a_setting_that_is_called_as_the_folder_is_no_path(kedit: Command, tmp_path: Path) -> None:
    for _ in range(2):
        assert kedit("hydra.run.dir=zero", "edit=zero", "overwrite=true", "+name=zero") == (0, "")
    (tmp_path / "zero" / "pictures.jsonl").write_text("")
    assert kedit("hydra.run.dir=zero", "edit=zero", "overwrite=true", "scores=zero/pictures.jsonl") == (0, "")


def test_a_sweep_does_not_remove_the_job_that_it_reads(kedit: Command, tmp_path: Path) -> None:
    assert kedit("-m", "hydra.sweep.dir=swept", "seed=1,2") == (0, "")
    before = contents(tmp_path / "swept")
    words = ("hydra.sweep.dir=swept", "overwrite=true", "seed=3,4")
    read = "swept/0/report.json"
    for scores in (f"scores={read}", f"scores={read},elsewhere"):
        code, text = kedit("-m", *words, scores)
        assert code == 2 and f"`{read}` is read by this run and would be replaced by it" in text
    assert before.items() <= contents(tmp_path / "swept").items()


def test_overwrite_is_yes_or_no(kedit: Command, tmp_path: Path) -> None:
    code, text = kedit("hydra.run.dir=out", "overwrite=maybe")
    assert (code, text) == (2, "kedit: `overwrite` is true or false; got maybe\n")


def test_a_sweep_refuses_finished_jobs_of_other_settings_and_replaces_them_when_asked(
    kedit: Command, recipe: Any, tmp_path: Path
) -> None:
    assert kedit("-m", "hydra.sweep.dir=swept", "seed=1,2,3") == (0, "")
    before = contents(tmp_path / "swept")
    code, text = kedit("-m", "hydra.sweep.dir=swept", "seed=1,5")
    assert (code, text.count("\n")) == (2, 1)
    assert "`swept/1` holds a finished job with other settings (`seed` was 2, is 5)" in text
    assert contents(tmp_path / "swept") == before
    seeds = []
    recipe["job"] = lambda kept, settings: seeds.append(settings.seed)
    assert kedit("-m", "hydra.sweep.dir=swept", "seed=1,5", "overwrite=true") == (0, "")
    assert seeds == [5], "job 0 fits"
    assert not (tmp_path / "swept" / "2").exists(), "there is no such job any longer"


def test_a_sweep_goes_on_where_the_same_settings_are_written_otherwise(
    kedit: Command, recipe: Any, tmp_path: Path
) -> None:
    assert kedit("-m", "hydra.sweep.dir=swept", "seed=1,2") == (0, "")
    seeds = []
    recipe["job"] = lambda kept, settings: seeds.append(settings.seed)
    assert kedit("-m", "hydra.sweep.dir=swept", "edit=zero", "seed=1,2") == (0, "")
    assert seeds == []


def test_every_file_that_is_saved_is_known_to_whoever_clears_a_folder() -> None:
    saved = re.compile(r"""(?:kept|run)\.save_(?:text|json|jsonl|file)\(\s*f?"([^"]+)\"""")
    sources = [path for room in ("kedit", "experiments") for path in (ROOT / room).rglob("*.py")]
    names = {name for path in sources for name in saved.findall(path.read_text(encoding="utf-8"))}
    assert {"report.json", "captions.jsonl", "neurons_{name}.json"} <= names
    unknown = {name for name in names if not any(re.fullmatch(known.replace("*", ".*"), name) for known in FILES)}
    assert unknown <= {"figures/{name}"}, "put the stem into `STEMS` of kedit/results/run_folder.py"


def test_every_figure_is_known_to_whoever_clears_a_folder() -> None:
    before = r"(?:save_figures\(\{f?|(?:found|figures|drawings|drawn)\[|\{)"
    drawn = re.compile(before + r""""([a-z_{}]+)"(?:\]\s=|:)\s(?:draw|self\._d|benchmark)""")
    sources = [path for room in ("kedit", "experiments") for path in (ROOT / room).rglob("*.py")]
    names = {name for path in sources for name in drawn.findall(path.read_text(encoding="utf-8"))}
    assert {"layers", "overlap", "sensitivity", "sources", "pictures_{model}"} <= names
    unknown = {name for name in names if not any(re.fullmatch(known.replace("*", ".*"), name) for known in FIGURES)}
    assert not unknown, "put the name into `FIGURES` of kedit/results/run_folder.py"


# --- how a run begins and ends


@pytest.mark.parametrize("words", [("seed=1",), ("-m", "seed=1,2", "overwrite=true")], ids=" ".join)
def test_an_interrupted_command_says_how_to_go_on_and_that_does(
    words: tuple[str, ...], kedit: Command, recipe: Any, tmp_path: Path
) -> None:
    def interrupt(kept: Any, settings: DictConfig) -> None:
        raise KeyboardInterrupt

    recipe["job"] = interrupt
    code, text = kedit(*words)
    assert (code, text.count("\n")) == (130, 1)
    assert text.startswith("kedit: interrupted; to go on: kedit run ")
    way = shlex.split(text.partition("kedit run ")[2])
    assert way[:-1] == [word for word in words if word != "overwrite=true"]
    recipe["job"] = leave_seed
    assert kedit(*way) == (0, "")
    assert len(list(tmp_path.glob("ran-*"))) + len(list(tmp_path.glob("swept-*"))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hydra.job.chdir=true"], "`hydra.job.chdir=true`: kedit stays in the folder it is started in"),
        (["-m", "hydra.job.chdir=true", "seed=1,2"], "`hydra.job.chdir=true`: kedit stays"),
        (["-m", "hydra.sweep.subdir=x", "seed=1,2"], "`hydra.sweep.subdir=x`: the folder of a job is its number"),
        (["hydra.run.dir="], "`hydra.run.dir` is empty"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_would_scatter_the_files_of_a_run_is_refused(
    words: list[str], message: str, kedit: Command, tmp_path: Path
) -> None:
    code, text = kedit(*words)
    assert (code, text.count("\n")) == (2, 1)
    assert message in text
    assert not list(tmp_path.rglob("STATUS"))


def test_a_job_knows_the_folder_that_its_sweep_was_given(kedit: Command, recipe: Any, tmp_path: Path) -> None:
    folders = []
    recipe["job"] = lambda kept, settings: folders.append((HydraConfig.get().sweep.dir, kept.folder))
    for _ in range(2):
        assert kedit("-m", "seed=1") == (0, "")
    (first, _), (second, folder) = folders
    assert second == f"{first}-2" and folder == tmp_path / second / "0"


def test_what_a_job_is_asked_of_its_figures_is_checked_without_loading_torch() -> None:
    """Before every job, also one that is finished or refused: loading torch takes seconds."""
    lines = (
        "import sys, kedit.cli.jobs",
        "from kedit.cli.configuration import figure_style",
        "from omegaconf import OmegaConf",
        "print(figure_style(OmegaConf.create({'figures': {'format': 'pdf'}})).format, 'torch' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout == "pdf False\n"
