"""What the neurons of a layer write, as words: their value vectors through the unembedding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from kedit.internals.sites import Site
from kedit.internals.unembedding import FinalNorm, Unembedding
from kedit.models.mllm import MLLM, Generated
from kedit.samples import Concept


@dataclass(frozen=True, eq=False)
class Readout:
    """The value vectors of one layer and the model's unembedding."""

    module: nn.Module
    site: Site
    layer: int
    unembedding: Unembedding
    vocabulary: tuple[int, ...]
    """The first token of each thing that the samples are annotated with."""
    spell: Callable[[tuple[str, ...]], tuple[int, ...]]
    """Gives the first token of each of other words, as `spelled` does."""

    @property
    def values(self) -> Tensor:
        """The value vectors of the layer's neurons: `[neuron, d_model]`, 32-bit."""
        return self.site.value_matrix(self.module, self.layer).detach().float()

    def onto(self, tokens: Sequence[int] | Tensor, norm: FinalNorm = "none") -> Tensor:
        """Return how much each neuron raises each token's logit directly, for an activation of 1: `[token, neuron]`.

        The product U_c . v; see `Unembedding.directions` for `norm`.
        """
        directions = self.unembedding.directions(tokens, norm)
        values = self.values
        return directions.to(values.device) @ values.T


def spelled(model: MLLM, words: Sequence[str]) -> tuple[int, ...]:
    """Return the first token of each word as a caption would continue with it, without repeats."""
    tokens: dict[int, None] = {}
    for word in words:
        mention = model.mention(Generated("", ()), Concept(word), force=True)
        if mention is not None:
            tokens[mention.word[0]] = None
    return tuple(tokens)
