"""Methods against models whose right answer is known: how high each ranks the neurons that were planted.

benchmark = rank_planted(["two_stage", my_locator], models=3)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kedit.arguments import require_count
from kedit.evaluation.ranking import average_precision, expected_average_precision
from kedit.evaluation.statistics import Measured, bootstrap_mean, paired_difference
from kedit.locate.locator import Locator
from kedit.models.planted.family import VARIANTS, PlantedCase, family
from kedit.models.planted.pictures import planted_pairs
from kedit.neurons import NeuronId, NeuronScores
from kedit.notebook import Shown
from kedit.pipelines.comparison.choices import Method
from kedit.pipelines.comparison.scoring import Bench, Failed, Scores
from kedit.pipelines.display import display
from kedit.pipelines.preparation import Usable
from kedit.plots import Drawing, draw_benchmark, draw_matrix
from kedit.progress import as_progress
from kedit.results.table import Cell, Table
from kedit.samples import Progress

MEAN = "mean"
RANDOM = "random (expected)"
COSTS = ("forwards", "backwards", "time", "memory")
MODALITY = "image"
"""Whose scores count where a method has some for each modality."""
ABOUT = (
    "Average precision of the true neurons in each method's ranking of all neurons, mean over models (95 % bootstrap "
    "interval); `mean` is over variants. `forwards` and `backwards` are passes for each picture, `time` and `memory` "
    "multiples of one plain forward of the same pictures. Stages before the last are applied as configured; what they "
    "drop ranks below."
)


@dataclass(frozen=True)
class Cost:
    """Passes for each picture, and time and peak memory as multiples of one plain forward's."""

    forwards: float
    backwards: float
    time: float
    memory: float


@dataclass(frozen=True, eq=False)
class Verdict:
    """How well one method ranks the true neurons of each variant, model by model, and what it takes."""

    method: str
    precisions: Mapping[str, Sequence[float]]
    """Average precision by variant; of no use where the method failed."""
    why: str = ""
    """Why it failed, the first time."""
    note: str = ""
    cost: Cost | None = None

    def values(self, name: str) -> Sequence[float]:
        """Return the average precision on each model of a variant, or the means over variants."""
        if name != MEAN:
            return self.precisions[name]
        return [sum(values) / len(values) for values in zip(*self.precisions.values(), strict=True)]

    def figure(self, name: str) -> Measured:
        """Return the mean average precision over the models of a variant, or over all."""
        return Measured.missing(self.why) if self.why else bootstrap_mean(self.values(name))

    @property
    def costs(self) -> list[str | None]:
        """What the method takes, as text, in the order of `COSTS`."""
        if self.cost is None:
            return ["0", "0", None, None] if self.method == RANDOM else [None] * len(COSTS)
        multiples = [f"{one:.2g}x" if one < 10 else f"{one:.0f}x" for one in (self.cost.time, self.cost.memory)]
        return [f"{self.cost.forwards:.4g}", f"{self.cost.backwards:.4g}", *multiples]


