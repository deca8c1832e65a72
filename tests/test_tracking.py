"""W&B gets everything, offline, without a question or a wait, and its failures cost nothing."""

import json
import logging
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from wandb_reader import offline_run

from kedit.results.tracking import Tracker, WandbTracker

ROOT = Path(__file__).resolve().parent.parent
KEY = "0" * 40


def from_outside(variable: str) -> bool:
    """Return whether an environment variable would tell W&B where to go or who it is."""
    return variable.startswith("WANDB_") or variable.lower().endswith("_proxy") or variable == "NETRC"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty home folder without keys; nothing may be written there."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if from_outside(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    yield home
    assert list(home.iterdir()) == []


def tell(tracker: Tracker, folder: Path, failed: str | None = None) -> None:
    """Tell a tracker a small run."""
    picture = folder / "layers.png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), "red").save(picture)
    tracker.start("star", {"concept": "star", "locate": {"q": 0.9}, "folder": folder, "seeds": (1, 2)}, folder)
    tracker.log({"suppression/mention_drop": 0.5})
    tracker.log({"suppression/mention_drop": 0.95, "retention/bleu": 1.0})
    tracker.table("captions", ["id", "before", "after"], [[7, "a red star", "a red shape"], ["x8", "é", None]])
    tracker.figure("figures/layers", picture)
    tracker.finish(failed)


def test_a_run_read_back_from_the_offline_file_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tell(WandbTracker(project="p", group="sweep 1"), folder)
    found = offline_run(folder)
    assert (found["run"].project, found["run"].run_group, found["run"].display_name) == ("p", "sweep 1", "star")
    assert {name: value for name, value in found["config"].items() if name != "_wandb"} == {
        "concept": "star",
        "locate": {"q": 0.9},
        "folder": str(folder),
        "seeds": [1, 2],
    }
    assert [row.get("suppression/mention_drop") for row in found["history"]][:2] == [0.5, 0.95]
    assert found["summary"]["suppression/mention_drop"] == 0.95
    assert found["summary"]["retention/bleu"] == 1.0
    assert "failed" not in found["summary"]
    assert found["exit"] == 0


def test_tables_and_figures_lie_beside_the_offline_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    tell(WandbTracker(), folder)
    found = offline_run(folder)
    (files,) = folder.glob("wandb/offline-run-*/files")
    table = json.loads((files / found["summary"]["captions.path"]).read_text())
    assert table["columns"] == ["id", "before", "after"]
    assert table["data"] == [[7, "a red star", "a red shape"], ["x8", "é", None]]
    picture = files / found["summary"]["figures/layers.path"]
    assert picture.read_bytes() == (folder / "layers.png").read_bytes()
    assert {str(picture.relative_to(files))} < set(found["files"])


def test_a_failed_run_is_marked_failed_with_its_reason(tmp_path: Path) -> None:
    tell(WandbTracker(), tmp_path, failed="ValueError: no sample shows `star`")
    found = offline_run(tmp_path)
    assert found["exit"] == 1
    assert found["summary"]["failed"] == "ValueError: no sample shows `star`"


def test_one_tracker_serves_the_runs_of_a_sweep_each_in_its_folder(tmp_path: Path) -> None:
    tracker = WandbTracker()
    before = dict(os.environ)
    for number in range(2):
        tell(tracker, tmp_path / str(number), failed="boom" if number == 0 else None)
    assert [offline_run(tmp_path / str(number))["exit"] for number in range(2)] == [1, 0]
    assert set(os.environ) - set(before) <= {"WANDB_ERROR_REPORTING", "WANDB_SERVICE"}


def test_a_summary_run_stands_beside_the_jobs_in_their_group(tmp_path: Path) -> None:
    jobs = WandbTracker(group="thresholds")
    summary = replace(jobs, job_type="summary")
    jobs.start("job 0", {}, tmp_path / "job")
    tell(summary, tmp_path / "summary")
    jobs.log({"drop": 0.5})
    jobs.finish("boom")
    job, whole = (offline_run(tmp_path / name) for name in ("job", "summary"))
    assert (job["run"].run_group, job["run"].job_type, job["exit"]) == ("thresholds", "", 1)
    assert (whole["run"].run_group, whole["run"].job_type, whole["exit"]) == ("thresholds", "summary", 0)
    assert job["summary"]["drop"] == 0.5
    assert "drop" not in whole["summary"]


