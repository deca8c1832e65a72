"""Shares as shaded cells: what sets have in common, what one concept's neurons do to others, methods by variant."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kedit.plots.drawing import Drawing, sheet, wrap
from kedit.plots.marks import matrix, scale_bar, short_share
from kedit.plots.style import GRAY, PALE, name

SMALLEST = 0.24
"""Inches of a cell that holds two digits."""
Cells = Mapping[str, Mapping[str, float | None]]
"""For each row its shares by column."""


def draw_matrix(
    cells: Cells, *, title: str, what: str, rows: str = "", columns: str = "", notes: Sequence[str] = ()
) -> Drawing:
    """Draw shares as shaded cells with their numbers; None is left gray.

    Args:
        cells: The shares.
        title: The finding.
        what: What the shares are, for the color bar.
        rows: What the names of the rows are.
        columns: What the names of the columns are.
        notes: Small print, such as how many samples are behind a cell.
    """
    if not cells:
        raise ValueError("`cells` is empty, so there is nothing to draw; pass at least one row")
    values, names = _table(cells)
    longest, beside = max(map(len, names)), 0.08 * max(len(name(row)) for row in cells) + 1.2 + 0.3 * bool(rows)
    # No wider than their numbers need, and no narrower.
    wide, narrow = (min(0.9, (page - beside) / len(names)) for page in (8.0, 4.0))
    tall = max(1.5, 0.3 * len(cells))
    with sheet(tall + 0.5 + 0.2 * bool(columns), title, notes) as drawing:
        (axes,) = drawing.panels(1, narrow=int(narrow > SMALLEST))
        axes.set_facecolor(PALE)
        drawing.inches = beside + wide * len(names)
        texts = [["" if value != value else short_share(value) for value in row] for row in values.tolist()]
        image = matrix(axes, values, texts)
        axes.set_yticks(range(len(cells)), [name(row) for row in cells])
        axes.set_xlabel(columns)
        # No longer than the cells are high: it would reach into the notes.
        axes.set_ylabel(wrap(rows, int(12 * tall)))
        scale_bar(axes, image, {0: "0", 0.5: "0.5", 1: "1"}, wrap(what, int(12 * tall)))

        def fit(page: float) -> None:
            upright = (wide if page > 5 else narrow) < 0.075 * longest + 0.05
            drawing.height = tall + 0.5 + 0.2 * bool(columns) + (0.07 * longest if upright else 0)
            axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0)

        drawing.fit = fit
    return drawing


def draw_benchmark(
    cells: Cells, costs: Mapping[str, Sequence[str]], *, title: str, notes: Sequence[str] = (), marked: str = ""
) -> Drawing:
    """Draw how well each method does on each variant, and beside it what it costs.

    Args:
        cells: For each method its share on each variant, None where it failed; the last column is the mean.
        costs: For each kind of cost a text for each method.
        title: The finding.
        notes: Small print.
        marked: The method that the others are compared with.
    """
    values, names = _table(cells)
    with sheet(0.27 * len(cells) + 0.07 * max(map(len, names)) + 0.3, title, notes) as drawing:
        axes, beside = drawing.panels(2, 2, 0, sharey=True, width_ratios=[len(names), 1.1 * len(costs)])
        texts = [["-" if value != value else f"{value:.2f}" for value in row] for row in values.tolist()]
        matrix(axes, values, texts, highest=1.15)
        axes.axvline(len(names) - 1.5, color="white", linewidth=3)
        axes.set_yticks(range(len(cells)), [name(method) for method in cells])
        for label, method in zip(axes.get_yticklabels(), cells, strict=True):
            label.set_fontweight("bold" if method == marked else "normal")
        for column, several in enumerate(costs.values()):
            for row, text in enumerate(several):
                beside.text(column + 0.35, row, text, ha="right", va="center", size=8)
        for side, labels in ((axes, names), (beside, list(costs))):
            side.xaxis.tick_top()
            side.set_xticks(range(len(labels)), labels, rotation=90)
        beside.set_xlim(-0.7, len(costs) - 0.5)
        beside.tick_params(which="both", length=0, labelcolor=GRAY)
        beside.spines[:].set_visible(False)
    return drawing


def _table(cells: Cells) -> tuple[NDArray[np.float64], list[str]]:
    names = list(dict.fromkeys(column for row in cells.values() for column in row))
    values = [[np.nan if row.get(column) is None else row[column] for column in names] for row in cells.values()]
    return np.array(values, dtype=float), [name(column) for column in names]
