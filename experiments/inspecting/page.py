"""What `kedit inspect` shows: inspect.md, one figure of all measures, the tracker and the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.inspecting import depths
from experiments.inspecting.rows import Row
from experiments.show import layers_told, tell_figures
from kedit.evaluation.statistics import Measured
from kedit.plots import draw_measures
from kedit.reports import markdown_table, report_metrics
from kedit.runs import Run
from kedit.tracking import Tracker

HEADER = ("section", "measure", "located", "random, layer-matched", "difference", "n")


LEGEND = """\
- words: the share of neurons with a word of the concept among those they raise most; their words against captions.
- heat maps: where the mean activation peaks, the pixels of at least half the peak against the region, and the chance
  that a pixel of the concept is hotter than one of another object.
- sensitivity: the chance that the set fires more at the image tokens of a picture with the concept than of one without.
- stability: the share of neurons in common with those located on other samples (split halves, a part of the samples
  and all, each two single pictures), with the image tokens in another order (region invariance), and one minus the
  share in common with other concepts (specificity); always of as many neurons.
- moved by zeroing: the mean absolute change over the layers of the cosine between a modality's mean state and the last
  token's, of its states and the text's mean, and of special and text tokens."""


def everything(report: Mapping[str, Any], rows: Sequence[Row], kept: Run, tracker: Tracker) -> None:
    """Write inspect.json, inspect.md and the figure of all measures, tell the tracker, and print a summary."""
    known: dict[str, dict[str, tuple[Measured, Measured | None]]] = {}
    for row in rows:
        if row.located.value is not None and row.section != depths.SECTION:
            known.setdefault(row.section, {})[row.name] = row.located, row.random
    if known:
        title = f"`{report['concept']}`: {report['neurons']['count']} located neurons beside random ones"
        kept.save_figure("measures.png", draw_measures(known, title=title).save)
    kept.save_json("inspect.json", report)
    kept.save_text("inspect.md", markdown(report, rows, kept))
    tracker.log(report_metrics({"measures": report["measures"], "neurons": report["neurons"]}))
    tracker.table("measures", HEADER, [cells(row) for row in rows])
    tell_figures(tracker, kept)
    terminal(report, rows, kept)


def measures_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the rows as inspect.json holds them: by section and name."""
    sections: dict[str, Any] = {}
    for row in rows:
        sections.setdefault(row.section, {})[row.name] = row.to_json()
    return sections


def cells(row: Row) -> tuple[str, ...]:
    """Return one row of the table."""
    n = "-" if row.located.value is None else str(row.located.n)
    return (row.section, row.name, *(shown(one) for one in (row.located, row.random, row.difference)), n)


def shown(one: Measured | None) -> str:
    """Return a figure with its interval, a dash for none, or why it could not be measured."""
    if one is None:
        return "-"
    if one.value is None:
        return f"n/a: {one.why}"
    # A cosine moves by thousandths.
    places = 3 if 0 < abs(one.value) < 0.05 else 2
    interval = "" if one.low is None or one.high is None else f" [{one.low:.{places}f}, {one.high:.{places}f}]"
    return f"{one.value:.{places}f}{interval}"


def markdown(report: Mapping[str, Any], rows: Sequence[Row], kept: Run) -> str:
    """Return inspect.md."""
    blocks = [
        f"# What `{report['locator']}` located for {report['concept']} in {report['model']}",
        _summary(report),
        markdown_table(HEADER, [cells(row) for row in rows]),
        "Figures are with their 95 % interval; a random figure without one is known exactly. `n` counts what the "
        "figure is a mean over: neurons, pictures, concepts, or random draws of samples or permutations.",
        LEGEND,
        _by_depth(report["details"].get("convergence") or {}),
        "The words of each neuron are in [decode.md](decode.md).",
        *(f"![{figure.removeprefix('figures/')}]({figure})" for figure in kept.figures),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _summary(report: Mapping[str, Any]) -> str:
    neurons = report["neurons"]
    return f"**{neurons['count']} neurons** ({neurons['share']:.2%} of all), {layers_told(neurons)}"


def _by_depth(convergence: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the cosines after each block, and their change with the located neurons zeroed, as a table."""
    if not convergence:
        return ""
    n_depths = len(next(iter(convergence.values())))
    header = ("cosine of", *(f"after {depth} blocks" for depth in range(n_depths)))
    rows = [
        (what, *(f"{one['unedited']['value']:.2f} ({one['change_when_zeroed']['value']:+.3f})" for one in steps))
        for what, steps in convergence.items()
    ]
    note = "Modalities by layer, and in brackets what zeroing the located neurons changes:"
    return f"{note}\n\n{markdown_table(header, rows)}"


def terminal(report: Mapping[str, Any], rows: Sequence[Row], kept: Run) -> None:
    """Print the measures beside those of random neurons, what is missing, and where the files are."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{report['concept']} in {report['model']}, located by {report['locator']}"
    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False, padding=(0, 1))
    for column in ("", "located", "random", "n"):
        table.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    known = [row for row in rows if row.located.value is not None]
    for number, row in enumerate(known):
        if number == 0 or row.section != known[number - 1].section:
            table.add_row(f"[bold]{row.section}[/bold]")
        table.add_row(f" {row.name}", shown(row.located), shown(row.random), str(row.located.n))
    console.print(table)
    for row in rows:
        if row.located.value is None:
            console.print(f"no {row.name}: {row.located.why}", highlight=False, markup=False, soft_wrap=True)
    console.print(_summary(report).replace("*", ""), highlight=False)
    console.print(f"files: {kept.folder}", highlight=False, markup=False, soft_wrap=True)
