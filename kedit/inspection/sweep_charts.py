"""The chart of what the jobs of a sweep trade: suppression against retention."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedit.inspection.canvas import DPI, GRAY, INK, WIDTH, page, place, title_space, write
from kedit.inspection.trials import Look, Trial, both, looks_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Page
    from matplotlib.lines import Line2D

Point = tuple[float, float]
TAG: Point = (0.24, 0.16)
"""Inches that the number of a job takes."""
REACHES = (0.2, 0.34, 0.5, 0.7, 0.95)
"""Inches between a point and its tag."""
DIRECTIONS = ((-0.8, -0.8), (-1.0, 0.0), (-0.4, -1.0), (0.8, -0.8), (1.0, 0.0), (0.8, 0.8), (0.0, 1.0), (-0.8, 0.8))
MOST_PANELS = 24
MOST_LABELS = 8
LINE = 0.19
"""Inches of a line of small print."""


def draw_pareto(trials: Sequence[Trial], path: Path, *, title: str, marked: str = "two_stage") -> None:
    """Draw suppression against retention, a panel for each concept, as a PNG at `path`.

    Crosses are 95 % intervals, the line is the Pareto front, gray dots are random controls. A single panel names
    the front's distinct points by their job, and lists them below; of many panels the first `MOST_PANELS` are drawn.

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
        left_out = f" ({MOST_PANELS} of {len(panels)} are shown)" if len(panels) > MOST_PANELS else ""
        _draw_panels(dict(list(panels.items())[:MOST_PANELS]), looks, path, title + left_out)


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
    controls = {both(one.control_kept, one.control_drop) for one in trials}
    for x, y in sorted(point for point in controls if point is not None):
        # Wide and pale, so that one shows behind an edit that did as little.
        axes.plot(x, y, "o", color=GRAY, ms=5 if small else 7.5, alpha=0.4, mec="none", clip_on=False, zorder=2)
    front = sorted({one.place for one in trials if one.on_front and one.place is not None})
    axes.plot([x for x, _ in front], [y for _, y in front], color=INK, lw=1.2, zorder=3)
    # Equal sets give equal points; each is drawn once, or its cross would darken.
    _draw_intervals(axes, trials, looks)
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
    edge = color if mark in "+x" or not one.fluent else INK if one.on_front else "white"
    face = color if one.fluent else "white"
    size += 1.5 * one.on_front
    axes.plot(x, y, mark, color=face, ms=size, mec=edge, mew=0.9, clip_on=False, zorder=5 if one.on_front else 4)


def _draw_intervals(axes: "Axes", trials: Sequence[Trial], looks: Mapping[str, Look]) -> None:
    """Draw a cross for each distinct point, those of the front darker, as one collection for speed."""
    from matplotlib.collections import LineCollection

    crosses: dict[tuple[Point, Point], tuple[str, float]] = {}
    for one in sorted(trials, key=lambda one: one.on_front):
        x, y = one.place or (0.0, 0.0)
        look = looks[one.locator][0], 0.7 if one.on_front else 0.2
        if one.kept["low"] is not None:
            crosses[(one.kept["low"], y), (one.kept["high"], y)] = look
        if one.drop["low"] is not None:
            crosses[(x, one.drop["low"]), (x, one.drop["high"])] = look
    axes.add_collection(LineCollection(list(crosses), colors=list(crosses.values()), lw=0.7, zorder=1))


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
    box, (left, right), (low, high) = axes.get_window_extent(), axes.get_xlim(), axes.get_ylim()
    size = box.width / DPI, box.height / DPI

    def inches(point: tuple[float, float]) -> Point:
        return (point[0] - left) / (right - left) * size[0], (point[1] - low) / (high - low) * size[1]

    points = [inches(one.place) for one in labeled if one.place is not None]
    others = [inches(one.place) for one in trials if one.place is not None]
    leader = {"arrowstyle": "-", "color": INK, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
    for one, (x, y), (to_x, to_y) in zip(labeled, points, tag_places(points, others, size), strict=True):
        axes.annotate(
            str(one.number), one.place or (0, 0), ((to_x - x) * 72, (to_y - y) * 72), textcoords="offset points",
            ha="center", va="center", size=8, weight="bold", zorder=7, arrowprops=leader, annotation_clip=False,
        )  # fmt: skip


def tag_places(points: Sequence[Point], others: Sequence[Point], size: Point) -> list[Point]:
    """Return where the tag of each point goes: near it, and clear of the other tags and of all points if that can be.

    All in inches from the lower left corner of a page of `size`, to the middle of a tag of `TAG`.
    """
    taken = list(others)
    places: list[Point] = []
    for x, y in points:
        spots = [(x + reach * dx, y + reach * dy) for reach in REACHES for dx, dy in DIRECTIONS]
        spots = [spot for spot in spots if all(0.1 < spot[side] < size[side] - 0.1 for side in (0, 1))] or spots
        free = [spot for spot in spots if not any(_touch(spot, one) for one in taken)]
        # Where all is full, a tag may lie on a point, but not on another tag.
        spot = (free or [spot for spot in spots if not any(_touch(spot, one) for one in places)] or spots)[0]
        places.append(spot)
        taken.append(spot)
    return places


def _touch(one: Point, other: Point) -> bool:
    return abs(one[0] - other[0]) < TAG[0] and abs(one[1] - other[1]) < TAG[1]


def _legend_height(looks: Mapping[str, Look]) -> float:
    return 0.2 * -(-(len(looks) + 4) // 4) + 0.12


def _draw_legend(figure: "Page", trials: Sequence[Trial], looks: Mapping[str, Look]) -> None:
    handles = [_handle(name, look) for name, look in looks.items()]
    handles += [_handle("Pareto front", (INK, ""), lw=1.2), _handle("95 % interval", (GRAY, ""), lw=0.7)]
    if any(both(one.control_kept, one.control_drop) for one in trials):
        handles.append(_handle("random control", (GRAY, "o"), alpha=0.5))
    if not all(one.fluent for one in trials):
        handles.append(_handle("broken language", (INK, "o"), mfc="white"))
    columns = 5 if len(handles) <= 5 else 4
    figure.legend(handles=handles, loc="lower center", ncols=columns, columnspacing=1.6)


def _handle(label: str, look: Look, **more: Any) -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D([], [], color=look[0], marker=look[1], ls="-" if "lw" in more else "", ms=5, label=label, **more)
