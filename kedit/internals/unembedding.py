"""How a direction of the residual stream becomes words: the model's final norm and its output matrix."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kedit.internals.block_stacks import find_block_stacks, named_by_model
from kedit.internals.blocks import FeedForward
from kedit.internals.sites import decoder_path
from kedit.internals.weights import features_of, unwrapped, weight_of
from kedit.internals.wrappers import evaluating

FinalNorm = Literal["none", "gamma"]
"""What of the final norm a direction is weighed with: nothing, or its learned scale (and centering)."""


NORMS_BEHIND = ("post_feedforward_layernorm", "post_mlp_layernorm")
"""Names in transformers of a norm between a feed-forward block and the residual stream."""


class UnembeddingError(LookupError):
    """The model has no output matrix over its words."""


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The output matrix of a language model and the norm in front of it."""

    weight: Tensor
    """`[vocab, d_model]`."""
    norm: nn.Module | None
    gamma: Tensor
    """The norm's learned scale, `[d_model]`; ones where there is no norm."""
    centered: bool
    """Whether the norm subtracts the mean over the width (LayerNorm) or not (RMSNorm)."""
    head: nn.Module
    """What makes logits of the last hidden state: the output matrix alone, or with what surrounds it (BERT's head)."""
    ending: "Ending"

    @classmethod
    def of(cls, module: nn.Module) -> "Unembedding":
        """Find both in `module`; an UnembeddingError says what is missing."""
        head = named_by_model(module, "get_output_embeddings")
        if head is None or features_of(head) is None:
            raise UnembeddingError(
                f"{type(module).__name__} has no output matrix over its words (`get_output_embeddings()` gives none)"
            )
        weight = weight_of(head, "the output matrix")
        norm = _final_norm(module, weight.shape[1])
        gamma, centered = _measured(norm, weight) if norm is not None else (torch.ones_like(weight[0]), False)
        return cls(weight, norm, gamma, centered, _whole(module, head), Ending.of(module))

    def directions(self, tokens: Sequence[int] | Tensor, norm: FinalNorm = "gamma") -> Tensor:
        """Return the direction of the residual stream that raises each token's logit: `[token, d_model]`, 32-bit.

        With `norm="gamma"` the final norm's scale is folded in, and its centering, but not its division by the
        length of the stream, which all directions have in common at a position.
        """
        if norm not in get_args(FinalNorm):
            raise ValueError(f"`norm` is one of {', '.join(get_args(FinalNorm))}, got {norm!r}")
        rows = self.weight[torch.as_tensor(tokens, device=self.weight.device)].detach().float()
        if norm == "none":
            return rows
        rows = rows * self.gamma
        return rows - rows.mean(-1, keepdim=True) if self.centered else rows

    @torch.no_grad()
    def logits(self, vectors: Tensor, *, raw: bool = False) -> Tensor:
        """Return what each of `vectors`, `[n, d_model]`, says of each token, `[n, vocab]`, 32-bit.

        Through the final norm, the head with its bias, and the model's scaling of logits, as the last hidden state
        goes; with `raw` through the output matrix alone.
        """
        if raw:
            return vectors.float() @ self.weight.float().T
        if self.norm is not None:
            vectors = self.norm(vectors.to(self.weight.dtype))
        if type(self.head) is not nn.Linear or any(one.is_meta for one in self.head.parameters()):
            with evaluating(self.head):
                return self.ending.applied(self.head(vectors.to(self.weight.dtype)).float())
        bias = None if self.head.bias is None else self.head.bias.float()
        return self.ending.applied(linear(vectors.float(), self.weight.float(), bias))


