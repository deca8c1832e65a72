"""Figures that show pictures: where the located neurons fire, what is painted out, and captions before and after."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from PIL.Image import Image

from kedit.inspection.heatmap import Heat, pointing_hit, region_auc
from kedit.plots.drawing import Drawing, sheet
from kedit.plots.marks import BACKDROP, heat, outline, picture
from kedit.plots.style import CONCEPT, EDITED, GRAY, INK, name
from kedit.samples import Concept, Mask

GAP = 0.12
MARGIN = 0.15
WIDE = 8.0 - 2 * MARGIN
"""Inches of a row: pages of pictures always take two columns of a paper."""


def _height(image: Image, side: float) -> float:
    """Return the inches that a picture takes, `side` wide; a very tall one is shown smaller."""
    return side * min(1.6, image.height / image.width)


# Grids of pictures


@dataclass(frozen=True, eq=False)
class PictureRow:
    """One row of a page of pictures, such as an original and what was painted over it."""

    name: str
    """What to write under the row."""
    pictures: Mapping[str, Image | None]
    """By the name of the column; None leaves a gap."""
    regions: Mapping[str, Mask] = field(default_factory=dict)
    """What to outline in the picture of a column: `[height, width]`."""
    framed: frozenset[str] = frozenset()
    """The columns whose picture is framed."""

    def __post_init__(self) -> None:
        for column, region in self.regions.items():
            image = self.pictures[column]
            size = None if image is None else [image.height, image.width]
            if list(region.shape) != size:
                raise ValueError(f"region of `{column}` is {list(region.shape)}, the picture is {size}; must be equal")


def draw_pictures(rows: Sequence[PictureRow], *, title: str) -> Drawing:
    """Draw rows of pictures under the names of their columns. Up to six rows fit a screen."""
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    columns = list(dict.fromkeys(column for row in rows for column in row.pictures))
    side = (WIDE - (len(columns) - 1) * GAP) / len(columns)
    first = [next(image for image in row.pictures.values() if image is not None) for row in rows]
    heights = [_height(image, side) for image in first]
    full = sum(heights) + 0.32 * len(rows) + 0.3
    with sheet(full, title) as drawing:
        for number, column in enumerate(columns):
            drawing.write(MARGIN + number * (side + GAP), full - 0.05, name(column), size=9)
        bottom = full - 0.25
        for row, height in zip(rows, heights, strict=True):
            bottom -= height
            for number, column in enumerate(columns):
                if (image := row.pictures.get(column)) is None:
                    continue
                axes = drawing.place(MARGIN + number * (side + GAP), bottom, side, height)
                picture(axes, image)
                if column in row.regions:
                    outline(axes, row.regions[column])
                if column in row.framed:
                    axes.set_axis_on()
                    axes.set(xticks=[], yticks=[])
                    axes.spines[:].set(visible=True, color=CONCEPT, linewidth=2.5)
            drawing.write(MARGIN, bottom - 0.05, row.name, color=GRAY, size=8)
            bottom -= 0.32
    return drawing


# Where neurons fire


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
        for which, array in (("heat", self.heat), ("region", self.region), ("others", self.others)):
            if array is not None and array.shape != (height, width):
                raise ValueError(f"`{which}` is {list(array.shape)}, the picture is [{height}, {width}]; must be equal")

    @property
    def hit(self) -> bool:
        """Whether the map peaks inside the region."""
        return pointing_hit(self.heat, self.region, tolerance=self.tolerance)


def draw_heatmaps(rows: Sequence[HeatRow], *, concept: str, title: str | None = None) -> Drawing:
    """Draw pictures, their counterfactuals and where neurons fire in them.

    One color scale serves all rows, so that a weak map looks weak. The concept's region is outlined, that of the
    other objects dashed. Four to six rows fit a screen.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    hits = sum(row.hit for row in rows)
    title = title or f"The neurons of `{concept}` fire most inside its region in {hits} of {len(rows)} pictures"
    side, right = 1.75, MARGIN + 3 * (1.75 + GAP)
    heights = [_height(row.original, side) for row in rows]
    full = sum(heights) + GAP * len(rows) + 0.3
    hottest = max(float(row.heat.max()) for row in rows) or 1.0
    notes = [f"mean activation of the neurons of `{concept}`; outlined: the {name(concept)}"]
    notes[0] += ", dashed: other objects" * any(row.others is not None for row in rows)
    with sheet(full, title, notes) as drawing:
        for column, text in enumerate(("picture", f"without the {name(concept)}", "mean activation")):
            drawing.write(MARGIN + column * (side + GAP), full - 0.05, text, size=9)
        bottom = full - 0.25 + GAP
        for row, height in zip(rows, heights, strict=True):
            bottom -= height + GAP
            axes = [drawing.place(MARGIN + k * (side + GAP), bottom, side, height) for k in range(3)]
            picture(axes[0], row.original)
            picture(axes[1], row.counterfactual)
            colors = heat(axes[2], row.original, row.heat, hottest)
            if row.others is not None:
                outline(axes[2], row.others, color="white", dashed=True)
            outline(axes[2], row.region)
            _write_verdict(drawing, right + 0.65, bottom + height, row)
        # As tall as the first map: a long bar would stand between the pictures and their captions.
        bar = drawing.place(right, full - 0.25 - heights[0], 0.12, heights[0])
        bar.set_facecolor(str(BACKDROP))
        drawing.figure.colorbar(colors, cax=bar)
        bar.tick_params(labelsize=8)
    return drawing


