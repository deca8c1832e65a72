"""What a command shows of a run: the tracker's copy, and one table in the terminal."""

from collections.abc import Mapping
from typing import Any

from kedit.evaluation.statistics import two_places
from kedit.pipelines.locate import LocateResult
from kedit.pipelines.run import CaptionChange, RunResult
from kedit.reports import report_metrics
from kedit.runs import Run
from kedit.tracking import Tracker


def mirror(result: RunResult, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the figures, the neurons, the captions and the pictures of a run."""
    tracker.log(report_metrics(result.to_json()))
    tracker.table("neurons", ("layer", "index"), [list(one) for one in result.neurons])
    tracker.table("captions", CaptionChange._fields, [list(row) for row in result.captions])
    tell_figures(tracker, run)


def mirror_located(result: LocateResult, tracker: Tracker, run: Run) -> None:
    """Tell the tracker the neurons, from how many samples they are, and the figures."""
    tracker.log({"neurons": len(result.neurons), "samples": result.located.sample_counts["located"]})
    tracker.table("neurons", ("layer", "index"), [list(one) for one in result.neurons])
    tell_figures(tracker, run)


def tell_figures(tracker: Tracker, run: Run) -> None:
    """Mirror the run's figures, each under its name."""
    for figure in run.figures:
        tracker.figure(figure.removeprefix("figures/").removesuffix(".png"), run.folder / figure)


def layers_told(neurons: Mapping[str, Any]) -> str:
    """Return how many neurons each layer has, from the "neurons" part of a report."""
    return ", ".join(f"layer {layer}: {count}" for layer, count in neurons["by_layer"].items()) or "in no layer"


def terminal(result: RunResult, run: Run) -> None:
    """Print what a person reads in ten seconds."""
    print(f"{result}\nfiles: {run.folder}")


def shown(measured: Mapping[str, Any]) -> str:
    """Return a measured value with its interval, or why there is none."""
    if measured["value"] is None:
        return f"n/a ({measured.get('why', '')})"
    value, low, high = (measured[key] for key in ("value", "low", "high"))
    return two_places(value) if low is None else f"{two_places(value)} [{two_places(low)}, {two_places(high)}]"
