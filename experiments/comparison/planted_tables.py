"""The planted models' verdicts for people and for programs."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experiments.comparison.planted_costs import Cost
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference
from kedit.plots import Drawing, draw_benchmark

MEAN = "mean"
RANDOM = "random (expected)"
COSTS = ("forwards", "backwards", "time", "memory")
ABOUT = (
    "Average precision of the true neurons in each method's ranking of all neurons, mean over models (95 % bootstrap "
    "interval); `mean` is over variants. `forwards` and `backwards` are passes for each picture, `time` and `memory` "
    "multiples of one plain forward of the same pictures. Stages before the last are applied as configured; what they "
    "drop ranks below."
)


@dataclass(frozen=True, eq=False)
class Verdict:
    """How well one method ranks the true neurons of each variant, seed by seed, and what it takes."""

    method: str
    found: Mapping[str, Sequence[float]]
    """Average precision by variant; of no use where the method failed."""
    why: str = ""
    """Why it failed, the first time."""
    cost: Cost | None = None
    note: str = ""


def sorted_by_mean(verdicts: Sequence[Verdict], variants: Sequence[str]) -> list[Verdict]:
    """Return the verdicts from high to low mean average precision, failures last."""
    return sorted(verdicts, key=lambda one: -(mean(one, variants) or 0))


def mean(verdict: Verdict, variants: Sequence[str]) -> float | None:
    """Return the mean average precision over all variants and models; None where the method failed."""
    return figures(verdict, variants)[MEAN].value


def figures(verdict: Verdict, variants: Sequence[str]) -> dict[str, Measured]:
    """Return the mean average precision of each variant over its models, and over all variants."""
    if verdict.why:
        return {name: Measured.missing(verdict.why) for name in (*variants, MEAN)}
    by_variant = {name: bootstrap_mean(verdict.found[name]) for name in variants}
    return by_variant | {MEAN: bootstrap_mean(_over_variants(verdict, variants))}


def against(verdicts: Sequence[Verdict], variants: Sequence[str], reference: str) -> dict[str, tuple[str, Measured]]:
    """Return for each variant the best other method and the reference's lead over it, paired by model."""
    own = next((one for one in verdicts if one.method == reference), None)
    rivals = [one for one in verdicts if one.method not in (reference, RANDOM) and not one.why]
    if own is None or own.why or not rivals:
        return {}
    contests = {}
    for name in (*variants, MEAN):
        best = max(rivals, key=lambda one: sum(_values(one, name, variants)))
        contests[name] = best.method, paired_difference(_values(own, name, variants), _values(best, name, variants))
    return contests


def told(contests: Mapping[str, tuple[str, Measured]], reference: str) -> str:
    """Return where the reference leads the best other method and where it trails, in Markdown."""
    if not contests:
        return ""
    lines = [f"`{reference}` against the best other method of each variant:"]
    for name, (rival, lead) in contests.items():
        lines.append(f"- {name}: {_standing(lead)} `{rival}` ({lead})")
    return "\n".join([lines[0], "", *lines[1:]])


def drawn(verdicts: Sequence[Verdict], variants: Sequence[str], reference: str) -> Drawing:
    """Return average precision as a picture, darker where the true neurons rank higher, with the costs beside it."""
    cells = {one.method: {name: figures(one, variants)[name].value for name in (*variants, MEAN)} for one in verdicts}
    costs = dict(zip(COSTS, zip(*map(cost_cells, verdicts), strict=True), strict=True))
    notes = ["average precision of the true neurons; costs as multiples of one forward"]
    return draw_benchmark(cells, costs, title=finding(verdicts, variants, reference), notes=notes, marked=reference)


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


def columns(variants: Sequence[str]) -> list[str]:
    """Return the header of the table."""
    return ["method", MEAN, *variants, *COSTS]


