"""The sheet that a figure is drawn on: title, notes, panels and legend; equal bytes for equal input."""

import io
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kedit import notebook
from kedit.figure_style import Style
from kedit.plots.style import GRAY, LOOK, Look, name, sentence

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI, INLINE_DPI = 150, 80
"""Of a file, and of a notebook: what is looked at between lines of text, and kept with them, needs fewer pixels."""
METADATA: dict[str, dict[str, Any]] = {
    # The version of matplotlib and the time would otherwise be written into the file.
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


@dataclass(eq=False)
class Drawing:
    """A figure: `save` it, or leave it as the last line of a notebook's cell."""

    figure: "Figure"
    """What matplotlib knows it as."""
    height: float
    """Inches of the panels with their labels."""
    title: str
    """The finding."""
    notes: Sequence[str] = ()
    """Small print under the title: how to read it, what is left out."""
    looks: Mapping[str, Look | Mapping[str, Any]] = field(default_factory=dict)
    """The legend: how each series looks, or what matplotlib's `Line2D` takes."""
    across: str = ""
    """What is on the x axes of all panels."""
    up: str = ""
    """What is on their y axes."""
    late: list[Callable[[], Sequence["Artist"]]] = field(default_factory=list)
    """What can be drawn only when it is known where the panels are."""
    fit: Callable[[float], None] = lambda width: None
    """What depends on the inches of the page: it may change the height and what is written at the axes."""
    columns: int = 0
    """Panels side by side; 0 where each is placed by hand."""
    inches: float = 8.0
    """Width of the panels with their labels, at most; what is beside them stays white."""
    narrow: int = 0
    """Panels side by side where the figure takes one column of a paper; 0 where it always takes two."""
    _panels: list[tuple["Axes", float, bool, bool]] = field(default_factory=list)
    """Each with its height, and whether it shares the axes across and up."""
    _heads: list[tuple["Axes", str]] = field(default_factory=list)
    _head: list["Artist"] = field(default_factory=list)
    _placed: list[tuple["Axes", tuple[float, float, float, float]]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"Drawing({self.title!r})"

    def save(self, path: Path, style: Style | None = None) -> None:
        """Write the figure as PNG, or as PDF or SVG, in which text stays text: the suffix of `path` says which."""
        self._write(path, path.suffix.removeprefix("."), style or Style())

    def html(self) -> str:
        """Return the figure as a picture inside a page, with what it says for whoever cannot see it."""
        return notebook.picture(self._repr_png_(), " ".join([self.title, *self.notes]))

    def _repr_png_(self) -> bytes:
        target = io.BytesIO()
        self._write(target, "png", Style(), INLINE_DPI)
        return target.getvalue()

    def _write(self, target: Path | IO[bytes], kind: str, style: Style, dpi: int = DPI) -> None:
        with look():
            self._finish(4.0 if style.width == "single" and self.narrow else 8.0, style.titles)
            self.figure.savefig(target, format=kind, dpi=dpi, metadata=METADATA[kind])

    def head(self, axes: "Axes", text: str) -> None:
        """Write what a panel shows above it, in lines that fit beside those of its neighbours."""
        self._heads.append((axes, name(text)))
        axes.set_title(wrap(name(text), 76 // self.columns))

    def panels(
        self, count: int, columns: int = 1, narrow: int | None = None, heights: Sequence[float] = (), **grid: Any
    ) -> list["Axes"]:
        """Return new axes row by row, laid out so that nothing overlaps.

        Args:
            count: How many.
            columns: Panels side by side.
            narrow: The same where the figure takes one column of a paper; by default half as many, 0 for no such form.
            heights: How high each panel is beside the others; by default equally.
            grid: More of what `Figure.subplots` takes.
        """
        self.columns, self.narrow = columns, max(1, columns // 2) if narrow is None else narrow
        self.figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.05)
        every = self.figure.subplots(-(-count // columns), columns, squeeze=False, **grid)
        for spare in every.flat[count:]:
            spare.remove()
        across, up = (bool(grid.get(f"share{side}")) for side in "xy")
        tall = heights or [1.0] * count
        self._panels = [(axes, height, across, up) for axes, height in zip(every.flat[:count], tall, strict=True)]
        return list(every.flat[:count])

    def _lay_out(self, width: float) -> float:
        """Put the panels into columns, write what is above each, and return the inches that they take in height."""
        columns = self.columns if width > 5 else self.narrow
        for axes, text in self._heads:
            axes.set_title(wrap(text, int(9.5 * width) // columns))
        if not self.narrow:
            return self.height
        wide, rows = self._rows(self.columns), self._rows(columns)
        spec = self.figure.add_gridspec(len(rows), columns, height_ratios=rows)
        for at, (axes, _, across, up) in enumerate(self._panels):
            axes.set_subplotspec(spec[divmod(at, columns)])
            last, first = at >= len(self._panels) - columns, at % columns == 0
            axes.tick_params(labelbottom=last or not across, labelleft=first or not up)
        return self.height * sum(rows) / sum(wide)

    def _rows(self, columns: int) -> list[float]:
        """Return how high each row of panels is beside the others, of so many columns."""
        heights = [height for _, height, *_ in self._panels]
        return [max(heights[at : at + columns]) for at in range(0, len(heights), columns)]

    def place(self, left: float, bottom: float, width: float, height: float) -> "Axes":
        """Return new axes with their frame at the given inches from the lower left corner."""
        axes = self.figure.add_axes((0, 0, 1, 1), label=str(len(self._placed)))
        self._placed.append((axes, (left, bottom, width, height)))
        return axes

    def write(self, x: float, y: float, text: str, **look: Any) -> "Artist":
        """Write `text` with its left edge at `x` and its top at `y` inches from the lower left corner."""
        return self.figure.text(x, y, text, **{"transform": self.figure.dpi_scale_trans, "va": "top", **look})

    def _finish(self, width: float, titled: bool) -> None:
        """Write title, notes and legend for a page of `width` inches, and find the places of the panels."""
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        while self._head:
            self._head.pop().remove()
        self.fit(width)
        size = 12 if width > 5 else 9
        head = wrap(sentence(self.title), 70 if width > 5 else 44) if titled else ""
        small = "\n".join(wrap(sentence(note), 118 if width > 5 else 56) for note in self.notes)
        taken = 0.0175 * size * (head.count("\n") + 1) if head else 0.0
        top = taken + (0.155 * (small.count("\n") + 1) + 0.05 if small else 0) + (0.16 if head or small else 0.04)
        height = self._lay_out(width)
        full = height + self._legend(width, height) + top
        self.figure.set_size_inches(width, full)
        for axes, (left, bottom, across, up) in self._placed:
            axes.set_position((left / width, bottom / full, across / width, up / full))
        self._head += [
            self.write(0.15, full - 0.1, head, size=size, weight="bold", linespacing=1.25),
            self.write(0.15, full - 0.14 - taken, small, size=8, color=GRAY, linespacing=1.3),
        ]
        if isinstance(engine := self.figure.get_layout_engine(), ConstrainedLayoutEngine):
            engine.set(rect=(0, 0, min(1, self.inches / width), height / full))
        if self.across:
            self.figure.supxlabel(wrap(self.across, int(13 * width)), size=9)
        if self.up:
            self.figure.supylabel(wrap(self.up, int(13 * height)), size=9, y=0.5 * height / full)
        for draw in self.late:
            self._head += draw()

    def _legend(self, width: float, height: float) -> float:
        """Name the series above the panels, row by row, and return the inches that they take."""
        from matplotlib.lines import Line2D

        if not self.looks:
            return 0.0
        handles = [
            Line2D([], [], label=name(label), **(one.line2d() if isinstance(one, Look) else one))
            for label, one in self.looks.items()
        ]
        needed = [0.62 + 0.066 * len(label) for label in self.looks]
        columns = len(handles) if sum(needed) < width - 0.3 else max(1, int((width - 0.3) / max(needed)))
        # Matplotlib fills its columns one after the other.
        handles = [one for column in range(columns) for one in handles[column::columns]]
        inches = self.figure.dpi_scale_trans
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.15, height), "bbox_transform": inches}
        self._head.append(self.figure.legend(handles=handles, ncols=columns, borderaxespad=0, borderpad=0.2, **place))
        return 0.2 * -(-len(handles) // columns) + 0.1


def wrap(text: str, letters: int) -> str:
    """Return `text` in lines of at most so many letters; no line ends within "n = 24" or "95 %"."""
    kept = text.replace("n = ", "n\u00a0=\u00a0").replace(" %", "\u00a0%")
    return textwrap.fill(kept, letters, break_on_hyphens=False)


@contextmanager
def sheet(height: float, title: str, notes: Sequence[str] = ()) -> Iterator[Drawing]:
    """Yield an empty drawing of `height` inches; inside the block, what is drawn has kedit's look, and nothing else."""
    from matplotlib.figure import Figure

    with look():
        yield Drawing(Figure(figsize=(8.0, height), dpi=DPI), height, title, notes)


@contextmanager
def look() -> Iterator[None]:
    """Put kedit's settings of matplotlib in force."""
    import matplotlib

    with matplotlib.rc_context(LOOK), warnings.catch_warnings():
        # A caption in a script that the font lacks shows boxes, which is no reason to lose the figure.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield
