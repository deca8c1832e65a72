"""What a command shows of a run: the tracker's copy, and one table in the terminal."""

from pathlib import Path

from kedit.page import PAGE
from kedit.pipelines.draw import DrawResult
from kedit.pipelines.inspect import Inspection
from kedit.pipelines.locate import LocateResult
from kedit.pipelines.run import BeforeAfter, CaptionChange, RunResult
from kedit.pipelines.task import AnswerChange, TaskResult
from kedit.results.reports import report_metrics
from kedit.results.run_folder import Run
from kedit.results.tracking import Tracker


def mirror(result: BeforeAfter, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the figures, the neurons if some were located, the captions and the pictures of a run."""
    tracker.log(report_metrics(result.to_json()))
    if isinstance(result, RunResult):
        tracker.table("neurons", ("layer", "index"), [list(one) for one in result.neurons])
    tracker.table("captions", CaptionChange._fields, [list(row) for row in result.captions])
    tell_figures(tracker, run)


def mirror_located(result: LocateResult, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the neurons, from how many samples they are, and the figures."""
    tracker.log({"neurons": len(result.neurons), "samples": result.located.sample_counts["located"]})
    tracker.table("neurons", ("layer", "index"), [list(one) for one in result.neurons])
    tell_figures(tracker, run)


def mirror_inspection(result: Inspection, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the measures and the pictures of an inspection."""
    report, table = result.to_json(), result.table()
    tracker.log(report_metrics({part: report[part] for part in ("measures", "neurons")}))
    tracker.table("measures", table.columns, table.texts)
    tell_figures(tracker, run)


def mirror_task(result: TaskResult, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the figures, the answers and the pictures of a task."""
    tracker.log(report_metrics(result.to_json()))
    tracker.table("answers", AnswerChange._fields, [list(row) for row in result.answers])
    tell_figures(tracker, run)


def mirror_drawings(result: DrawResult, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the figures, the neurons and the pictures of drawings."""
    report = result.to_json()
    tracker.log(report_metrics({part: report[part] for part in ("drawings", "neurons", "selectivity")}))
    tracker.table("neurons", ("layer", "index"), [list(one) for one in result.neurons])
    tell_figures(tracker, run)


def tell_figures(tracker: Tracker, run: Run) -> None:
    """Mirror the run's figures, each under its name."""
    for figure in run.figures:
        tracker.figure(Path(figure).stem, run.folder / figure)


def terminal(result: object, run: Run) -> None:
    """Print what a person reads in ten seconds."""
    page = run.folder / PAGE
    print(f"{result}\nfiles: {run.folder}" + f"\npage: {page}" * page.is_file())