def test_a_run_of_the_users_own_stays_open(tmp_path: Path) -> None:
    import wandb

    with wandb.init(project="p", mode="offline", dir=str(tmp_path), settings=wandb.Settings(silent=True)) as own:
        tell(WandbTracker(), tmp_path / "job")
        own.log({"loss": 1.0})
    assert offline_run(tmp_path)["summary"]["loss"] == 1.0
    assert offline_run(tmp_path / "job")["exit"] == 0


def test_a_run_that_nobody_finished_is_marked_failed_when_the_next_one_starts(tmp_path: Path) -> None:
    tracker = WandbTracker()
    tracker.start("first", {}, tmp_path / "first")
    tell(tracker, tmp_path / "second")
    assert offline_run(tmp_path / "first")["exit"] == 1
    assert offline_run(tmp_path / "second")["exit"] == 0


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tell(WandbTracker(), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written_costs_the_mirror_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    tracker = WandbTracker()
    with caplog.at_level(logging.WARNING, "kedit"):
        tracker.start("star", {}, tmp_path / "file" / "run")
        tracker.log({"a": 1.0})
        tracker.table("captions", ["id"], [["7"]])
        tracker.figure("layers", tmp_path / "none.png")
        tracker.finish()
    (warning,) = [one.getMessage() for one in caplog.records]
    assert "W&B could not start" in warning
    assert "Not a directory" in warning


@pytest.mark.parametrize("suffix", [".pdf", ".svg"])
def test_what_wandb_cannot_show_is_not_sent(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    tracker = WandbTracker()
    monkeypatch.setattr(tracker._open, "run", SimpleNamespace(log=sent.append))
    tracker.figure("layers", Path(f"layers{suffix}"))
    assert sent == []


def test_a_figure_or_table_that_cannot_be_logged_costs_only_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = WandbTracker()
    with caplog.at_level(logging.WARNING, "kedit"):
        tracker.start("star", {}, tmp_path)
        tracker.figure("layers", tmp_path / "none.png")
        tracker.table("captions", ["id", "after"], [["too short"]])
        tracker.log({"after": 1.0})
        tracker.finish()
    assert [one.getMessage().split(":")[0] for one in caplog.records] == [
        "W&B could not log figure `layers`",
        "W&B could not log table `captions`",
    ]
    assert offline_run(tmp_path)["summary"]["after"] == 1.0


def test_finishing_what_never_started_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    WandbTracker().finish()
    WandbTracker().finish("boom")
    assert not caplog.records


@pytest.mark.parametrize("tracker", ["NoTracker()", "WandbTracker(mode='disabled')"])
def test_a_tracker_that_tells_nobody_never_imports_wandb(tracker: str, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from kedit.results.tracking import NoTracker, WandbTracker
tracker = {tracker}
tracker.start("star", {{}}, Path({str(tmp_path / "run")!r}))
tracker.log({{"a": 1.0}})
tracker.table("t", ["a"], [[1]])
tracker.figure("f", Path("none.png"))
tracker.finish("boom")
assert "wandb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_an_environment_that_asks_for_no_wandb_gets_none(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    for mode in ("offline", "online"):
        tell(WandbTracker(mode=mode), tmp_path / mode)  # type: ignore[arg-type]
        assert not (tmp_path / mode / "wandb").exists()


def test_the_id_in_the_environment_is_that_of_one_run_and_of_none_in_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RUN_ID": "requeue42", "RESUME": "must", "NAME": "mine", "PROJECT": "p"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    runs = {"job": WandbTracker(group="sweep"), "alone": WandbTracker(), "again": WandbTracker()}
    runs["summary"] = WandbTracker(group="sweep", job_type="summary")
    for name, tracker in runs.items():
        tell(tracker, tmp_path / name)
    found = {name: offline_run(tmp_path / name)["run"] for name in runs}
    assert [name for name in runs if found[name].run_id == "requeue42"] == ["alone"]
    assert len({run.run_id for run in found.values()}) == len(runs)
    names = {name: run.display_name for name, run in found.items()}
    assert names == {"job": "star", "summary": "star", "alone": "mine", "again": "mine"}
    assert {run.project for run in found.values()} == {"p"}


def test_folders_in_the_environment_do_not_move_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DIR", "/proc/nowhere")
    tell(WandbTracker(), tmp_path / "run")
    assert offline_run(tmp_path / "run")["exit"] == 0


def test_a_mode_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match="one of offline, online, disabled; got 'ofline'"):
        WandbTracker(mode="ofline")  # type: ignore[arg-type]


ONLINE = """
import json, logging, os, sys, time
from pathlib import Path
import wandb
from kedit.results.tracking import WandbTracker

tracker = WandbTracker(mode="online", timeout=2)
for name, environment in json.loads(sys.argv[2]).items():
    logging.basicConfig(format=f"WARNED {name}: %(message)s", force=True)
    os.environ.update(environment)
    began = time.monotonic()
    tracker.start(name, {"a": 1}, Path(sys.argv[1], name))
    print(f"STARTED {name} after {time.monotonic() - began} s")
    tracker.log({"b": 2.0})
    tracker.finish()
    wandb.teardown()  # so that the next one reads the environment anew
    for variable in environment:
        del os.environ[variable]
"""


@pytest.fixture(scope="module")
def online(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Start online runs that cannot be, on a terminal where nobody types; return their folder and what was shown."""
    folder = tmp_path_factory.mktemp("online")
    (folder / "home").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed, socket.create_server(("127.0.0.1", 0)) as silent:
        nobody, mute = (f"127.0.0.1:{one.getsockname()[1]}" for one in (closed, silent))
        closed.close()
        for name, text in (("good", f"machine {nobody}\n  login user\n  password {KEY}\n"), ("bad", "nonsense\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        scenarios = {
            "no key": {},
            "closed port": {"WANDB_BASE_URL": f"http://{nobody}", "WANDB_API_KEY": KEY},
            "no such host": {"WANDB_BASE_URL": "https://wandb.invalid", "WANDB_API_KEY": KEY},
            "silent server": {"WANDB_BASE_URL": f"http://{mute}", "WANDB_API_KEY": KEY},
            "key in netrc": {"WANDB_BASE_URL": f"http://{nobody}", "NETRC": str(folder / "good")},
            "malformed netrc": {"WANDB_BASE_URL": f"http://{nobody}", "NETRC": str(folder / "bad")},
        }
        kept = {name: value for name, value in os.environ.items() if not from_outside(name)}
        environment = kept | {"PYTHONPATH": str(ROOT), "HOME": str(folder / "home")}
        return folder, shown_on_a_terminal(
            [sys.executable, "-c", ONLINE, str(folder), json.dumps(scenarios)], environment
        )


def shown_on_a_terminal(command: list[str], environment: dict[str, str]) -> str:
    """Run `command` on a terminal of its own and return all it shows; it may take a minute."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown, deadline = b"", time.monotonic() + 60
    try:
        while select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0]:
            shown += os.read(ours, 4096)
    except OSError:
        pass  # how Linux says that the other side of a terminal is gone
    finally:
        process.kill() if time.monotonic() >= deadline else process.wait()
        os.close(ours)
    assert process.wait() == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("no key", "there is no API key for https://"),
        ("closed port", "http://127.0.0.1:.* cannot be reached"),
        ("no such host", "https://wandb.invalid cannot be reached"),
        ("silent server", ""),
        ("key in netrc", "http://127.0.0.1:.* cannot be reached"),
        ("malformed netrc", "there is no API key for http://127.0.0.1"),
    ],
)
def test_online_that_cannot_be_goes_offline_without_a_question_or_a_wait(
    online: tuple[Path, str], scenario: str, reason: str
) -> None:
    folder, shown = online
    assert re.search(f"WARNED {scenario}: W&B is offline for this run: {reason}.*; upload it later", shown), shown
    (took,) = re.findall(f"STARTED {scenario} after (.*) s", shown)
    assert float(took) < 20  # W&B's own patience is 90
    found = offline_run(folder / scenario)
    assert (found["config"]["a"], found["summary"]["b"], found["exit"]) == (1, 2.0, 0)
