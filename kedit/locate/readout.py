"""What the neurons of a layer write, as words: their value vectors through the unembedding."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from kedit.internals.sites import Site
from kedit.internals.unembedding import FinalNorm, Unembedding, residual_factor
from kedit.locate.strongest import kept_words, strongest_words


@dataclass(frozen=True, eq=False)
class Readout:
    """The value vectors of one layer and the model's unembedding."""

    module: nn.Module
    site: Site
    layer: int
    unembedding: Unembedding
    _strongest: dict[FinalNorm, Tensor] = field(default_factory=dict, init=False, repr=False)

    @property
    def values(self) -> Tensor:
        """What the layer's neurons write into the residual stream, for an activation of 1: `[neuron, d_model]`, 32-bit.

        Where a norm stands between (see `norm_behind`), before that norm.
        """
        return self.site.value_matrix(self.module, self.layer).detach().float() * residual_factor(self.module)

    def onto(self, tokens: Sequence[int] | Tensor, norm: FinalNorm = "none") -> Tensor:
        """Return how much each neuron raises each token's logit directly, for an activation of 1: `[token, neuron]`.

        The product U_c . v; see `Unembedding.directions` for `norm`.
        """
        directions = self.unembedding.directions(tokens, norm)
        values = self.values
        return directions.to(values.device) @ values.T

    def strongest(self, norm: FinalNorm = "none") -> Tensor:
        """Return the token of all that each neuron raises most, and the one that it lowers most: `[2, neuron]`.

        Made once for a readout, and for a model where somebody keeps it; see `kedit.locate.strongest`.
        """
        if norm not in self._strongest:
            about = {"block": self.site.block(self.layer).output, "norm": norm}
            self._strongest[norm] = kept_words(about, lambda: strongest_words(self.unembedding, self.values, norm))
        return self._strongest[norm]
