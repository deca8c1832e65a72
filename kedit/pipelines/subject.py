"""What an inspection looks at, with what and how closely, and the figures that it notes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from typing import Any

from PIL.Image import Image

from kedit.arguments import require_count
from kedit.data.inpaint import Inpainter
from kedit.data.pairs import counterfactuals
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.statistics import Measured
from kedit.evaluation.texts import TextEncoder
from kedit.inspection import overlap
from kedit.inspection.decode import side
from kedit.inspection.responses import strongest
from kedit.internals.sites import Site
from kedit.locate.locator import Locator
from kedit.locate.strongest import Keep, in_memory, keeping
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.pipelines.locate import Located
from kedit.pipelines.preparation import Counts
from kedit.results.table import Cell, Table
from kedit.samples import AnySample, Concept, Counterfactual, Data, Progress, pictured

ClipScorer = Callable[[Sequence[str], Sequence[Image]], Sequence[Sequence[float]]]
"""How well each text fits each picture, `[text][image]`, such as `kedit.models.clip_score.ClipScore`."""

LEAST = {"locate": 2, "target": 1, "retention": 1, "controls": 1, "words": 1, "splits": 1, "singles": 2,
         "permutations": 1, "others": 0}  # fmt: skip
"""The least of each number of `Looks`."""


@dataclass(frozen=True)
class Looks:
    """How closely an inspection looks: its pictures, random sets, words and draws."""

    locate: int = 24
    """Pictures of the concept to locate with."""
    target: int = 60
    """Held-out pictures of it."""
    retention: int = 30
    """Pictures without it: so many near, and as many far."""
    controls: int = 20
    """Layer-matched random sets beside the located one."""
    words: int = 10
    """Words that each neuron is decoded to."""
    splits: int = 5
    """Random halves, and random draws of each share of the samples."""
    shares: tuple[float, ...] = (0.25, 0.5)
    singles: int = 12
    """Single pictures that are located on."""
    permutations: int = 5
    """Orders of the image tokens."""
    others: int = 4
    """Other concepts to compare with."""
    strict: bool = False
    """Whether to refuse if there are fewer pictures, instead of taking what there is with a warning."""
    located: InitVar[int | None] = None
    """The former name of `locate`."""

    def __post_init__(self, located: int | None) -> None:
        if located is not None:
            warnings.warn("`Looks(located=...)` is now called `locate`", DeprecationWarning, stacklevel=3)
            object.__setattr__(self, "locate", located)
        object.__setattr__(self, "shares", tuple(self.shares))
        for name, least in LEAST.items():
            require_count(getattr(self, name), name, least)

    @property
    def pictures(self) -> Counts:
        """How many pictures are prepared."""
        return Counts(self.locate, self.target, self.retention, self.controls, self.strict)


@dataclass(frozen=True)
class Measure:
    """One figure: of the located neurons, of random ones, and by how much they differ."""

    section: str
    name: str
    located: Measured
    random: Measured | None = None
    difference: Measured | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what inspect.json says of it."""
        parts = {"located": self.located, "random": self.random, "difference": self.difference}
        return {name: figure.to_json() for name, figure in parts.items() if figure is not None}


