"""Figures that show pictures: where the located neurons fire, and what the model says before and after."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import Image

from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, show, title_space, write
from kedit.inspection.heatmap import Heat, pointing_hit, region_auc
from kedit.samples import Concept, Mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

OUTLINE = VERMILLION
BACKDROP = 0.4
"""The gray behind a heat map, from 0 (black) to 1; the color bar shows its colors over the same."""
GAP = 0.12
MARGIN = 0.15


@dataclass(frozen=True, eq=False)
class HeatRow:
    """One row of a heat map figure: a picture, the same without the concept, and where neurons fire."""

    original: Image
    counterfactual: Image
    heat: Heat
    """`[height, width]` of the original."""
    region: Mask
    """Where the concept is: `[height, width]`."""
    caption: str
    """What to write beside the row."""
    others: Mask | None = None
    """Where the picture's other objects are, if the map is to be judged against them."""
    tolerance: int = 0
    """By how many pixels the peak may miss the region; see `pointing_hit`."""

    def __post_init__(self) -> None:
        width, height = self.original.size
        for name, array in (("heat", self.heat), ("region", self.region), ("others", self.others)):
            if array is not None and array.shape != (height, width):
                raise ValueError(f"`{name}` is {list(array.shape)}, the picture is [{height}, {width}]; must be equal")


@dataclass(frozen=True, eq=False)
class CaptionRow:
    """One row of a before-and-after figure."""

    image: Image
    before: str
    after: str
    concept_words: tuple[str, ...]
    """The words that name the edited concept, its name first."""

    def __post_init__(self) -> None:
        if not self.concept_words:
            raise ValueError("`concept_words` is empty; pass at least the name of the edited concept")


def draw_heatmaps(rows: Sequence[HeatRow], path: Path, *, title: str | None = None) -> None:
    """Draw pictures, their counterfactuals and where neurons fire in them, as a PNG at `path`.

    One color scale serves all rows, so that a weak map looks weak. The concept's region is outlined. Four to
    six rows fit a screen.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    hits = sum(pointing_hit(row.heat, row.region, tolerance=row.tolerance) for row in rows)
    title = title or f"The neurons fire most inside the concept's region in {hits} of {len(rows)} pictures"
    side = 1.75
    heights = [side * min(1.6, row.original.height / row.original.width) for row in rows]
    top = sum(heights) + GAP * len(rows) + 0.05
    right = MARGIN + 3 * (side + GAP)
    with page(path, top + 0.25 + title_space(title), title) as figure:
        hottest = max(float(row.heat.max()) for row in rows) or 1.0
        for column, name in enumerate(("picture", "without the concept", "activation")):
            write(figure, MARGIN + column * (side + GAP), top, name, color=INK, size=9, va="bottom")
        bottom = top
        for row, height in zip(rows, heights, strict=True):
            bottom -= height + (GAP if bottom != top else 0.05)
            axes = [place(figure, MARGIN + k * (side + GAP), bottom, side, height) for k in range(3)]
            show(axes[0], row.original)
            show(axes[1], row.counterfactual)
            colors = _show_heat(axes[2], row, hottest)
            _write_verdict(figure, right + 0.72, bottom + height - 0.02, row)
        bar = place(figure, right, bottom, 0.12, top - 0.05 - bottom)
        bar.set_facecolor(str(BACKDROP))
        figure.colorbar(colors, cax=bar, label="mean activation")


def _show_heat(axes: "Axes", row: HeatRow, hottest: float) -> "AxesImage":
    """Draw the heat over the picture in dim gray, and outline the region."""
    from matplotlib.patheffects import Normal, Stroke

    gray = np.asarray(row.original.convert("L"), dtype=np.float64) / 255
    # Dimmed, so that a bright picture does not pass for heat.
    axes.imshow(BACKDROP + 0.35 * (gray - 0.5), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    colors = axes.imshow(row.heat, cmap="viridis", vmin=0, vmax=hottest, alpha=0.7, interpolation="nearest")
    if row.others is not None and row.others.any():
        axes.contour(row.others, [0.5], colors="white", linewidths=0.9, linestyles="dashed")
    if row.region.any():
        outline = axes.contour(row.region, [0.5], colors=OUTLINE, linewidths=2.0)
        outline.set_path_effects([Stroke(linewidth=3.2, foreground="white"), Normal()])
    axes.set_axis_off()
    return colors


def _write_verdict(figure: "Figure", x: float, top: float, row: HeatRow) -> None:
    caption = textwrap.wrap(row.caption, 21, max_lines=6, placeholder=" …")
    write(figure, x, top, "\n".join(caption), size=8.5, linespacing=1.3)
    hit = pointing_hit(row.heat, row.region, tolerance=row.tolerance)
    lines = ["peak inside" if hit else "peak outside"]
    if row.others is not None and (row.others & ~row.region).any() and (row.region & ~row.others).any():
        lines.append(f"AUC {region_auc(row.heat, row.region, row.others):.2f} against\nthe other objects")
    write(figure, x, top - 0.17 * len(caption) - 0.08, "\n".join(lines), size=8, color=GRAY, linespacing=1.3)


# DejaVu Sans Mono here: a letter is 1233/2048 of the size wide, so words can be set without measuring.
POINTS = 9.5
LETTER = POINTS * 1233 / 2048 / 72
ASCENT = 0.12
LINE = 0.175
PICTURE = 1.15
LABEL = 0.62
LONGEST = 10
"""Lines of a caption that are shown."""


def draw_before_after(rows: Sequence[CaptionRow], path: Path, *, title: str | None = None) -> None:
    """Draw pictures with what the model says of them before and after an edit, as a PNG at `path`.

    Words that went are marked in the caption before, words that came in the caption after.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    title = title or _captions_finding(rows)
    text_left = MARGIN + PICTURE + 0.2 + LABEL
    letters = int((WIDTH - MARGIN - text_left) / LETTER)
    blocks = [_captions(row, letters) for row in rows]
    heights = [max(PICTURE, LINE * (len(before) + len(after)) + 0.2) for before, after in blocks]
    height = sum(heights) + GAP * 1.5 * len(rows)
    with page(path, height + title_space(title), title) as figure:
        top = height
        for row, (before, after), tall in zip(rows, blocks, heights, strict=True):
            show(place(figure, MARGIN, top - PICTURE, PICTURE, PICTURE), row.image)
            y = top - ASCENT - (tall - LINE * (len(before) + len(after)) - 0.12) / 2
            for name, lines, color in (("before", before, VERMILLION), ("after", after, BLUE)):
                write(figure, text_left - LABEL, y, name, size=POINTS, color=GRAY, va="baseline")
                _write_lines(figure, (text_left, y), lines, color)
                y -= LINE * len(lines) + 0.12
            top -= tall + GAP * 1.5


