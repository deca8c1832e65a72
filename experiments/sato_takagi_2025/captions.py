"""How alike captions are under an edit, of the concept's pictures and of others: the paper's metrics, by method."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from kedit.evaluation.evaluation_set import EvaluationSet, Outputs
from kedit.evaluation.metrics import Similarity
from kedit.evaluation.scores import named_targets
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.results.table import Cell, Table

METRICS = ("bleu", "rougeL", "bertscore")
LABELS = {"bleu": "BLEU", "rougeL": "ROUGE-L", "bertscore": "BERTScore"}
TARGET, OTHERS = "target", "others"
UNEDITED, REFERENCES = "unedited captions", "reference captions"
MEAN = "mean"
NOTE = (
    "target: held-out pictures of the concept whose unedited caption names it, where low is suppressed; others: "
    "pictures without it, where high is retained. In brackets are 95 % intervals over pictures; those of a mean are "
    "over concepts, of which n is the number then."
)


@dataclass(frozen=True)
class Line:
    """The caption metrics of one method for one concept."""

    concept: str
    method: str
    neurons: float
    against: str
    """What captions are compared with: `UNEDITED` or `REFERENCES`."""
    figures: Mapping[tuple[str, str], Measured]
    """By `TARGET` or `OTHERS` and metric."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The row in `tables`, behind its concept."""
        counts = (next(iter(self.of(part).values())).n for part in (TARGET, OTHERS))
        figures = (one for part in (TARGET, OTHERS) for one in self.of(part).values())
        return (self.method, round(self.neurons, 1), *figures, " / ".join(map(str, counts)))

    def of(self, part: str) -> dict[str, Measured]:
        """Return the figures of one part by metric."""
        return {metric: self.figures[part, metric] for metric in METRICS}


def score_captions(
    evaluation_set: EvaluationSet,
    before: Outputs,
    edited: Sequence[Outputs],
    similarity: Similarity,
    against: str,
    seed: int,
) -> dict[tuple[str, str], Measured]:
    """Return how alike captions are to `against`, by part and metric; of several edits each picture's mean.

    Args:
        evaluation_set: The held-out pictures.
        before: What the unedited model says.
        edited: What it says under the edit, or under each of several random ones.
        similarity: Compares texts.
        against: `UNEDITED`, or `REFERENCES`, of which only pictures that have some count.
        seed: Of the bootstrap.
    """
    places = {TARGET: named_targets(evaluation_set, before), OTHERS: range(len(evaluation_set.retention))}
    found = {}
    for part, kept in places.items():
        samples, was, runs = (
            (evaluation_set.target, before.target, [one.target for one in edited])
            if part == TARGET
            else (evaluation_set.retention, before.retention, [one.retention for one in edited])
        )
        wanted = {place: tuple(samples[place].references) if against == REFERENCES else (was[place],) for place in kept}
        wanted = {place: texts for place, texts in wanted.items() if texts}
        values = [similarity([run[place] for place in wanted], list(wanted.values())) for run in runs]
        for metric in METRICS:
            found[part, metric] = _mean_over([one.get(metric, []) for one in values], against, seed)
    return found


def _mean_over(runs: Sequence[Sequence[float]], against: str, seed: int) -> Measured:
    pooled = [sum(one) / len(runs) for one in zip(*runs, strict=True)]
    return bootstrap_mean(pooled, seed=seed) if pooled else Measured.missing(f"there are no {against}")


def with_means(lines: Sequence[Line]) -> list[Line]:
    """Return the lines and behind them, where there are several concepts, each method's mean over them."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.against, line.method), []).append(line)
    if len({line.concept for line in lines}) < 2:
        return list(lines)
    return [*lines, *map(_mean_line, groups.values())]


def _mean_line(lines: Sequence[Line]) -> Line:
    figures = {}
    for key in lines[0].figures:
        known = [value for line in lines if (value := line.figures[key].value) is not None]
        figures[key] = bootstrap_mean(known) if known else lines[0].figures[key]
    neurons = sum(line.neurons for line in lines) / len(lines)
    return replace(lines[0], concept=MEAN, neurons=neurons, figures=figures)


COLUMNS = (
    *("method", "neurons"),
    *(f"{part}: {LABELS[metric]}" for part in (TARGET, OTHERS) for metric in METRICS),
    "n, target / others",
)


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """Yield a table for each concept and what captions are compared with; the means come first."""
    keys = sorted(dict.fromkeys((line.concept, line.against) for line in lines), key=lambda key: key[0] != MEAN)
    for concept, against in keys:
        rows = tuple(line.cells for line in lines if (line.concept, line.against) == (concept, against))
        yield Table(COLUMNS, rows, f"{concept}: captions beside the {against}")


def flat(lines: Sequence[Line]) -> Table:
    """Return all lines as one table, for programs."""
    return Table(("concept", "beside", *COLUMNS), tuple((line.concept, line.against, *line.cells) for line in lines))
