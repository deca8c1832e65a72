"""What `kedit locate` leaves and says: scores, neurons, a figure and how it was done."""

import time
from collections.abc import Mapping
from typing import Any

from experiments.show import layers_told
from kedit import __version__
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.runs import Run
from kedit.tracking import Tracker


def leave(
    locator: Any,
    name: str,
    scores: Mapping[str, NeuronScores],
    about: Mapping[str, Any],
    run: Run,
    tracker: Tracker,
    began: float,
) -> None:
    """Select, and leave scores, neurons, a figure and how it was done in the folder of `run`."""
    from kedit.pipelines.locate import without_seconds
    from kedit.plots import draw_layers

    stages = locator.select_each(scores)
    neurons = list(stages.values())[-1]
    report = described(locator, name, scores, stages, about)
    run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(scores), path))
    run.save_json("neurons.json", neurons.to_json())
    run.save_json("locate.json", report)
    first = next(iter(scores.values()))
    timing = {"seconds": time.perf_counter() - began}
    if "seconds" in first.provenance:
        timing = {"locate_seconds": float(first.provenance["seconds"])} | timing
    run.save_json("timing.json", {key: round(value, 3) for key, value in timing.items()})
    counts = [{layer: len(indices) for layer, indices in one.by_layer().items()} for one in stages.values()]
    widths = {int(layer): width for layer, width in about["widths"].items()}
    candidates = counts[0] if len(counts) > 1 else None
    figure = run.save_figure("layers.png", draw_layers({"": counts[-1]}, widths, candidates=candidates).save)
    tracker.log({"neurons": len(neurons), "samples": about["samples"]["located"]})
    tracker.table("neurons", ("layer", "index"), [list(one) for one in neurons])
    tracker.figure("layers", figure)
    tell(report, run)


def described(
    locator: Any,
    name: str,
    scores: Mapping[str, NeuronScores],
    stages: Mapping[str, NeuronSet],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what locate.json holds: the same however many shards there were."""
    from kedit.pipelines.locate import cost_part, neuron_part

    provenance = next(iter(scores.values())).provenance
    selectors = {stage: repr(one.select) for stage, one in getattr(locator, "stages", {}).items()}
    return {
        "kedit": __version__,
        "concept": provenance["concept"],
        "model": provenance["model"],
        "locator": name,
        "target": provenance["target"],
        "stages": {
            stage: {
                "scorer": scores[stage].method if stage in scores else None,
                "select": selectors.get(stage),
                "highest": highest(scores.get(stage)),
                "count": len(kept),
            }
            for stage, kept in stages.items()
        },
        "neurons": neuron_part(list(stages.values())[-1], sum(about["widths"].values())),
        "samples": about["samples"],
        "cost": cost_part(scores),
    }


def highest(scores: NeuronScores | None) -> float | None:
    """Return the highest score, or None where there is none."""
    known = scores.values[scores.values.isfinite()] if scores is not None else ()
    return float(max(known)) if len(known) else None


def tell(report: Mapping[str, Any], run: Run) -> None:
    """Print what was found in a few lines."""
    neurons, samples = report["neurons"], report["samples"]
    print(f"`{report['concept']}` in {report['model']} by {report['locator']}: {samples['located']} samples")
    for stage, one in report["stages"].items():
        print(f"  {stage}: {one['count']} neurons" + (f" by {one['select']}" if one["select"] else ""))
    print(f"neurons: {neurons['count']} ({neurons['share']:.2%}), {layers_told(neurons)}\nfiles: {run.folder}")
