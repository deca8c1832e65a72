"""What an edit did, beside its control: figures as points with their 95 % intervals."""

from collections.abc import Mapping, Sequence

from kedit.evaluation.statistics import Measured
from kedit.plots.drawing import Drawing, sheet, wrap
from kedit.plots.marks import intervals, share_axis
from kedit.plots.style import BASELINE, CONTROL, EDITED, Look, name

Rows = Mapping[str, Sequence[tuple[Measured, Look]]]
"""For each row, top to bottom, its figures and how they look."""
Pairs = Mapping[str, tuple[Measured, Measured | None]]
"""For each measure, that of the located neurons and that of random ones."""
TALLEST = 9.0
"""Inches of a page of a paper: panels that stand side by side stay so where they would not fit one above the other."""
SIMILARITIES = ("bleu", "rougeL", "bertscore")
UNEDITED, LOCATED, RANDOM = Look(BASELINE, "s"), Look(EDITED), Look(CONTROL, "D")
CONTROLLED = {"with the edit": LOCATED, "with random neurons of the same layers (control)": RANDOM}


def draw_intervals(
    panels: Mapping[str, Rows],
    looks: Mapping[str, Look],
    *,
    title: str,
    notes: Sequence[str] = (),
    columns: int = 1,
    zoom: bool = False,
    numbers: bool = False,
) -> Drawing:
    """Draw figures as points with their 95 % intervals, a panel for each group of rows.

    Args:
        panels: For each panel its rows, which are the same in panels side by side.
        looks: The legend.
        title: The finding.
        notes: Small print.
        columns: Panels side by side.
        zoom: Whether an axis of high shares begins above 0.
        numbers: Whether the figures stand beside the points as text too.

    Raises:
        ValueError: No figure has a value.
    """
    every = [one for rows in panels.values() for row in rows.values() for one, _ in row]
    if all(one.value is None for one in every):
        raise ValueError("no figure has a value, so there is nothing to draw; pass at least one")
    tallest = [max(map(len, rows.values())) for rows in panels.values()]
    heights = [len(rows) * (0.2 + 0.1 * most) + 0.15 for rows, most in zip(panels.values(), tallest, strict=True)]
    rows = heights[::columns]
    with sheet(sum(rows) + (0.5 if zoom else 0.32) * len(rows) + 0.25, title, notes) as drawing:
        beside, starts = columns > 1, list[str]()
        narrow = 0 if beside and sum(heights) > TALLEST else None
        places = drawing.panels(len(panels), columns, narrow, heights, sharex=not zoom, sharey=beside)
        for axes, (heading, own) in zip(places, panels.items(), strict=True):
            labels = [wrap(name(row), 26) if beside else _label(row, several) for row, several in own.items()]
            intervals(axes, list(own.values()), labels, numbers=numbers)
            figures = [one for several in own.values() for one, _ in several] if zoom else every
            if start := max(0, share_axis(axes, "x", figures, zoom=zoom, brief=numbers)):
                starts.append(f"that of “{heading}” at {start:g}")
            drawing.head(axes, heading)
        drawing.notes = [*notes, *([f"axes that do not begin at 0: {', '.join(starts)}"] if starts else [])]
        drawing.looks = {label: look.interval() for label, look in looks.items()} if len(looks) > 1 else {}
    return drawing


def _label(row: str, several: Sequence[tuple[Measured, Look]]) -> str:
    n = next((one.n for one, _ in several if one.value is not None), 0)
    return wrap(f"{name(row)} (n = {n})" if n else name(row), 26)


def _paired(pairs: Pairs) -> Rows:
    return {
        row: [(own, LOCATED)] + ([(control, RANDOM)] if control is not None else [])
        for row, (own, control) in pairs.items()
    }


def draw_effects(suppression: Pairs, retention: Pairs, *, title: str) -> Drawing:
    """Draw what an edit did beside its random control: what is suppressed, what is kept, and likeness.

    Args:
        suppression: Shares of the captions that named the concept.
        retention: Shares of what must stay, and similarities of the captions to the unedited ones.
        title: The verdict; the figure judges nothing itself.
    """
    shares = {key: pair for key, pair in retention.items() if key not in SIMILARITIES}
    likeness = {key: pair for key, pair in retention.items() if key in SIMILARITIES}
    panels = {"suppressed: share": suppression, "kept: share": shares, "similarity to before": likeness}
    drawn = {heading: _paired(pairs) for heading, pairs in panels.items() if pairs}
    return draw_intervals(drawn, CONTROLLED, title=title, zoom=True, numbers=True)


def draw_measures(sections: Mapping[str, Pairs], *, title: str) -> Drawing:
    """Draw measures of located neurons beside random ones, a panel for each section; what has no value is left out."""
    known = {
        section: {row: pair for row, pair in pairs.items() if any(one and one.value is not None for one in pair)}
        for section, pairs in sections.items()
    }
    drawn = {section: _paired(pairs) for section, pairs in known.items() if pairs}
    return draw_intervals(drawn, {"located": LOCATED, "random, layer-matched": RANDOM}, title=title)


def draw_answers(right: Mapping[str, tuple[Measured, Measured, Measured]], *, title: str) -> Drawing:
    """Draw the share of right answers by kind of question: unedited, edited, and with random neurons edited."""
    rows = {kind: list(zip(figures, (UNEDITED, LOCATED, RANDOM), strict=True)) for kind, figures in right.items()}
    looks = {"unedited": UNEDITED} | CONTROLLED
    return draw_intervals({"questions answered right: share": rows}, looks, title=title, numbers=True)


def draw_ranking(
    rows: Mapping[str, Mapping[str, Measured]], *, title: str, marked: str | None = None, faded: Sequence[str] = ()
) -> Drawing:
    """Draw measures of several methods, best first, a panel for each measure.

    Args:
        rows: For each method its measures, which are shares.
        title: The finding.
        marked: The method that the others are compared with.
        faded: Methods that draw at random.
    """
    looks = {method: LOCATED if method == marked else RANDOM if method in faded else UNEDITED for method in rows}
    panels = {
        name(measure): {method: [(own[measure], looks[method])] for method, own in rows.items()}
        for measure in next(iter(rows.values()), {})
    }
    told = {name(marked or ""): LOCATED, "other methods": UNEDITED, "random neurons": RANDOM}
    legend = {label: look for label, look in told.items() if look in looks.values()}
    return draw_intervals(panels, legend, title=title, columns=len(panels))