@dataclass(frozen=True)
class NeuronRow:
    """One neuron and what is known of it alone; None is what could not be measured."""

    layer: int
    index: int
    scores: Mapping[str, float | None]
    """By stage of the locator."""
    words: tuple[str, ...]
    """Those it raises most when it fires, through the final norm."""
    opposite: tuple[str, ...]
    """Those it raises most with an activation of the other sign."""
    peak: float | None
    """Its strongest activation in a picture of the concept, with its sign, on average over pictures."""
    fires_at: str | None
    """The kind of token at which it fires most strongly."""
    peak_inside: float | None
    """The share of pictures in which its strongest place lies in the concept's region."""
    auroc: float | None
    """How well it tells held-out pictures with the concept from those without."""
    stability: float | None
    """The share of the sets located on half of the samples that hold it."""
    alone: float | None = None
    """By how much zeroing it alone lowers the log-probability (nats) of the concept's word."""
    serves: tuple[str, ...] | None = None
    """The other concepts that it is located for, too."""

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain data."""
        words = {"words": list(self.words), "opposite": list(self.opposite)}
        serves = None if self.serves is None else list(self.serves)
        return vars(self) | {"scores": dict(self.scores), "fires": self.fires, "serves": serves} | words

    @property
    def fires(self) -> str | None:
        """On which side of zero it fires in pictures of the concept."""
        return None if self.peak is None else side(self.peak < 0)


def neuron_table(rows: Sequence[NeuronRow], stages: Sequence[str], title: str) -> Table:
    """Return a table of neurons, a row each."""
    columns = (
        *("layer", "neuron", *stages, "fires", "peak activation", "words", "opposite words"),
        *("fires at", "peak inside", "auroc", "stability", "zeroed alone", "also for"),
    )
    cells: list[tuple[Cell, ...]] = [
        (
            *(row.layer, row.index, *(row.scores[stage] for stage in stages), row.fires, row.peak),
            *(" ".join(row.words), " ".join(row.opposite)),
            *(row.fires_at, row.peak_inside, row.auroc, row.stability, row.alone),
            None if row.serves is None else " ".join(row.serves),
        )
        for row in rows
    ]
    return Table(columns, tuple(cells), title)


@dataclass(frozen=True, eq=False)
class Subject:
    """What is looked at, and with what."""

    model: MLLM
    site: Site
    located: Located
    locator: Locator | None
    """What scored and selected; None where the neurons were given."""
    evaluation_set: EvaluationSet
    data: Data
    inpaint: Inpainter
    looks: Looks
    seed: int
    progress: Progress
    encoder: TextEncoder | None = None
    clip: ClipScorer | None = None

    @property
    def concept(self) -> Concept:
        """Whose neurons they are."""
        return self.evaluation_set.concept

    @property
    def neurons(self) -> NeuronSet:
        """The located neurons."""
        return self.located.neurons

    @cached_property
    def controls(self) -> list[NeuronSet]:
        """Layer-matched random sets."""
        return [self.neurons.layer_matched(self.site.widths, self.seed + n) for n in range(self.looks.controls)]

    @cached_property
    def named(self) -> list[tuple[Counterfactual, Generated]]:
        """The pairs that the scores rest on, and the captions of their originals, which name the concept."""
        if self.located.scores:
            used = self.located.used
        else:
            every = zip(self.located.pairs, self.located.captions, strict=True)
            used = [(pair, caption) for pair, caption in every if self.model.mention(caption, self.concept)]
        return list(zip(pictured([pair for pair, _ in used], "an inspection"), [said for _, said in used], strict=True))

    @property
    def pairs(self) -> list[Counterfactual]:
        """The pairs of `named`."""
        return [pair for pair, _ in self.named]

    @property
    def images(self) -> list[Image]:
        """Their originals."""
        return [pair.sample.image for pair in self.pairs]

    @cached_property
    def peaks(self) -> dict[NeuronId, float]:
        """What the located and the random neurons do where they are strongest in the originals; see `strongest`."""
        every = tuple(neuron for some in (self.neurons, *self.controls) for neuron in some)
        return strongest(self.model, self.site, NeuronSet(every, self.site.name, self.site.scope), self.images)

    @cached_property
    def below(self) -> frozenset[NeuronId]:
        """Those that fire below zero in them."""
        return frozenset(neuron for neuron, peak in self.peaks.items() if peak < 0)

    def paint(self, samples: Sequence[AnySample], concept: Concept) -> list[Counterfactual]:
        """Return the counterfactual pairs of samples."""
        pairs = counterfactuals(self.inpaint, samples, concept, progress=self.progress).made
        return pictured(pairs, "an inspection")

    @property
    def locates(self) -> Locator:
        """The locator; a ValueError says that nothing knows how the neurons were located."""
        if self.locator is None:
            raise ValueError("the neurons were given, and nothing says how they were located")
        return self.locator

    def score(self, numbers: Sequence[int]) -> dict[str, NeuronScores]:
        """Return the scores on some of the pairs."""
        some = [self.named[number] for number in numbers]
        captions = [caption for _, caption in some]
        with keeping(self._words):
            return self.locates.score(self.model, [pair for pair, _ in some], captions=captions)

    @cached_property
    def _words(self) -> Keep:
        """The strongest words of the model's neurons, which many draws of pictures ask for."""
        return in_memory()

    def best(self, scores: Mapping[str, NeuronScores]) -> NeuronSet:
        """Return as many neurons as were located, the best by `scores`; a ValueError if none were."""
        self.require_neurons()
        return self.locates.limited(len(self.neurons)).select(scores)

    def require_neurons(self) -> None:
        """Raise a ValueError if there are none to look at."""
        if not self.neurons:
            raise ValueError("no neuron was located")

    @property
    def chance(self) -> Measured:
        """What two random sets with the located layers share on average: exact, so without an interval."""
        return exact(overlap.by_chance(self.neurons, self.site.widths))


def exact(value: float) -> Measured:
    """Return a figure that is known exactly, so without an interval."""
    return Measured(value, None, None, 0)


def could_make(locator: Locator, scores: Mapping[str, NeuronScores]) -> bool:
    """Return whether a locator may have given scores: by its stages, or because it can select by them."""
    if (stages := getattr(locator, "stages", None)) is not None:
        return {name: one.method for name, one in scores.items()} == {
            name: repr(stage.scorer) for name, stage in stages.items()
        }
    try:
        locator.select(scores)
    except (ValueError, LookupError):
        return False
    return True
