"""The tables of the study, and its figure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.miner_2024.masking import ALL, SHARE, STRATEGY, Setting
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.evaluation.task import TaskReport
from kedit.inspection.convergence import Streams
from kedit.neurons import NeuronSet
from kedit.results.table import Cell, Table

Reports = Mapping[str, TaskReport]
"""What masking did, by the setting's name."""
HEADINGS = {STRATEGY: "strategy, importance", SHARE: "budget"}


def benchmarks(reports: Reports, ratio: float) -> Table:
    """Return the share of right answers by benchmark: unmasked, with all neurons masked, and each modality's alone."""
    whole = reports[ALL]
    masked = [name if name == ALL else f"{name} alone" for name in reports]
    columns = (
        "benchmark",
        "unmasked",
        *(f"masked: {name}" for name in masked),
        f"random, {len(whole.by_seed)} seeds",
        "n",
    )
    rows = [
        (kind, was, *(one.after[kind] for one in reports.values()), whole.control[kind], was.n)
        for kind, was in whole.before.items()
    ]
    counts = ", ".join(f"{name} {one.neurons}" for name, one in reports.items())
    return Table(
        columns,
        tuple(rows),
        f"Right answers with a budget of {ratio:.1%} of the neurons masked",
        (f"neurons: {counts}",),
    )


def choices(part: str, reports: Reports) -> Table:
    """Return over all benchmarks what each way of choosing costs, beside as many random neurons in the same layers."""
    columns = (HEADINGS[part], "neurons", "unmasked", "masked", "random", "more lost than at random", "p")
    rows = tuple(_choice(name, one) for name, one in reports.items())
    return Table(columns, rows, f"Right answers over all benchmarks, by {HEADINGS[part]}")


def _choice(name: str, report: TaskReport) -> tuple[Cell, ...]:
    was, now, random = (one[ALL] for one in (report.before, report.after, report.control))
    return (name, report.neurons, was, now, random, report.comparison.difference, report.comparison.p)


def modalities(sets: Mapping[str, NeuronSet], halves: Sequence[Mapping[str, NeuronSet]], reports: Reports) -> Table:
    """Return for each modality how much its neurons are its own, how stable, and what masking them costs.

    Args:
        sets: Its neurons, by modality.
        halves: The same as each half of the questions finds them.
        reports: What masking each one's does.
    """
    columns = ("modality", "neurons", "specificity (ours)", "invariance (ours)", "lost", "more lost than at random")
    rows = []
    for name, own in sets.items():
        others = {one for other, some in sets.items() if other != name for one in some}
        lone = _share([one not in others for one in own], f"no neuron is found for {name}")
        first, second = (set(half.get(name, ())) for half in halves)
        kept = _share([one in first & second for one in first | second], "no half finds a neuron")
        report = reports[name]
        rows.append((name, len(own), lone, kept, report.lost, report.comparison.difference))
    notes = (
        "specificity: the share of a modality's neurons that are no other's; invariance: of the neurons that either "
        "half of the questions finds, the share that both find; lost: of the answers right before, those wrong after. "
        "The paper defines none of these.",
    )
    return Table(columns, tuple(rows), "The neurons of each modality", notes)


def _share(flags: Sequence[bool], nothing: str) -> Measured:
    return bootstrap_mean([float(one) for one in flags]) if flags else Measured.missing(nothing)


def depths(plain: Streams, masked: Streams) -> Table:
    """Return the cosines that follow the modalities through the layers, unmasked, and at the top masked."""
    last = plain.depths - 1
    columns = (
        "quantity",
        "before layer 0",
        f"after {last // 2} layers",
        f"after {last} layers",
        "the last, masked",
        "n",
    )
    rows = []
    for name, values in _quantities(plain):
        below = [_cosine(values[:, depth]) for depth in (0, last // 2, last)]
        above = dict(_quantities(masked)).get(name)
        top = Measured.missing("masked, there is no such token") if above is None else _cosine(above[:, last])
        rows.append((name, *below, top, below[0].n))
    notes = ("The paper shows these in pictures and leaves them undefined; the cosines are kedit's.",)
    return Table(columns, tuple(rows), "Modalities through the layers (ours)", notes, fine=True)


def _quantities(found: Streams) -> Iterator[tuple[str, Any]]:
    for modality, values in found.convergence.items():
        yield f"convergence (ours): {modality} to the last token", values
    for modality, values in found.probing.items():
        if modality != "text":
            yield f"semantic probing (ours): {modality} to text", values
    if found.telomeres is not None:
        yield "telomeres (ours): special to text", found.telomeres


def _cosine(values: Any) -> Measured:
    known = [float(one) for one in values if one == one]
    return bootstrap_mean(known) if known else Measured.missing("no prompt has such tokens")


def draw(reports: Reports, ratio: float) -> Any:
    """Return the share of right answers by benchmark: unmasked, masked by modality, and at random."""
    from kedit.plots import Look, draw_intervals
    from kedit.plots.style import BASELINE, CONTROL, EDITED, SERIES

    whole, parts = reports[ALL], {name: one for name, one in reports.items() if name != ALL}
    looks = {"unmasked": Look(BASELINE, "s"), "all masked": Look(EDITED)}
    looks |= {f"{name} alone": look for name, look in zip(parts, SERIES, strict=False)}
    looks |= {"random, same layers": Look(CONTROL, "D")}
    rows = {
        kind: list(
            zip(
                [was, whole.after[kind], *(one.after[kind] for one in parts.values()), whole.control[kind]],
                looks.values(),
                strict=True,
            )
        )
        for kind, was in whole.before.items()
    }
    title = f"Right answers with {whole.neurons} neurons masked, of a budget of {ratio:.1%}"
    return draw_intervals({"questions answered right: share": rows}, looks, title=title)


def settings_by_part(settings: Sequence[Setting], reports: Mapping[Setting, TaskReport]) -> dict[str, Reports]:
    """Return the reports of each table, by the setting's name."""
    parts: dict[str, dict[str, TaskReport]] = {}
    for one in settings:
        parts.setdefault(one.part, {})[one.name] = reports[one]
    return dict(parts)
