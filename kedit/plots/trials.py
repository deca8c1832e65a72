"""What edits trade: suppression against retention, and both by the number of edited neurons."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kedit.evaluation.statistics import Measured
from kedit.plots.drawing import Drawing, sheet
from kedit.plots.lines import Curve, draw_lines, exact
from kedit.plots.marks import Point, count_axis, share_axis, tag
from kedit.plots.style import CONTROL, GRAY, INK, MEASURES, Look, looks_of, name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 24
MOST_LABELS = 8
MOST_BARS = 8
"""Numbers of neurons up to which the interval of each is a bar."""


@dataclass(frozen=True)
class Trial:
    """One edit as a point, such as a job of a sweep: what it did, and what random neurons did in its place."""

    locator: str
    neurons: float
    drop: Measured
    """Mention_drop; a share."""
    kept: Measured
    """Retention; a share."""
    control_drop: Measured | None = None
    control_kept: Measured | None = None
    number: int = 0
    """Of the job."""
    panel: str = ""
    """What it competes in, such as the concept."""
    on_front: bool = False
    """Whether it is in the Pareto set of its panel."""
    evidence: bool = True
    """Whether it beat its random control without breaking the language."""
    edited: Hashable = None
    """What tells the neurons: trials of equal ones have equal figures, which count once. None tells nothing."""

    @property
    def place(self) -> Point | None:
        """Retention and mention_drop; None where either could not be measured."""
        return _both(self.kept, self.drop)


def _both(kept: Measured | None, drop: Measured | None) -> Point | None:
    known = kept is not None and drop is not None and kept.value is not None and drop.value is not None
    return (kept.value, drop.value) if known else None  # type: ignore[union-attr,return-value]


def draw_pareto(trials: Sequence[Trial], *, title: str, marked: str = "two_stage") -> Drawing:
    """Draw suppression against retention, a panel for each concept.

    Crosses are 95 % intervals, the line joins the Pareto front, whose points are ringed; hollow points are no evidence.
    A single panel names the front's jobs; of many panels the first `MOST_PANELS` are drawn.

    Raises:
        ValueError: No trial has a value for both.
    """
    panels: dict[str, list[Trial]] = {}
    for one in trials:
        if one.place is not None:
            panels.setdefault(one.panel, []).append(one)
    if not panels:
        raise ValueError("no trial has both a mention_drop and a retention, so there is nothing to draw")
    looks = looks_of([one.locator for one in trials if one.place], marked)
    shown, alone = list(panels.items())[:MOST_PANELS], len(panels) == 1
    notes = [f"{MOST_PANELS} of {len(panels)} are shown"] * (len(panels) > MOST_PANELS)
    notes += ["labels: a job of the front, and how many more are at its point; see leaderboard.md"] * alone
    columns = min(len(shown), 3)
    with sheet(4.0 if alone else 2.3 * -(-len(shown) // columns) + 0.2, title, notes) as drawing:
        every = drawing.panels(len(shown), columns, min(columns, 2), sharex=True, sharey=True)
        for axes, (heading, own) in zip(every, shown, strict=True):
            _draw_trials(axes, own, looks, 5.5 if alone else 3.5)
            drawing.head(axes, "" if alone else heading)
        kept = [share for _, own in shown for one in own for share in (one.kept, one.control_kept) if share is not None]
        share_axis(every[0], "x", kept, zoom=True)
        share_axis(every[0], "y")
        drawing.across = f"{name('retention')}: the weakest measure of what must stay (right is better)"
        drawing.up = name("mention_drop") + " (up is better)" * alone
        drawing.looks = _legend([one for _, own in shown for one in own], looks)
        if alone:
            drawing.late.append(lambda: tag(drawing.figure, every[0], _labels(trials)))
    return drawing


def _draw_trials(axes: "Axes", trials: Sequence[Trial], looks: Mapping[str, Look], size: float) -> None:
    controls = {_both(one.control_kept, one.control_drop) for one in trials}
    for x, y in sorted(point for point in controls if point is not None):
        # Wide and pale, so that one shows behind an edit that did as little.
        axes.plot(x, y, "D", color=CONTROL, ms=size + 1.5, alpha=0.7, mec="none", clip_on=False, zorder=2)
    front = sorted({one.place for one in trials if one.on_front and one.place is not None})
    axes.plot([x for x, _ in front], [y for _, y in front], color=INK, lw=1.2, zorder=3)
    for x, y in front:
        axes.plot(x, y, "o", color="none", ms=size + 4, mec=INK, mew=1.1, clip_on=False, zorder=5)
    # Equal sets give equal points; each is drawn once, or its cross would darken.
    distinct = list({(one.locator, one.place, one.evidence): one for one in trials}.values())
    _draw_crosses(axes, distinct, looks)
    for number, one in enumerate(distinct):
        # Of several locators at one point, those behind show around those before.
        covering = sum(other.place == one.place for other in distinct[number + 1 :])
        look, (x, y) = looks[one.locator], one.place or (0.0, 0.0)
        face = {} if one.evidence else {"mfc": "white", "mec": look.color}
        large = size + 2.5 * min(covering, 3)
        axes.plot(x, y, **look.line2d() | {"ms": large, "ls": ""} | face, clip_on=False, zorder=4)
    axes.grid()


def _draw_crosses(axes: "Axes", trials: Sequence[Trial], looks: Mapping[str, Look]) -> None:
    """Draw the intervals of each point, those of the front darker, all at once for speed."""
    known = [one for one in trials if one.kept.low is not None and one.drop.low is not None]
    ends = [[(which.value, which.low, which.high) for which in (one.kept, one.drop)] for one in known]
    x, left, right, y, low, high = np.array(ends, dtype=np.float64).reshape(-1, 6).T
    colors = [(looks[one.locator].color, 0.7 if one.on_front else 0.2) for one in known]
    axes.hlines(y, left, right, colors=colors, lw=0.9, zorder=1)
    axes.vlines(x, low, high, colors=colors, lw=0.9, zorder=1)


def _labels(trials: Sequence[Trial]) -> dict[Point, str]:
    """Return the numbers of the jobs at each point of the front, of the best balanced points if they are many."""
    jobs: dict[Point, list[int]] = {}
    for one in trials:
        if one.on_front and one.place is not None:
            jobs.setdefault(one.place, []).append(one.number)
    best = sorted(jobs, key=lambda point: -(2 * point[0] * point[1] / (sum(point) or 1)))[:MOST_LABELS]
    return {point: f"{jobs[point][0]}" + f" +{len(jobs[point]) - 1}" * (len(jobs[point]) > 1) for point in sorted(best)}


def _legend(trials: Sequence[Trial], looks: Mapping[str, Look]) -> dict[str, Mapping[str, Any]]:
    legend: dict[str, Mapping[str, Any]] = {name(one): look.line2d() | {"ls": ""} for one, look in looks.items()}
    legend["Pareto front"] = {"color": INK, "lw": 1.2, "marker": "o", "ms": 8, "mfc": "none"}
    legend["95 % interval"] = {"color": GRAY, "lw": 0.9}
    if any(_both(one.control_kept, one.control_drop) for one in trials):
        legend["random control"] = Look(CONTROL, "D", "").line2d()
    if not all(one.evidence for one in trials):
        legend["no evidence"] = Look(INK, "o", "").line2d() | {"mfc": "white", "mec": INK}
    return legend


SERIES: dict[str, tuple[Callable[[Trial], Measured | None], Look]] = {
    name("mention_drop"): (lambda one: one.drop, MEASURES["mention_drop"]),
    name("retention"): (lambda one: one.kept, MEASURES["retention"]),
    f"{name('mention_drop')}, random neurons": (lambda one: one.control_drop, Look(CONTROL)),
    f"{name('retention')}, random neurons": (lambda one: one.control_kept, Look(CONTROL, "s", "--")),
}


def draw_doses(trials: Sequence[Trial], *, title: str) -> Drawing:
    """Draw suppression and retention by the number of edited neurons, a panel for each locator.

    Different sets of one number of neurons count with their mean, which has no interval. Where concepts are edited
    in other numbers than each other, a mean would be of other concepts at each number: then each has its own panel.

    Raises:
        ValueError: No trial has a value for either.
    """
    trials = _once(trials)
    apart = _differing(_counts(trials))

    def panel_of(one: Trial) -> str:
        return f"{one.panel}, {one.locator}" if one.locator in apart else one.locator

    panels: dict[str, dict[str, Curve]] = {panel_of(one): {} for one in trials}
    for panel, curves in panels.items():
        for label, (figure, look) in SERIES.items():
            known = _by_number([(one.neurons, figure(one)) for one in trials if panel_of(one) == panel])
            if known:
                curves[label] = Curve(list(known), list(known.values()), look)
    few = len(panels) < 4

    def prepare(axes: "Axes") -> None:
        share_axis(axes, "y")
        count_axis(axes, [one.neurons for one in trials], 5 if few else 4)

    columns, height = (len(panels), 2.8) if few else (4, 1.6)
    # Bands of several curves hide each other; bars of many points would.
    sparse = all(len(curve.x) <= MOST_BARS for curves in panels.values() for curve in curves.values())
    layout: dict[str, Any] = {"columns": columns, "height": height, "bars": sparse, "prepare": prepare}
    return draw_lines(panels, title=title, across="neurons edited", **layout)


def _differing(counts: Mapping[tuple[str, str], set[float]]) -> set[str]:
    """Return the locators by which concepts are edited in other numbers of neurons than each other."""
    first: dict[str, set[float]] = {}
    return {locator for (locator, _), numbers in counts.items() if first.setdefault(locator, numbers) != numbers}


def varied(trials: Sequence[Trial]) -> bool:
    """Return whether any concept was edited in several numbers of neurons by one locator, as a dose is drawn of."""
    return any(len(counts) > 1 for counts in _counts(trials).values())


def _counts(trials: Sequence[Trial]) -> dict[tuple[str, str], set[float]]:
    found: dict[tuple[str, str], set[float]] = defaultdict(set)
    for one in trials:
        found[one.locator, one.panel].add(one.neurons)
    return found


def _once(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials without those that edit the neurons of an earlier one, of one locator and panel."""
    found: dict[Hashable, Trial] = {}
    for number, one in enumerate(trials):
        found.setdefault((one.locator, one.panel, number if one.edited is None else one.edited), one)
    return list(found.values())


def _by_number(doses: Sequence[tuple[float, Measured | None]]) -> dict[float, Measured]:
    found: dict[float, list[Measured]] = {}
    for neurons, one in sorted(doses, key=lambda dose: dose[0]):
        if one is not None and one.value is not None:
            found.setdefault(neurons, []).append(one)
    means = {n: float(np.mean([one.value for one in several if one.value is not None])) for n, several in found.items()}
    return {n: several[0] if len(several) == 1 else exact([means[n]])[0] for n, several in found.items()}
