"""The rows as a page for people and as data for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.counterfactual_sources.rows import FIGURES, Row
from kedit.evaluation.statistics import Measured
from kedit.results.table import Table

TITLES = {
    "removed": "removed",
    "neurons": "neurons (Jaccard)",
    "first_stage": "stage one, top {top} (Jaccard)",
    "ranks": "ranks (Spearman)",
    "mention_drop": "suppression",
    "retention": "retention",
    "selectivity": "selectivity",
}
ABOUT = """\
`removed`: share of the pictures, all concepts together, whose caption no longer names the concept, among those whose
original it names (Wilson interval over pictures). The rest are means over concepts with bootstrap intervals over
concepts (Wilson's where all values are 0 or 1). Neurons, stage one and ranks compare with those located by
`{reference}`: Jaccard overlap of what is selected and of the {top} best of the first stage, Spearman's correlation of
the last stage's scores over the reference's candidates. `{reference} (other pictures)` locates with as many other
pictures: so much agreement is to be expected of pictures alone. Suppression (mention_drop) and retention (the weakest
measure) are those of the edit on held-out pictures; seconds are for painting one picture."""


def titles(top: int) -> dict[str, str]:
    """Return what each figure is called."""
    return {name: title.format(top=top) for name, title in TITLES.items()}


def cells(row: Row) -> list[str]:
    """Return a row as text, in the order of `header`."""
    shown = [_shown(row.figures[name]) for name in FIGURES]
    beside = [_shown(row.differences[name], sign=True) for name in ("mention_drop", "retention")]
    return [row.source, *shown, *beside, f"{row.size:.1f}", f"{row.seconds:.3f}"]


def header(top: int) -> list[str]:
    """Return the columns of a table."""
    names = titles(top)
    return ["source", *(names[name] for name in FIGURES), "suppression less reference's", "retention less reference's",
            "neurons", "s/picture"]  # fmt: skip


def page(rows: Sequence[Row], about: Mapping[str, Any], figures: Sequence[str]) -> str:
    """Return report.md."""
    top, reference = int(about["top"]), str(about["reference"])
    parts = ["# Counterfactual sources", _counts(about)]
    for model in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == model]
        table = Table(header(top), tuple(cells(row) for row in own)).markdown()
        lost = [f"- {row.source}: `{name}`: {why}" for row in own for name, why in row.whys.items()]
        parts += [f"## {model}", table, *(["Not located:\n\n" + "\n".join(lost)] if lost else [])]
    parts += [ABOUT.format(top=top, reference=reference), *(f"![{one}]({one})" for one in figures)]
    return "\n\n".join(parts) + "\n"


def _counts(about: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in about["samples"].items())
    return (
        f"{len(about['concepts'])} concepts ({', '.join(about['concepts'])}); samples of each: {counts}; "
        f"regions grown by {about['dilation']} pixels; neurons edited: {about['budget'] or 'as many as are selected'}; "
        f"kedit {about['kedit']}."
    )


def _shown(figure: Measured, *, sign: bool = False) -> str:
    if figure.value is None:
        return "-"
    if not sign or figure.low is None or figure.high is None:
        return f"{figure}"
    return f"{figure.value:+.2f} [{figure.low:+.2f}, {figure.high:+.2f}]"