@dataclass(frozen=True, eq=False, repr=False)
class PlantedBenchmark(Shown):
    """The verdicts on all methods; prints itself in a terminal and in a notebook."""

    verdicts: Sequence[Verdict]
    """From high to low mean average precision, failures last."""
    variants: Sequence[str]
    reference: str
    about: str = ABOUT

    def __post_init__(self) -> None:
        ordered = sorted(self.verdicts, key=lambda one: -(one.figure(MEAN).value or 0))
        object.__setattr__(self, "verdicts", tuple(ordered))

    @property
    def columns(self) -> tuple[str, ...]:
        """The mean and the variants."""
        return (MEAN, *self.variants)

    @property
    def contests(self) -> dict[str, tuple[str, Measured]]:
        """For each variant the best other method and the reference's lead over it, paired by model."""
        mine = next((one for one in self.verdicts if one.method == self.reference and not one.why), None)
        rivals = [one for one in self.verdicts if one.method not in (self.reference, RANDOM) and not one.why]
        if mine is None or not rivals:
            return {}
        best = {name: max(rivals, key=lambda one: sum(one.values(name))) for name in (*self.variants, MEAN)}
        return {
            name: (one.method, paired_difference(mine.values(name), one.values(name))) for name, one in best.items()
        }

    @property
    def standing(self) -> str:
        """Where the reference leads the best other method and where it trails, in Markdown."""
        lines = [f"- {name}: {_standing(lead)} `{rival}` ({lead})" for name, (rival, lead) in self.contests.items()]
        return "\n".join(
            [f"`{self.reference}` against the best other method of each variant:", "", *lines] * bool(lines)
        )

    @property
    def finding(self) -> str:
        """What the figure shows, in a sentence."""
        able = {one.method: one for one in self.verdicts if not one.why and one.method != RANDOM}
        if not able:
            return "No method could be carried out on the planted models"
        means = {method: one.figure(MEAN).value or 0 for method, one in able.items()}
        best = max(means, key=lambda method: means[method])
        text = f"`{best}` ranks the true neurons highest: {means[best]:.2f} on average"
        if self.reference not in able:
            return text
        tops = {name: max(one.figure(name).value or 0 for one in able.values()) for name in self.variants}
        level = sum((able[self.reference].figure(name).value or 0) >= top - 0.005 for name, top in tops.items())
        own = "" if best == self.reference else f" ({means[self.reference]:.2f})"
        level_with = f"is best or level with the best on {level} of {len(self.variants)} variants"
        return f"{text}; `{self.reference}`{own} {level_with}"

    @property
    def drawing(self) -> Drawing:
        """Average precision, darker where the true neurons rank higher, with the costs beside it."""
        names = (*self.variants, MEAN)
        cells = {one.method: {name: one.figure(name).value for name in names} for one in self.verdicts}
        if not self._costed:
            return draw_matrix(cells, title=self.finding, what="average precision of the true neurons")
        rows = [["-" if text is None else text for text in one.costs] for one in self.verdicts]
        costs = dict(zip(COSTS, zip(*rows, strict=True), strict=True))
        notes = ["average precision of the true neurons; costs as multiples of one forward"]
        return draw_benchmark(cells, costs, title=self.finding, notes=notes, marked=self.reference)

    @property
    def _costed(self) -> bool:
        """Whether it was measured what any method takes."""
        return any(one.cost for one in self.verdicts)

    def table(self, *, intervals: bool = True) -> Table:
        """Return a row for each method, with or without the intervals of its figures."""
        remarks = [f"{one.method}: {one.note}" for one in self.verdicts if one.note]
        remarks += [f"{one.method} failed: {one.why}" for one in self.verdicts if one.why]
        names, costed = (*self.columns, *(COSTS if self._costed else ())), self._costed
        rows = [(one.method, *self._cells(one, intervals), *(one.costs if costed else ())) for one in self.verdicts]
        notes = tuple(filter(None, (*remarks, self.standing)))
        return Table(("method", *names), tuple(rows), "average precision on planted models", notes)

    def long(self) -> Table:
        """Return a row for each method and variant, numbers as numbers."""
        columns = ("method", "variant", "average_precision", "low", "high", "n", *COSTS, "why")
        rows = [
            (one.method, name, figure.value, figure.low, figure.high, figure.n,
             *(asdict(one.cost).values() if one.cost else [None] * len(COSTS)), one.why)
            for one in self.verdicts
            for name in (*self.variants, MEAN)
            for figure in [one.figure(name)]
        ]  # fmt: skip
        return Table(columns, tuple(rows))

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        methods = {
            one.method: {
                "average_precision": {name: one.figure(name).to_json() for name in (*self.variants, MEAN)},
                "by_model": {name: list(values) for name, values in one.precisions.items()},
                "cost": asdict(one.cost) if one.cost else None,
                "note": one.note,
            }
            for one in self.verdicts
        }
        contests = {name: {"rival": rival, "lead": lead.to_json()} for name, (rival, lead) in self.contests.items()}
        return {"about": self.about, "methods": methods, "reference": contests}

    def with_costs(self, costs: Mapping[str, Cost]) -> "PlantedBenchmark":
        """Return the same with what each method takes."""
        return replace(self, verdicts=[replace(one, cost=costs.get(one.method)) for one in self.verdicts])

    def __str__(self) -> str:
        return str(self.table(intervals=False))

    def _repr_html_(self) -> str:
        return display(self.finding, [self.table()], self.drawing)

    def _cells(self, verdict: Verdict, intervals: bool) -> list[Cell]:
        if verdict.why:
            return [None] * len(self.columns)
        figures = [verdict.figure(name) for name in self.columns]
        return [one if intervals or one.value is None else f"{one.value:.2f}" for one in figures]


