"""What a method has to say to be a stage of a locator.

Most methods read what one forward pass and at most one backward pass show, layer by layer: a `Scorer`. The
passes are made once for all of them. A method that has to run the model in ways of its own is a `Prober`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from kedit.internals.sites import Site
from kedit.locate.readout import Readout
from kedit.locate.reduction import OverSamples
from kedit.locate.target import Target
from kedit.models.attention import Attention
from kedit.models.drawings import ForcedDrawings
from kedit.models.mllm import MLLM, Mention
from kedit.samples import Concept, Pair

Need = Literal["counterfactual", "control", "gradient", "unembedding", "attention", "answer", "damage", "region"]
"""What a scorer reads beside the activations of the original picture."""


@dataclass(frozen=True, eq=False)
class Case:
    """A counterfactual pair and where the model's caption of the original names the concept."""

    pair: Pair
    mention: Mention
    rest: tuple[int, ...] = ()
    """The caption's tokens after the word."""

    @property
    def id(self) -> str:
        """What the sample is called."""
        return self.pair.sample.id


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """A picture that the model drew, and where it shows the concept."""

    concept: Concept
    forced: ForcedDrawings
    """The pass over this drawing alone, so without padding."""
    region: Tensor
    """True where the concept is: `[1, cell]`, or `[1, height, width]` where a drawing has no cells."""
    id: str = ""
    """What the drawing is called."""


@dataclass(frozen=True, eq=False)
class LayerEvidence:
    """One layer's tensors for a few samples; activations are `[batch, pos, neuron]`, 32-bit."""

    layer: int
    token_types: Tensor
    """`[batch, pos]`: what each position holds."""
    original: Tensor
    counterfactual: Tensor | None = None
    """The activations on the picture without the concept."""
    gradient: Tensor | None = None
    """The derivative of the target with respect to `original`."""
    control: Tensor | None = None
    """The activations on the picture with another region painted out, the concept left in."""
    readout: Readout | None = None
    """What the layer's neurons write, in words."""
    target: Tensor | None = None
    """The token of the concept's word, `[batch]`, for `readout`."""
    attention: Attention | None = None
    """The queries and keys of the layer's attention."""
    modalities: Tensor | None = None
    """`[batch, pos]`: indices into `kedit.models.mllm.MODALITIES`."""
    prompt: Tensor | None = None
    """`[batch, pos]`, true where a position belongs to the prompt."""
    answer: "Answer | None" = None
    """What is said where the word is predicted; known once the logits are, to scorers that need a gradient as well."""
    damage: Tensor | None = None
    """What zeroing the neuron might do to the words that the counterfactual lets one expect, `[batch, neuron]`; see
    `kedit.locate.damage`."""
    region: "Region | None" = None
    """What the region of a drawn picture asks of the last hidden state; see `kedit.locate.drawn`."""


@dataclass(frozen=True, eq=False)
class Answer:
    """How the word stands against its rivals, the ten tokens with the largest logits beside it."""

    direction: Tensor
    """The direction of the last residual stream that raises the word against them, `[batch, d_model]`."""
    margin: Tensor
    """By how much the word's logit exceeds the mean of theirs, `[batch]`."""

    def rows(self, rows: slice) -> "Answer":
        """Return some of the samples."""
        return Answer(self.direction[rows], self.margin[rows])


@dataclass(frozen=True, eq=False)
class Region:
    """What a drawn region asks of the last hidden state, and what the neurons of a layer write there."""

    plain: Tensor
    """R as the gradient is, `[batch, pos, d_model]`; zero outside the region."""
    normal: Tensor
    """The same between 0 and 1 in each picture's region."""
    values: Tensor
    """The layer's value vectors, `[neuron, d_model]`."""


@runtime_checkable
class Scorer(Protocol):
    """Scores the neurons of a layer from the evidence, for each sample."""

    @property
    def needs(self) -> frozenset[Need]:
        """What must be in the evidence."""
        ...

    @property
    def over_samples(self) -> OverSamples:
        """How the samples' scores become one."""
        ...

    def score(self, evidence: LayerEvidence) -> Tensor:
        """Return the scores of one layer, `[batch, neuron]`, or several channels of them, `[batch, ..., neuron]`.

        Who returns channels must join them: see `AcrossLayers` and `AcrossSamples`.
        """
        ...


@runtime_checkable
class AcrossLayers(Protocol):
    """A scorer that compares the layers of a sample with each other."""

    def across_layers(self, scores: Tensor) -> Tensor:
        """Return `[batch, layer, neuron]` (or channels of it) from what `score` gave: `[batch, ..., layer, neuron]`."""
        ...


@runtime_checkable
class AcrossSamples(Protocol):
    """A scorer whose final figure is a function of its means over samples."""

    def across_samples(self, means: Tensor) -> Tensor:
        """Return `[layer, neuron]` from the means over samples, `[..., layer, neuron]`."""
        ...


class Probed(NamedTuple):
    """What a prober found on some samples, and the passes that took."""

    scores: Tensor
    """`[batch, layer, neuron]`; NaN for neurons that were left out."""
    forwards: int
    """Passes of one sample through the whole model."""
    backwards: int
    notes: Mapping[str, float] = MappingProxyType({})
    """What else the prober measured, such as an error; the largest over samples goes into the provenance."""


@runtime_checkable
class Prober(Protocol):
    """Scores all neurons by running the model itself."""

    @property
    def over_samples(self) -> OverSamples:
        """How the samples' scores become one."""
        ...

    def probe(self, model: MLLM, site: Site, cases: Sequence[Case | DrawnCase], target: Target) -> Iterator[Probed]:
        """Yield the scores of a few samples at a time, in order."""
        ...
