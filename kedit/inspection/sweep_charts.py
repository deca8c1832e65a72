"""Charts of the jobs of a sweep: suppression against retention, and both by the number of edited neurons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedit.inspection.canvas import BLUE, GRAY, INK, VERMILLION, WIDTH, page, place, title_space, write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Page
    from matplotlib.lines import Line2D

Figure = Mapping[str, Any]
"""A measured value: `{"value", "low", "high", "n"}`."""
Look = tuple[str, str]
"""A color and a mark."""

LOOKS: tuple[Look, ...] = (
    *((BLUE, "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#8B6914", "X")),
    *(("#7F4F24", "<"), ("#4B0082", ">"), ("#A0A000", "p"), ("#404040", "h"), ("#00A0A0", "*"), ("#C06060", "8")),
)
"""Of locators; the one that the others are compared with is a vermillion circle, random ones are of ink."""
MOST_PANELS = 24
MOST_LABELS = 8
LINE = 0.19
"""Inches of a line of small print."""


@dataclass(frozen=True)
class Trial:
    """One job of a sweep as a point: what edited neurons did, and what random ones did in their place."""

    number: int
    panel: str
    """What it competes in, such as the concept."""
    locator: str
    label: str
    """What tells it from the others, such as its thresholds."""
    neurons: int
    drop: Figure
    """Mention_drop; a share."""
    kept: Figure
    """Retention; a share."""
    control_drop: Figure
    control_kept: Figure
    on_front: bool = False
    """Whether it is in the Pareto set of its panel."""
    fluent: bool = True
    """Whether the language passed its guard."""

    @property
    def place(self) -> tuple[float, float] | None:
        """Retention and mention_drop; None where either could not be measured."""
        return _place(self.kept, self.drop)


def _place(kept: Figure, drop: Figure) -> tuple[float, float] | None:
    return None if kept["value"] is None or drop["value"] is None else (kept["value"], drop["value"])


def looks_of(locators: Sequence[str], marked: str) -> dict[str, Look]:
    """Return a color and a mark for each locator, `marked` first and those that draw at random last."""
    names = sorted(set(locators) - {marked})
    drawn = [name for name in names if name.startswith("random")]
    rest = [name for name in names if name not in drawn]
    found: dict[str, Look] = {marked: (VERMILLION, "o")} if marked in locators else {}
    found |= {name: LOOKS[number % len(LOOKS)] for number, name in enumerate(rest)}
    return found | {name: (INK, "x" if number else "+") for number, name in enumerate(drawn)}


def draw_pareto(trials: Sequence[Trial], path: Path, *, title: str, marked: str = "two_stage") -> None:
    """Draw suppression against retention, a panel for each concept, as a PNG at `path`.

    Crosses are 95 % intervals, the line is the Pareto front, gray dots are random controls. A single panel names
    the front's distinct points by their job, and lists them below.

    Raises:
        ValueError: No trial has a value for both.
    """
    panels: dict[str, list[Trial]] = {}
    for one in trials:
        if one.place is not None:
            panels.setdefault(one.panel, []).append(one)
    if not panels:
        raise ValueError("no trial has both a mention_drop and a retention, so there is nothing to draw")
    looks = looks_of([one.locator for points in panels.values() for one in points], marked)
    if len(panels) == 1:
        _draw_one_panel(next(iter(panels.values())), looks, path, title)
    else:
        _draw_panels(dict(list(panels.items())[:MOST_PANELS]), looks, path, title)


def _draw_one_panel(trials: Sequence[Trial], looks: Mapping[str, Look], path: Path, title: str) -> None:
    labeled = _labeled(trials)
    lines = [_told(one) for one in labeled]
    more = len({one.place for one in trials if one.on_front}) - len(labeled)
    lines += [f"and {more} more points of the front, see leaderboard.md"] if more > 0 else []
    below = LINE * len(lines) + 0.2 + _legend_height(looks)
    with page(path, 4.4 + 0.65 + below + title_space(title), title) as figure:
        axes = place(figure, 0.7, below + 0.45, WIDTH - 1.0, 4.4)
        _draw_trials(axes, trials, looks, small=False)
        axes.set_xlabel("retention: the share of everything else that stays (right is better)")
        axes.set_ylabel("mention_drop: captions that lose the concept (up is better)")
        axes.tick_params(labelleft=True)
        _tag(axes, labeled, trials)
        for number, line in enumerate(lines):
            write(figure, 0.7, below - 0.1 - LINE * number, line, size=8)
        _draw_legend(figure, trials, looks)


def _draw_panels(
    panels: Mapping[str, Sequence[Trial]], looks: Mapping[str, Look], path: Path, title: str, columns: int = 3
) -> None:
    columns = min(columns, len(panels))
    room = (WIDTH - 0.75) / columns
    side = room - 0.25
    rows, below = -(-len(panels) // columns), _legend_height(looks)
    with page(path, rows * (side + 0.5) + 0.4 + below + title_space(title), title) as figure:
        for number, (name, trials) in enumerate(panels.items()):
            row, column = divmod(number, columns)
            bottom = 0.5 + below + (rows - 1 - row) * (side + 0.5)
            axes = place(figure, 0.65 + column * room, bottom, side, side)
            _draw_trials(axes, trials, looks, small=True)
            axes.set_title(name, size=9, loc="left", weight="bold", pad=6)
            axes.tick_params(labelleft=not column)
            axes.set_ylabel("" if column else "mention_drop")
            axes.set_xlabel("retention" if number + columns >= len(panels) else "")
        _draw_legend(figure, [one for trials in panels.values() for one in trials], looks)


def _draw_trials(axes: "Axes", trials: Sequence[Trial], looks: Mapping[str, Look], *, small: bool) -> None:
    controls = {_place(one.control_kept, one.control_drop) for one in trials}
    for x, y in sorted(point for point in controls if point is not None):
        # Wide and pale, so that one shows behind an edit that did as little.
        axes.plot(x, y, "o", color=GRAY, ms=5 if small else 7.5, alpha=0.4, mec="none", clip_on=False, zorder=2)
    front = sorted({one.place for one in trials if one.on_front and one.place is not None})
    axes.plot([x for x, _ in front], [y for _, y in front], color=INK, lw=1.2, zorder=3)
    # Equal sets give equal points; each is drawn once, or its cross would darken.
    distinct = list({(one.locator, one.place, one.fluent, one.on_front): one for one in trials}.values())
    for number, one in enumerate(distinct):
        # Of several locators at one point, those behind show around those before.
        covering = sum(other.place == one.place for other in distinct[number + 1 :])
        _draw_trial(axes, one, looks[one.locator], (3.5 if small else 5.5) + 2.5 * min(covering, 3))
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.grid(color="#EEEEEE", lw=0.6)
    axes.set_axisbelow(True)


def _draw_trial(axes: "Axes", one: Trial, look: Look, size: float) -> None:
    color, mark = look
    x, y = one.place or (0.0, 0.0)
    faint: dict[str, Any] = {"color": color, "lw": 0.7, "alpha": 0.7 if one.on_front else 0.2, "zorder": 1}
    if one.kept["low"] is not None:
        axes.plot([one.kept["low"], one.kept["high"]], [y, y], **faint)
    if one.drop["low"] is not None:
        axes.plot([x, x], [one.drop["low"], one.drop["high"]], **faint)
    edge = color if mark in "+x" or not one.fluent else INK if one.on_front else "white"
    face = color if one.fluent else "white"
    size += 1.5 * one.on_front
    axes.plot(x, y, mark, color=face, ms=size, mec=edge, mew=0.9, clip_on=False, zorder=5 if one.on_front else 4)


def _labeled(trials: Sequence[Trial]) -> list[Trial]:
    """Return the first job at each distinct point of the front, the best balanced points first if they are many."""
    first: dict[tuple[float, float], Trial] = {}
    for one in trials:
        if one.on_front and one.place is not None:
            first.setdefault(one.place, one)
    best = sorted(first, key=lambda point: -(2 * point[0] * point[1] / (sum(point) or 1)))[:MOST_LABELS]
    return [first[point] for point in sorted(best)]


def _told(one: Trial) -> str:
    plural = "s" * (one.neurons != 1)
    figures = f"drop {one.drop['value']:.2f}, kept {one.kept['value']:.2f}"
    return f"job {one.number}: {one.label or one.locator}: {one.neurons} neuron{plural}, {figures}"


def _tag(axes: "Axes", labeled: Sequence[Trial], trials: Sequence[Trial]) -> None:
    """Write the number of each job beside its point, where no point and no other number is."""
    box = axes.get_window_extent()
    wide, high = box.width / 150, box.height / 150

    def inches(point: tuple[float, float]) -> tuple[float, float]:
        return point[0] * wide / 1.04, point[1] * high / 1.04

    taken = [inches(one.place) for one in trials if one.place is not None]
    for one in labeled:
        assert one.place is not None
        x, y = inches(one.place)
        spots = [(x + reach * dx, y + reach * dy) for reach in (0.2, 0.34, 0.5, 0.7) for dx, dy in _DIRECTIONS]
        inside = [spot for spot in spots if spot[0] < wide - 0.1 and spot[1] > 0.1] or spots
        free = [spot for spot in inside if all(abs(spot[0] - a) > 0.2 or abs(spot[1] - b) > 0.14 for a, b in taken)]
        spot = (free or inside)[0]
        taken.append(spot)
        offset = ((spot[0] - x) * 72, (spot[1] - y) * 72)
        leader = {"arrowstyle": "-", "color": INK, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            str(one.number), one.place, offset, textcoords="offset points", ha="center", va="center",
            size=8, weight="bold", zorder=7, arrowprops=leader, annotation_clip=False,
        )  # fmt: skip


_DIRECTIONS = ((-0.8, -0.8), (-1.0, 0.0), (-0.4, -1.0), (0.8, -0.8), (1.0, 0.0), (0.8, 0.8), (0.0, 1.0), (-0.8, 0.8))


def _legend_height(looks: Mapping[str, Look]) -> float:
    return 0.2 * -(-(len(looks) + 4) // 4) + 0.12


def _draw_legend(figure: "Page", trials: Sequence[Trial], looks: Mapping[str, Look]) -> None:
    handles = [_handle(name, look) for name, look in looks.items()]
    handles += [_handle("Pareto front", (INK, ""), lw=1.2), _handle("95 % interval", (GRAY, ""), lw=0.7)]
    if any(_place(one.control_kept, one.control_drop) for one in trials):
        handles.append(_handle("random control", (GRAY, "o"), alpha=0.5))
    if not all(one.fluent for one in trials):
        handles.append(_handle("broken language", (INK, "o"), mfc="white"))
    columns = 5 if len(handles) <= 5 else 4
    figure.legend(handles=handles, loc="lower center", ncols=columns, columnspacing=1.6)


def _handle(label: str, look: Look, **more: Any) -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look[0], marker=look[1], ls="-" if "lw" in more else "", ms=5, label=label, **more)