def _captions_finding(rows: Sequence[CaptionRow]) -> str:
    """Return in how many of the captions that named the concept it is named no longer."""
    name, *_ = words = rows[0].concept_words
    concept = Concept(name, words)
    naming = [row for row in rows if concept.mentioned_in(row.before)]
    gone = sum(not concept.mentioned_in(row.after) for row in naming)
    if not naming:
        return f"None of these {len(rows)} captions named `{name}` before the edit"
    return f"`{name}` is gone from {gone} of {len(naming)} captions that named it"


Word = tuple[str, bool]
"""A word and whether it is marked."""


def _captions(row: CaptionRow, letters: int) -> tuple[list[list[Word]], list[list[Word]]]:
    """Return the lines of both captions, with the words marked that the other one lacks."""
    before, after = row.before.split(), row.after.split()
    if not before or not after:
        # All of the other caption is different, which "(empty)" says already.
        return _lines(before, set(), letters), _lines(after, set(), letters)
    gone, came = set(range(len(before))), set(range(len(after)))
    for match in SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        gone -= set(range(match.a, match.a + match.size))
        came -= set(range(match.b, match.b + match.size))
    return _lines(before, gone, letters), _lines(after, came, letters)


def _lines(words: Sequence[str], marked: set[int], letters: int) -> list[list[Word]]:
    if not words:
        return [[("(empty)", True)]]
    lines: list[list[Word]] = [[]]
    for index, word in enumerate(words):
        shown = word if len(word) <= letters else word[: letters - 1] + "…"
        if lines[-1] and sum(len(w) + 1 for w, _ in lines[-1]) + len(shown) > letters:
            lines.append([])
        lines[-1].append((shown, index in marked))
    return lines if len(lines) <= LONGEST else [*lines[: LONGEST - 1], [("…", False)]]


def _write_lines(figure: "Figure", corner: tuple[float, float], lines: list[list[Word]], color: str) -> None:
    x, y = corner
    for number, line in enumerate(lines):
        column = 0
        for word, is_marked in line:
            look = {"color": color, "weight": "bold"} if is_marked else {"color": INK}
            write(
                figure, x + column * LETTER, y - number * LINE, word,
                family="DejaVu Sans Mono", size=POINTS, va="baseline", **look,
            )  # fmt: skip
            column += len(word) + 1
