"""The figures of a sweep: its Pareto front, its thresholds, and its doses of neurons."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, get_args

from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import figure_style
from kedit.cli.sweeping.axes import grid, highest, line, numeric_keys
from kedit.cli.sweeping.leaderboard import best, n_level, sample_counts
from kedit.cli.sweeping.pareto import Pareto
from kedit.cli.sweeping.results import Result
from kedit.cli.sweeping.rows import Row, Sweep
from kedit.figure_style import Format
from kedit.plots import Drawing, Style, Trial, draw_doses, draw_pareto, draw_setting, draw_thresholds
from kedit.plots.trials import varied
from kedit.results.run_folder import write_file
from kedit.words import counted

NO_EVIDENCE = "No evidence at any point"


class Drawn(NamedTuple):
    """Which figures there are, as paths relative to the sweep, and for each other one a sentence that says why not."""

    figures: tuple[str, ...]
    lacking: tuple[str, ...]


def draw(sweep: Sweep, front: Pareto) -> Drawn:
    """Draw the figures into `figures/` of the sweep, in its jobs' style; of earlier ones, none is left."""
    figures, lacking, points, style = [], [], trials(sweep, front), _style(sweep)
    plans = {"pareto": _pareto(sweep, points), "thresholds": _thresholds(sweep), "dose": _dose(sweep, points)}
    for name, drawing in plans.items():
        file = f"{name}.{style.format}"
        if isinstance(drawing, str):
            lacking.append(f"There is no {file}: {drawing}.")
        else:
            write_file(sweep.folder / "figures" / file, partial(drawing.save, style=style))
            figures.append(f"figures/{file}")
        for old in {f"figures/{name}.{kind}" for kind in get_args(Format)} - {*figures}:
            (sweep.folder / old).unlink(missing_ok=True)
    return Drawn(tuple(figures), tuple(lacking))


def _style(sweep: Sweep) -> Style:
    """Return how the first job's figures were asked for; the usual style where it draws none or nobody knows."""
    try:
        settings = OmegaConf.load(sweep.folder / str(sweep.rows[0].number) / ".hydra" / "config.yaml")
        style = figure_style(settings) if isinstance(settings, DictConfig) else True
    except Exception:  # YAML of any kind, or none
        style = True
    return style if isinstance(style, Style) else Style()


def trials(sweep: Sweep, front: Pareto) -> list[Trial]:
    """Return the jobs that have a result as points."""
    several = len({result.model for _, result in sweep.done}) > 1
    return [_trial(row, result, row.number in front.jobs, several) for row, result in sweep.done]


def _trial(row: Row, result: Result, on_front: bool, several: bool) -> Trial:
    one = result.figures
    return Trial(
        number=row.number,
        panel=f"{result.concept} in {result.model}" if several else result.concept,
        locator=result.locator,
        neurons=result.neurons,
        drop=one["mention_drop"],
        kept=one["retention"],
        control_drop=one["control_mention_drop"],
        control_kept=one["control_retention"],
        on_front=on_front,
        evidence=result.evidence is not False,
        edited=row.neurons,
    )


def _pareto(sweep: Sweep, points: Sequence[Trial]) -> Drawing | str:
    if not any(one.place for one in points):
        return "no job has both a mention_drop and a retention"
    return draw_pareto(points, title=f"{_about(sweep)}: {_finding(sweep)}")


def _dose(sweep: Sweep, points: Sequence[Trial]) -> Drawing | str:
    if not any(one.place for one in points):
        return "no job has both a mention_drop and a retention"
    if len(counts := {one.neurons for one in points}) < 2:
        return f"all jobs edit the same number of neurons ({counts.pop()})"
    if not varied(points):
        return "no concept is edited in several numbers of neurons"
    return draw_doses(points, title=f"What more neurons change: {_about(sweep)}, n = {_samples(sweep)}")


def _thresholds(sweep: Sweep) -> Drawing | str:
    names = numeric_keys(sweep)
    if not sweep.done:
        return "no job has a result"
    if not names:
        return "no setting with numbers differs between the jobs"
    if len(names) == 1:
        values, measures, jobs = line(sweep, names[0])
        if not any(one.value is not None for figures in measures.values() for one in figures):
            return "no job has a value to draw"
        title = f"What `{names[0]}` changes: {_about(sweep)}{_averaged(sweep, jobs)}, n = {_samples(sweep)}"
        return draw_setting(values, measures, title=title, setting=names[0])
    found, jobs = grid(sweep, (names[0], names[1]))
    where = f"{_about(sweep)}{_averaged(sweep, jobs)}, n = {_samples(sweep)}"
    most = highest(found)
    finding = f"Selectivity is highest, {most}" if most else NO_EVIDENCE
    return draw_thresholds(found, title=f"{finding}; {where}")


def _about(sweep: Sweep) -> str:
    concepts = _concepts(sweep)
    named = f"`{concepts[0]}`" if len(concepts) == 1 else f"{len(concepts)} concepts"
    without = f", {len(sweep.undone)} without a result" if sweep.undone else ""
    return f"{named}, {counted(len(sweep.rows), 'job')}{without}"


def _concepts(sweep: Sweep) -> list[str]:
    return list(dict.fromkeys(result.concept for _, result in sweep.done))


def _finding(sweep: Sweep) -> str:
    if (first := best(sweep)) is None:
        return NO_EVIDENCE
    row, result = first
    drop, kept = (result.figures[name].value or 0.0 for name in ("mention_drop", "retention"))
    on = f" on `{result.concept}`" if len(_concepts(sweep)) > 1 else ""
    tied = f" (with {level} more)" if (level := n_level(sweep)) else ""
    did = f"suppresses {drop:.2f} and keeps {kept:.2f} of the rest{on} (n = {result.figures['mention_drop'].n})"
    return f"job {row.number}{tied}, the most selective, {did}"


def _averaged(sweep: Sweep, jobs: int) -> str:
    """Return of what each drawn value is the mean, when it is one of up to `jobs` jobs."""
    if jobs < 2:
        return ""
    concepts = _concepts(sweep)
    over = f" over {', '.join(concepts)}" if 1 < len(concepts) <= 4 else ""
    return f", means{over} of up to {jobs} jobs"


def _samples(sweep: Sweep) -> str:
    """Return how many samples are behind a mention_drop."""
    return sample_counts(sweep).get("mention_drop", "0")
