"""The planted models' verdicts as one picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.comparison.planted_tables import COSTS, MEAN, RANDOM, Verdict, cost_cells, figures
from kedit.inspection.canvas import GRAY, INK, WIDTH, page, place, shade, title_space

LEFT, CELL, COST, ROW, HEAD = 1.55, 0.56, 0.46, 0.27, 0.8
"""Inches: of the methods' names, a cell, a cost, a row, and the slanted names of the variants."""


def draw(verdicts: Sequence[Verdict], variants: Sequence[str], reference: str, path: Path) -> None:
    """Draw a table of average precision, darker where the true neurons rank higher, and the costs beside it."""
    names = [*variants, MEAN]
    values = np.array([[figures(one, variants)[name].value for name in names] for one in verdicts], dtype=float)
    title = finding(verdicts, variants, reference)
    cell = min(CELL, (WIDTH - LEFT - COST * len(COSTS) - 0.4) / len(names))
    body = ROW * len(verdicts)
    height = title_space(title) + HEAD + body + 0.6
    with page(path, height, title) as figure:
        axes = place(figure, LEFT, 0.5, cell * len(names), body)
        shade(axes, values, lambda value: "-" if np.isnan(value) else f"{value:.2f}", highest=1.15)
        axes.axvline(len(variants) - 0.5, color="white", linewidth=3)
        axes.set_yticks(range(len(verdicts)), [one.method for one in verdicts])
        for label in axes.get_yticklabels():
            label.set_fontweight("bold" if label.get_text() == reference else "normal")
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(names)), names, rotation=40, ha="left", rotation_mode="anchor")
        for down, one in enumerate(verdicts):
            for number, text in enumerate(cost_cells(one)):
                across = len(names) - 0.5 + (number + 1) * COST / cell
                axes.text(across, down, text, ha="right", va="center", size=8, color=INK, clip_on=False)
        for number, text in enumerate(COSTS):
            across = len(names) - 0.5 + (number + 0.75) * COST / cell
            axes.text(across, -0.65, text, ha="left", va="bottom", rotation=40, rotation_mode="anchor", color=GRAY)
        axes.text(
            -0.5, len(verdicts) - 0.2, "average precision of the true neurons; costs as multiples of one forward",
            size=8, color=GRAY, va="top",
        )  # fmt: skip


def finding(verdicts: Sequence[Verdict], variants: Sequence[str], reference: str) -> str:
    """Return what the picture shows, in a sentence."""
    found = {one.method: figures(one, variants) for one in verdicts if not one.why and one.method != RANDOM}
    if not found:
        return "No method could be carried out on the planted models"
    best = max(found, key=lambda name: found[name][MEAN].value or 0)
    text = f"`{best}` ranks the true neurons highest: {found[best][MEAN].value:.2f} on average"
    if reference not in found:
        return text
    tops = {name: max(one[name].value or 0 for one in found.values()) for name in variants}
    level = [name for name in variants if (found[reference][name].value or 0) >= tops[name] - 0.005]
    own = "" if best == reference else f" ({found[reference][MEAN].value:.2f})"
    return f"{text}; `{reference}`{own} is best or level with the best on {len(level)} of {len(variants)} variants"