@dataclass(frozen=True)
class Ending:
    """What a model does to its logits after the head."""

    factor: float = 1.0
    cap: float | None = None
    """No logit is larger than this: `cap * tanh(logits / cap)`."""

    @classmethod
    def of(cls, module: nn.Module) -> "Ending":
        """Read it from the configuration of the language model; there is no module that would show it."""
        text, factor = _described(module), 1.0
        for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
            factor *= _number(text, name) or 1.0
        if scaling := _number(text, "logits_scaling"):
            factor *= scaling if text.model_type.startswith("hyperclovax") else 1 / scaling
        if getattr(text, "scale_decoder_outputs", False):
            factor *= text.d_model**-0.5
        return cls(factor, _number(text, "final_logit_softcapping"))

    def applied(self, logits: Tensor) -> Tensor:
        """Return what becomes of `logits`."""
        logits = logits * self.factor
        return logits if self.cap is None else self.cap * (logits / self.cap).tanh()


def residual_factor(module: nn.Module) -> float:
    """Return what the configuration multiplies with whatever a feed-forward block writes into the residual stream.

    Granite and MiniCPM3 have a factor for all branches, Falcon-H1 one for the block's output.
    """
    text = _described(module)
    factor = _number(text, "residual_multiplier") or 1.0
    if getattr(text, "model_type", None) == "minicpm3":
        factor *= text.scale_depth / math.sqrt(text.num_hidden_layers)
    if of_block := getattr(text, "mlp_multipliers", None):
        factor *= of_block[1]
    return factor


def norm_behind(module: nn.Module, output: str) -> str | None:
    """Return the name of the norm that what the feed-forward block with the matrix at `output` writes passes first.

    Gemma 2 and 3, OLMo 2, GLM-4 and their like divide it by its length there, which no value vector shows.
    """
    parts = output.split(".")
    end = next((place for place, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    block = module.get_submodule(".".join(parts[: end + 1]))
    return next((name for name in NORMS_BEHIND if hasattr(block, name)), None)


def left_out(module: nn.Module, blocks: Iterable[FeedForward]) -> list[str]:
    """Return what weighs what blocks write by token, and no value vector shows: a norm, experts' weights, a gate."""
    found = dict[str, None]()
    for block in blocks:
        if norm := norm_behind(module, block.output):
            found[f"a norm (`{norm}`)"] = None
        if block.experts:
            found["the weights by which tokens are routed to experts"] = None
        owner = block.output.split(".")[:-2]
        if hasattr(module.get_submodule(".".join(owner)), "shared_expert_gate"):
            found["the gate of the shared expert"] = None
    return list(found)


def _described(module: nn.Module) -> Any:
    """Return the configuration of the language model."""
    described: Any = getattr(module, "config", None)
    return described.get_text_config(decoder=True) if hasattr(described, "get_text_config") else described


def _number(described: Any, name: str) -> float | None:
    found = getattr(described, name, None)
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) and found else None


def _whole(module: nn.Module, head: nn.Module) -> nn.Module:
    """Return the outermost part of `module` that holds `head` and no stack of blocks."""
    parts = next(path for path, one in module.named_modules() if one is head).split(".")
    outer = [".".join(parts[:end]) for end in range(1, len(parts))]
    free = (
        path for path in outer if not any(f"{stack}.".startswith(f"{path}.") for stack in find_block_stacks(module))
    )
    found = next(free, None)
    return head if found is None else module.get_submodule(found)


def _final_norm(module: nn.Module, width: int) -> nn.Module | None:
    """Return the last norm of full width that the owner of the blocks holds beside them."""
    owner = module.get_submodule(decoder_path(module))
    found = [
        child
        for child in owner.children()
        if "norm" in type(unwrapped(child)).__name__.lower()
        and isinstance(weight := getattr(child, "weight", None), Tensor)
        and weight.shape == (width,)
    ]
    return found[-1] if found else None


@torch.no_grad()
def _measured(norm: Any, like: Tensor) -> tuple[Tensor, bool]:
    """Return the scale that `norm` applies and whether it centers, as it behaves: some store the scale less one."""
    # Large, so that the norm's epsilon does not count; of zero mean, so that centering does not.
    flips = torch.ones_like(like[0])
    flips[1::2] = -1.0
    probe, level = 64.0 * flips, torch.full_like(flips, 64.0)
    scale = (norm(probe) - norm(-probe)) / 2 * flips
    centered = bool((norm(level) - norm(-level)).abs().max() < 1e-3 * scale.abs().max())
    return scale.float(), centered
