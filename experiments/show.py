"""What a run shows: report, figures, tracker and one table in the terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.interviews import Told
from experiments.recall import FORGETFUL, Recall, of_pairs
from experiments.steps import Located
from kedit.evaluation.exam import Exam
from kedit.evaluation.statistics import Measured, bootstrap_mean, two_places
from kedit.inspection import heat_map, other_regions
from kedit.inspection.grid import NoGridError, picture_grids
from kedit.inspection.responses import at_image, half_a_cell, pointing
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.plots import CaptionRow, HeatRow, draw_before_after, draw_effects, draw_heatmaps, draw_layers, draw_scores
from kedit.reports import report_markdown, report_metrics
from kedit.runs import Run
from kedit.sites import Site
from kedit.tracking import Tracker

N_SHOWN = 4
N_EXAMPLES = 3
EFFECTS = {
    "suppression": ("mention_drop", "substitutions"),
    "retention": ("objects", "others", "text", "bleu", "rougeL", "bertscore"),
}


def everything(
    report: dict[str, Any],
    located: Located,
    exam: Exam,
    told: Told,
    site: Site,
    run: Run,
    tracker: Tracker,
    *,
    figures: bool,
) -> None:
    """Write the report, the captions and the figures, and tell the tracker."""
    rows = caption_rows(exam, told)
    run.save_jsonl("captions.jsonl", rows)
    run.save_json("report.json", report)
    if figures:
        draw(report, located, exam, told, site, run)
    page = report | {"examples": examples(rows), "figures": run.figures}
    run.save_text("report.md", report_markdown(page))
    tell(tracker, report, rows, located.neurons, run)


def examples(rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Return a few rows that show what the edit does."""
    changed = [row for row in rows if row["group"] == "target" and row["before"] != row["after"]]
    return (changed or rows)[:N_EXAMPLES]


def caption_rows(exam: Exam, told: Told) -> list[dict[str, Any]]:
    """Return one row for each sample and question, as captions.jsonl holds them."""
    before, after, rows = told.before, told.after, []
    for group in ("target", "near", "far"):
        for sample, old, new in zip(getattr(exam, group), getattr(before, group), getattr(after, group), strict=True):
            rows.append({"id": sample.id, "group": group, "before": old, "after": new})
    for question, old, new in zip(exam.questions, before.answers, after.answers, strict=True):
        rows.append({"id": question.text, "group": "text", "before": old, "after": new})
    return rows


def heat_maps(
    model: MLLM, site: Site, located: Located, run: Run, *, figures: bool, recall: Recall = FORGETFUL
) -> dict[str, Any]:
    """Return how well the places where the located neurons fire point at the concept, and draw them."""
    if not located.neurons:
        return {"why": "no neuron was located"}
    if site.scope != "language":
        return {"why": f"the neurons are of scope `{site.scope}`, and heat maps are of the language model's positions"}
    rows: list[HeatRow] = []

    def look() -> dict[str, Any]:
        try:
            judged, rows[:] = _looked(model, site, located)
        except NoGridError as error:
            return {"why": str(error)}
        return judged

    def about() -> dict[str, Any]:
        return {"pairs": of_pairs(located.pairs), "neurons": located.neurons.to_json()}

    judged: dict[str, Any] = recall.json("report", "heat maps", about, look)
    if figures and "why" not in judged:
        if not rows:
            look()
        run.save_figure("heatmaps.png", draw_heatmaps(rows[:N_SHOWN], concept=located.pairs[0].concept.name).save)
    return judged


def _looked(model: MLLM, site: Site, located: Located) -> tuple[dict[str, Any], list[HeatRow]]:
    """Return the shares of hits and the AUC, and a row of pictures for each pair."""
    pairs = located.pairs
    images = [pair.sample.image for pair in pairs]
    grids = picture_grids(model, images)
    shown, hits, aucs = [], [], []
    seen = at_image(model, site, [located.neurons], images)
    for pair, one, grid, caption in zip(pairs, seen, grids, located.captions, strict=True):
        others, cell = other_regions(pair.sample, pair.concept), half_a_cell(grid, pair.sample)
        judged = pointing(one.values, grid, pair.sample, pair.concept, others)
        hits.append(float(judged.hit))
        if judged.auc is not None:
            aucs.append(judged.auc)
        heat, beside = heat_map(one.values, grid, pair.sample.image.size), others if others.any() else None
        region = pair.sample.region(pair.concept)
        shown.append(HeatRow(pair.sample.image, pair.image, heat, region, caption.text, beside, cell))
    shown.sort(key=lambda row: row.others is None)
    missing = Measured.missing("no picture shows another object")
    return {
        "pointing": bootstrap_mean(hits).to_json(),
        "auc_against_other_objects": (bootstrap_mean(aucs) if aucs else missing).to_json(),
    }, shown


