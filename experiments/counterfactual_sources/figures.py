"""The figures of the table: sources down, a color for each model, with what they find as the title."""

from collections.abc import Mapping, Sequence

from experiments.counterfactual_sources.painting import AGAIN
from experiments.counterfactual_sources.rows import Row
from kedit.plots import Drawing, draw_intervals
from kedit.plots.style import SERIES

SHOWN = ("removed", "neurons", "first_stage", "ranks", "mention_drop", "retention")


def draw_rows(rows: Sequence[Row], titles: Mapping[str, str]) -> Drawing:
    """Draw each figure of the table as a panel, with 95 % intervals."""
    models = dict.fromkeys(row.model for row in rows)
    looks = dict(zip(models, SERIES, strict=False))
    panels = {
        titles[figure]: {
            source: [(row.figures[figure], looks[row.model]) for row in rows if row.source == source]
            for source in dict.fromkeys(row.source for row in rows)
        }
        for figure in SHOWN
    }
    return draw_intervals(panels, looks, title=_finding(rows), columns=3)


def _finding(rows: Sequence[Row]) -> str:
    """Return how far apart the sources are, beside the reference on other pictures."""
    models = []
    for model in dict.fromkeys(row.model for row in rows):
        found = {row.source: row.figures["neurons"].value for row in rows if row.model == model}
        sources = {name: value for name, value in found.items() if value is not None and not name.endswith(AGAIN)}
        again = next((value for name, value in found.items() if name.endswith(AGAIN)), None)
        if sources and again is not None:
            worst = min(sources, key=lambda name: sources[name])
            who = f"`{worst}`" if len(set(sources.values())) > 1 else "each source"
            models.append(f"`{model}`: {sources[worst]:.2f} at least ({who}), with other pictures {again:.2f}")
    return "Overlap with the reference's neurons on " + "; on ".join(models) if models else "Nothing could be compared"