def row(verdict: Verdict, variants: Sequence[str]) -> list[str]:
    """Return a method as text, in the order of `columns`."""
    found = figures(verdict, variants)
    cells = [f"failed: {verdict.why}" if verdict.why else str(found[MEAN]), *(str(found[name]) for name in variants)]
    if verdict.why:
        cells[1:] = ["-"] * len(variants)
    return [verdict.method, *cells, *cost_cells(verdict)]


def cost_cells(verdict: Verdict) -> list[str]:
    """Return what the method takes, as text."""
    if verdict.method == RANDOM:
        return ["0", "0", "-", "-"]
    if verdict.cost is None:
        return ["-"] * len(COSTS)
    return [
        f"{verdict.cost.forwards:.4g}",
        f"{verdict.cost.backwards:.4g}",
        f"{verdict.cost.time:.2g}x" if verdict.cost.time < 10 else f"{verdict.cost.time:.0f}x",
        f"{verdict.cost.memory:.2g}x" if verdict.cost.memory < 10 else f"{verdict.cost.memory:.0f}x",
    ]


def notes(verdicts: Sequence[Verdict]) -> list[str]:
    """Return how methods differ from their files."""
    return [f"{one.method}: {one.note}" for one in verdicts if one.note]


def plain(
    verdicts: Sequence[Verdict], variants: Sequence[str], contests: Mapping[str, tuple[str, Measured]], about: str
) -> dict[str, Any]:
    """Return everything as data for JSON."""
    return {
        "about": about,
        "methods": {
            one.method: {
                "average_precision": {name: value.to_json() for name, value in figures(one, variants).items()},
                "by_model": {name: list(values) for name, values in one.found.items()},
                "cost": None if one.cost is None else asdict(one.cost),
                "note": one.note,
            }
            for one in verdicts
        },
        "reference": {name: {"rival": rival, "lead": lead.to_json()} for name, (rival, lead) in contests.items()},
    }


def comma_separated(verdicts: Sequence[Verdict], variants: Sequence[str]) -> str:
    """Return one line for each method and variant."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "variant", "average_precision", "low", "high", "n", *COSTS, "why"])
    writer.writerows(_lines(verdicts, variants))
    return text.getvalue()


def show(verdicts: Sequence[Verdict], variants: Sequence[str], contests: str) -> None:
    """Print the table, without intervals, and where the reference leads and trails."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="average precision on planted models", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns(variants):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for one in verdicts:
        found = figures(one, variants)
        cells = ["-" if found[name].value is None else f"{found[name].value:.2f}" for name in (MEAN, *variants)]
        table.add_row(*map(Text, [one.method, *cells, *cost_cells(one)]))
    # A line that the terminal wraps can still be read, a cell that is cut off cannot.
    needed = Console(width=1000).measure(table).maximum
    console = Console(width=max(Console().width, needed))
    console.print(table)
    for remark in [*notes(verdicts), *(f"{one.method} failed: {one.why}" for one in verdicts if one.why)]:
        console.print(remark, markup=False, highlight=False)
    console.print(contests, markup=False, highlight=False)


def _standing(lead: Measured) -> str:
    if lead.low is None or lead.high is None:
        return "beside"
    return "ahead of" if lead.low > 0 else "behind" if lead.high < 0 else "level with"


def _over_variants(verdict: Verdict, variants: Sequence[str]) -> list[float]:
    by_model = zip(*(verdict.found[name] for name in variants), strict=True)
    return [sum(values) / len(values) for values in by_model]


def _values(verdict: Verdict, name: str, variants: Sequence[str]) -> Sequence[float]:
    return _over_variants(verdict, variants) if name == MEAN else verdict.found[name]


def _lines(verdicts: Sequence[Verdict], variants: Sequence[str]) -> Iterator[list[Any]]:
    for one in verdicts:
        cost = [None] * len(COSTS) if one.cost is None else list(asdict(one.cost).values())
        for name, value in figures(one, variants).items():
            yield [one.method, name, value.value, value.low, value.high, value.n, *cost, one.why]