def rank_planted(
    methods: str | Any | Sequence[Any],
    *,
    variants: str | Sequence[str] | None = None,
    models: int = 10,
    pictures: int = 8,
    reference: str = "two_stage",
    seed: int = 0,
    progress: Progress | bool = True,
) -> PlantedBenchmark:
    """Rank the neurons of planted models by every method, and return how high the true ones come.

    Example:
        kedit.rank_planted(["two_stage", "nam"], variants=["plain", "late"], models=3)

    Args:
        methods: As `kedit.compare` takes them; random ones are left out, as what is expected of them is known.
        variants: Ways of hiding the knowledge; None for all of them, see `kedit.models.planted.family`.
        models: How many models of each variant, from `seed` on.
        pictures: How many pictures to locate with.
        reference: The method that is held against the best other one.
        seed: Of the first model.
        progress: Shows the models go by.

    Raises:
        LookupError: kedit has no such method.
        TypeError: A count is no whole number.
        ValueError: There is no such variant, or a count is too low.
    """
    chosen = check_variants(variants)
    for name, count, least in (("models", models, 1), ("pictures", pictures, 1), ("seed", seed, 0)):
        require_count(count, name, least)
    listed = list(methods) if isinstance(methods, Sequence) and not isinstance(methods, str) else [methods]
    able = [method for method in map(Method.of, listed) if not method.drawn]
    jobs = [(variant, number) for number in range(seed, seed + models) for variant in chosen]
    precisions: dict[str, dict[str, list[float]]] = {name: {} for name in (*(one.name for one in able), RANDOM)}
    failures: dict[str, str] = {}
    for variant, number in as_progress(progress)(jobs, len(jobs), "planted models"):
        for name, value in _precisions(family(variant, number), able, pictures):
            if isinstance(value, Failed):
                failures.setdefault(name, value.why)
            else:
                precisions[name].setdefault(variant, []).append(value)
    remarks = {method.name: method.note for method in able}
    verdicts = [Verdict(name, ap, failures.get(name, ""), remarks.get(name, "")) for name, ap in precisions.items()]
    about = f"{ABOUT} {models} models of each variant, {pictures} pictures each."
    return PlantedBenchmark(verdicts, chosen, reference, about)


def check_variants(asked: Sequence[str] | None) -> list[str]:
    """Return the variants that are asked for, all of them for None; a ValueError names the one there is not."""
    names = list(VARIANTS) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        got = f"`{unknown[0]}`" if unknown else "none"
        raise ValueError(f"`planted.variants` names some of {', '.join(VARIANTS)}, or is null; got {got}")
    return list(dict.fromkeys(names))


def ranks(locator: Any, scores: Scores) -> dict[NeuronId, int]:
    """Return the rank of each neuron, 0 for the worst; equal ones share theirs.

    What passes all stages but the last is ordered by the last one. What an earlier stage drops comes below, ordered by
    that stage; a neuron without a score is last of its stage. Of a method with scores for each modality, those of
    the image count.
    """
    if not isinstance(locator, Locator):
        only = scores[MODALITY] if MODALITY in scores else list(scores.values())[-1]
        return _dense({one: (0, *_keys(only, one)) for one in _neurons(only)})
    *earlier, last = locator.stages
    dropped: dict[NeuronId, str] = {}
    if earlier:
        passed = replace(locator, stages={name: locator.stages[name] for name in earlier}).select_each(scores)
        for name in reversed(earlier):
            dropped |= {one: name for one in _neurons(scores[name]) if one not in passed[name]}
    order = {name: level for level, name in enumerate(locator.stages)}
    where = {one: dropped.get(one, last) for one in _neurons(scores[last])}
    return _dense({one: (order[name], *_keys(scores[name], one)) for one, name in where.items()})


def precision(case: PlantedCase, places: Mapping[NeuronId, int]) -> float:
    """Return the average precision of a ranking of the case's neurons; those to be ignored are left out."""
    counted = [one for one in places if one not in case.ignored]
    return average_precision([float(places[one]) for one in counted], [one in case.truth for one in counted])


def _precisions(case: PlantedCase, methods: Sequence[Method], pictures: int) -> Iterator[tuple[str, float | Failed]]:
    """Yield the average precision of each method on a model, or why there is none, and that of a random order."""
    pairs = planted_pairs(pictures, case.seed)
    usable = Usable(pairs, case.model.caption([pair.sample.image for pair in pairs]), 0)
    scored = Bench(case.model, usable).scores(methods)
    for method in methods:
        scores = scored[method.name]
        if isinstance(scores, Failed):
            yield method.name, scores
        else:
            yield method.name, precision(case, ranks(method.locator, scores[0]))
    n_neurons = case.model.site().n_neurons - len(case.ignored)
    yield RANDOM, expected_average_precision(n_neurons, len(case.truth))


def _standing(lead: Measured) -> str:
    if lead.low is None or lead.high is None:
        return "beside"
    return "ahead of" if lead.low > 0 else "behind" if lead.high < 0 else "level with"


def _neurons(scores: NeuronScores) -> list[NeuronId]:
    n_layers, n_neurons = scores.values.shape
    return [NeuronId(layer, index) for layer in range(n_layers) for index in range(n_neurons)]


def _keys(scores: NeuronScores, one: NeuronId) -> tuple[float, float]:
    values = [-float("inf") if tensor is None else float(tensor[one]) for tensor in (scores.values, scores.ties)]
    first, second = (-float("inf") if value != value else value for value in values)
    return first, second


def _dense(keys: Mapping[NeuronId, tuple[float, ...]]) -> dict[NeuronId, int]:
    places = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    return {one: places[key] for one, key in keys.items()}