def draw(
    report: Mapping[str, Any],
    located: Located,
    exam: Exam,
    told: Told,
    site: Site,
    run: Run,
) -> None:
    """Draw the layers, the scores, the captions and the effects."""
    stages = list(located.stages.values())
    counts = [{layer: len(indices) for layer, indices in one.by_layer().items()} for one in stages]
    candidates = counts[0] if len(counts) > 1 else None
    run.save_figure("layers.png", draw_layers({"": counts[-1]}, site.widths, candidates=candidates).save)
    if len(stages) > 1:
        run.save_figure("scores.png", draw_scores(located.scores, located.stages).save)
    before, after = told.before, told.after
    changed = sorted(zip(exam.target, before.target, after.target, strict=True), key=lambda row: row[1] == row[2])
    words = (exam.concept.name, *exam.concept.words)
    rows = [CaptionRow(sample.image, old, new, words) for sample, old, new in changed[:N_SHOWN]]
    kept = zip(exam.near[:2], before.near[:2], after.near[:2], strict=True)
    rows += [CaptionRow(sample.image, old, new, words) for sample, old, new in kept]
    verdict = str(report["verdict"]).partition(": ")[0]
    no_evidence = verdict if verdict.startswith("No evidence") else None
    run.save_figure("before_after.png", draw_before_after(rows, title=no_evidence).save)
    suppression, retention = (
        {
            name: (Measured(**report[part][name]), Measured(**report["control"][part][name]))
            for name in names
            if name in report["control"][part]
        }
        for part, names in EFFECTS.items()
    )
    if suppression or retention:
        run.save_figure("effects.png", draw_effects(suppression, retention, title=verdict).save)


def tell(
    tracker: Tracker, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], neurons: NeuronSet, run: Run
) -> None:
    """Mirror the run."""
    tracker.log(report_metrics(report))
    tracker.table("neurons", ("layer", "index"), [list(one) for one in neurons])
    columns = ("id", "group", "before", "after")
    tracker.table("captions", columns, [[row[column] for column in columns] for row in rows])
    tell_figures(tracker, run)


def tell_figures(tracker: Tracker, run: Run) -> None:
    """Mirror the run's figures, each under its name."""
    for figure in run.figures:
        tracker.figure(figure.removeprefix("figures/").removesuffix(".png"), run.folder / figure)


def layers_told(neurons: Mapping[str, Any]) -> str:
    """Return how many neurons each layer has, from the "neurons" part of a report."""
    return ", ".join(f"layer {layer}: {count}" for layer, count in neurons["by_layer"].items()) or "in no layer"


def terminal(report: Mapping[str, Any], run: Run) -> None:
    """Print what a person reads in ten seconds."""
    from rich.console import Console

    rows = [json.loads(line) for line in (run.folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]

    console = Console()
    neurons = report["neurons"]
    console.print(effects_table(report))
    console.print(f"neurons: {neurons['count']} ({neurons['share']:.2%}), {layers_told(neurons)}", highlight=False)
    console.print(report["verdict"], highlight=False, markup=False)
    for row in examples(rows):
        console.print(f"  before: {row['before']}\n  after:  {row['after']}", highlight=False, markup=False)
    console.print(f"files: {run.folder}", highlight=False, markup=False, soft_wrap=True)


def effects_table(report: Mapping[str, Any]) -> Any:
    """Return suppression and retention of the edit, beside the control's."""
    from rich.table import Table

    seeds = f"{report['control']['seeds']} seeds"
    edit = f"{report['operator']} of {report['neurons']['count']} neurons"
    table = Table(title=f"{report['concept']} in {report['model']}", title_justify="left")
    table.add_column("")
    for title in (edit, f"random control, {seeds}", "n"):
        table.add_column(title, justify="right")
    for part, names in EFFECTS.items():
        table.add_row(f"[bold]{part}[/bold]")
        for name in names:
            edited, control = report[part][name], report["control"][part].get(name)
            table.add_row(f"  {name}", shown(edited), shown(control) if control else "-", str(edited["n"]))
        table.add_section()
    table.add_row("selectivity", shown(report["selectivity"]), "-", "")
    return table


def shown(measured: Mapping[str, Any]) -> str:
    """Return a measured value with its interval, or why there is none."""
    if measured["value"] is None:
        return f"n/a ({measured.get('why', '')})"
    value, low, high = (measured[key] for key in ("value", "low", "high"))
    return two_places(value) if low is None else f"{two_places(value)} [{two_places(low)}, {two_places(high)}]"