def _write_verdict(drawing: Drawing, x: float, top: float, row: HeatRow) -> None:
    caption = textwrap.wrap(row.caption, 21, max_lines=6, placeholder=" …")
    drawing.write(x, top, "\n".join(caption), size=8.5, linespacing=1.3)
    lines = ["peak inside" if row.hit else "peak outside"]
    if row.others is not None and (row.others & ~row.region).any() and (row.region & ~row.others).any():
        lines.append(f"AUC {region_auc(row.heat, row.region, row.others):.2f} against\nthe other objects")
    drawing.write(x, top - 0.17 * len(caption) - 0.08, "\n".join(lines), size=8, color=GRAY, linespacing=1.3)


# What the model says


@dataclass(frozen=True, eq=False)
class CaptionRow:
    """One row of a before-and-after figure."""

    image: Image
    before: str
    after: str
    concept: Concept
    """What was edited."""


# DejaVu Sans Mono here: a letter is 1233/2048 of the size wide, so words can be set without measuring.
POINTS = 9.5
LETTER = POINTS * 1233 / 2048 / 72
ASCENT = 0.12
LINE = 0.175
PICTURE = 1.15
LABEL = 0.62
LONGEST = 10
"""Lines of a caption that are shown."""


def draw_before_after(rows: Sequence[CaptionRow], *, title: str | None = None) -> Drawing:
    """Draw pictures with what the model says of them before and after an edit.

    Words that went are marked in the caption before, words that came in the caption after.
    """
    if not rows:
        raise ValueError("`rows` is empty, so there is nothing to draw; pass at least one picture")
    text_left = MARGIN + PICTURE + 0.2 + LABEL
    letters = int((MARGIN + WIDE - text_left) / LETTER)
    blocks = [_captions(row, letters) for row in rows]
    heights = [max(PICTURE, LINE * (len(before) + len(after)) + 0.2) for before, after in blocks]
    full = sum(heights) + GAP * 1.5 * len(rows)
    with sheet(full, title or _captions_finding(rows)) as drawing:
        top = full
        for row, (before, after), tall in zip(rows, blocks, heights, strict=True):
            picture(drawing.place(MARGIN, top - PICTURE, PICTURE, PICTURE), row.image)
            y = top - ASCENT - (tall - LINE * (len(before) + len(after)) - 0.12) / 2
            for label, lines, color in (("before", before, CONCEPT), ("after", after, EDITED)):
                drawing.write(text_left - LABEL, y, label, size=POINTS, color=GRAY, va="baseline")
                _write_lines(drawing, (text_left, y), lines, color)
                y -= LINE * len(lines) + 0.12
            top -= tall + GAP * 1.5
    return drawing


def _captions_finding(rows: Sequence[CaptionRow]) -> str:
    """Return in how many of the captions that named the concept it is named no longer."""
    concept = rows[0].concept
    naming = [row for row in rows if concept.mentioned_in(row.before)]
    gone = sum(not concept.mentioned_in(row.after) for row in naming)
    if not naming:
        return f"None of these {len(rows)} captions named `{concept.name}` before the edit"
    return f"`{concept.name}` is gone from {gone} of these {len(naming)} captions that named it"


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


def _write_lines(drawing: Drawing, corner: tuple[float, float], lines: list[list[Word]], color: str) -> None:
    x, y = corner
    for number, line in enumerate(lines):
        column = 0
        for word, is_marked in line:
            look = {"color": color, "weight": "bold"} if is_marked else {"color": INK}
            drawing.write(
                x + column * LETTER, y - number * LINE, word, family="DejaVu Sans Mono", size=POINTS, va="baseline",
                **look,
            )  # fmt: skip
            column += len(word) + 1
