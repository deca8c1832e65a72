"""What `kedit locate` leaves and says: scores, neurons, a figure and how it was done."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kedit import __version__
from kedit.locate.joining import joined
from kedit.locate.parts import Part
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.runs import Run
from kedit.tracking import Tracker


class Found(NamedTuple):
    """The scores of all samples, from however many parts, and whose they are."""

    scores: dict[str, NeuronScores]
    ids: tuple[str, ...]
    """The samples that were scored, in order."""
    whole: Part
    """All parts as one."""


def found(locator: Any, parts: Sequence[Part]) -> Found:
    """Return the merged scores of the parts and the ids of their samples; see `Locator.merged` for what is refused."""
    whole = joined(parts)
    if not whole.n_pairs and (still := whole.left_out.get("counterfactual_names_it")):
        raise ValueError(
            f"the model names `{whole.concept}` in all {still} counterfactual pictures: the inpainting does not "
            "remove it"
        )
    return Found(locator.merged(parts), tuple(whole.samples.values()), whole)


def leave(
    locator: Any, name: str, parts: Sequence[Part], run: Run, tracker: Tracker, seconds: float | None = None
) -> None:
    """Merge the parts, select, and leave all of it in the folder of `run`.

    Args:
        locator: Whose parts they are; it selects.
        name: What the configuration calls it.
        parts: Those of all shards.
        run: The open folder.
        tracker: Who mirrors it.
        seconds: How long all of it took, if that is known.
    """
    from kedit.pipelines.locate import without_seconds
    from kedit.plots import draw_layers

    scores, ids, whole = found(locator, parts)
    stages = locator.select_each(scores)
    neurons = list(stages.values())[-1]
    report = described(locator, name, whole, ids, scores, stages)
    run.save_file("scores.safetensors", lambda path: save_scores(without_seconds(scores), path))
    run.save_json("neurons.json", neurons.to_json())
    run.save_json("locate.json", report)
    timing = {"locate_seconds": whole.seconds} | ({} if seconds is None else {"seconds": seconds})
    run.save_json("timing.json", {key: round(value, 3) for key, value in timing.items()})
    counts = [{layer: len(indices) for layer, indices in one.by_layer().items()} for one in stages.values()]
    widths, candidates = whole.maker.widths, counts[0] if len(counts) > 1 else None
    figure = run.save_figure("layers.png", draw_layers({"": counts[-1]}, widths, candidates=candidates).save)
    tracker.log({"neurons": len(neurons), "samples": len(ids)})
    tracker.table("neurons", ("layer", "index"), [list(one) for one in neurons])
    tracker.figure("layers", figure)
    tell(report, run)


def described(
    locator: Any,
    name: str,
    whole: Part,
    ids: Sequence[str],
    scores: Mapping[str, NeuronScores],
    stages: Mapping[str, NeuronSet],
) -> dict[str, Any]:
    """Return what locate.json holds: the same however many parts there were."""
    from kedit.pipelines.locate import cost_part, neuron_part

    selectors = {stage: repr(one.select) for stage, one in getattr(locator, "stages", {}).items()}
    return {
        "kedit": __version__,
        "concept": whole.concept,
        "model": whole.maker.model,
        "locator": name,
        "target": whole.maker.target,
        "stages": {
            stage: {
                "scorer": scores[stage].method if stage in scores else None,
                "select": selectors.get(stage),
                "highest": highest(scores.get(stage)),
                "count": len(kept),
            }
            for stage, kept in stages.items()
        },
        "neurons": neuron_part(list(stages.values())[-1], sum(whole.maker.widths.values())),
        "samples": {
            "located": len(ids),
            "skipped": {**whole.left_out, "caption_does_not_name_it": len(whole.skipped)},
            "ids": list(ids),
        },
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
    layers = ", ".join(f"layer {layer}: {count}" for layer, count in neurons["by_layer"].items()) or "in no layer"
    print(f"neurons: {neurons['count']} ({neurons['share']:.2%}), {layers}\nfiles: {run.folder}")
