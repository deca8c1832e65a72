"""Figures of the sources: their pictures side by side, and their figures with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from experiments.sources.painting import AGAIN
from experiments.sources.rows import Row
from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, title_space, write

COLORS = (BLUE, VERMILLION, "#009E73", GRAY)
SHOWN = ("removed", "neurons", "first_stage", "ranks", "mention_drop", "retention")
GAP, LABEL, MARGIN = 0.07, 0.25, 0.15


@dataclass(frozen=True, eq=False)
class Strip:
    """One picture as every source paints it."""

    concept: str
    original: Image
    painted: Mapping[str, Image]
    still_named: frozenset[str]
    """The sources whose picture is still said to show the concept."""


def draw_pictures(strips: Sequence[Strip], model: str, path: Path) -> None:
    """Draw one row for each strip: the original and what each source made of it, as a PNG at `path`."""
    columns = ["original", *strips[0].painted]
    side = (WIDTH - 2 * MARGIN - 0.75 - GAP * (len(columns) - 1)) / len(columns)
    failed = sum(len(strip.still_named) for strip in strips)
    total = sum(len(strip.painted) for strip in strips)
    title = f"What each source paints over the object; {model} still names it in {failed} of {total} pictures (framed)"
    height = (side + GAP) * len(strips) + LABEL + title_space(title) + MARGIN
    with page(path, height, title) as figure:
        top = height - title_space(title) - LABEL
        for column, name in enumerate(columns):
            left = MARGIN + 0.75 + column * (side + GAP)
            write(figure, left, top + 0.04, name.replace("_", " "), size=8, va="bottom")
        for number, strip in enumerate(strips):
            bottom = top - (number + 1) * (side + GAP) + GAP
            write(figure, MARGIN, bottom + side / 2, strip.concept, size=8.5, color=INK, va="center")
            for column, name in enumerate(columns):
                axes = place(figure, MARGIN + 0.75 + column * (side + GAP), bottom, side, side)
                picture = strip.original if column == 0 else strip.painted[name]
                axes.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                framed = name in strip.still_named
                axes.spines[:].set(visible=framed, color=VERMILLION, linewidth=2.5)


def draw_rows(rows: Sequence[Row], titles: Mapping[str, str], path: Path) -> None:
    """Draw each figure of the table as a panel: sources down, one color for each model, bars are 95 % intervals."""
    sources, models = (list(dict.fromkeys(getattr(row, name) for row in rows)) for name in ("source", "model"))
    title = _finding(rows)
    panel, left = 0.28 * len(sources) + 0.1, 1.75
    height = title_space(title) + 2 * (panel + 0.6) + 0.35
    width = (WIDTH - left - MARGIN - 0.25 * 2) / 3
    with page(path, height, title) as figure:
        for number, name in enumerate(SHOWN):
            down, across = divmod(number, 3)
            bottom = height - title_space(title) - 0.3 - panel - down * (panel + 0.6)
            axes = place(figure, left + across * (width + 0.25), bottom, width, panel)
            _panel(axes, rows, name, sources, models)
            axes.set_title(titles[name], size=9, loc="left")
            axes.set_yticks(range(len(sources)), sources if across == 0 else [""] * len(sources))
        for number, model in enumerate(models):
            write(figure, left + number * 1.5, 0.25, f"● {model}", color=COLORS[number % len(COLORS)], size=9)


def _panel(axes: Any, rows: Sequence[Row], name: str, sources: Sequence[str], models: Sequence[str]) -> None:
    for row in rows:
        one, number = row.figures[name], models.index(row.model)
        if one.value is None:
            continue
        at = sources.index(row.source) + 0.22 * (number - (len(models) - 1) / 2)
        spread = [[max(one.value - (one.low or one.value), 0)], [max((one.high or one.value) - one.value, 0)]]
        color = COLORS[number % len(COLORS)]
        axes.errorbar([one.value], [at], xerr=spread, fmt="o", color=color, markersize=4, linewidth=1.2)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(sources) - 0.5, -0.5))
    axes.tick_params(length=0, labelsize=8)
    axes.grid(axis="x", color="#E5E5E5", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["left", "bottom"]].set_visible(False)


def _finding(rows: Sequence[Row]) -> str:
    """Return how far apart the sources are, beside the reference on other pictures."""
    models = []
    for model in dict.fromkeys(row.model for row in rows):
        found = {row.source: row.figures["neurons"].value for row in rows if row.model == model}
        sources = {name: value for name, value in found.items() if value is not None and not name.endswith(AGAIN)}
        again = next((value for name, value in found.items() if name.endswith(AGAIN)), None)
        if sources and again is not None:
            worst = min(sources, key=lambda name: sources[name])
            who = worst if len(set(sources.values())) > 1 else "each source"
            models.append(f"{model}: {sources[worst]:.2f} at least ({who}), with other pictures {again:.2f}")
    return "Overlap with the reference's neurons, on " + "; on ".join(models) if models else "Nothing could be compared"
