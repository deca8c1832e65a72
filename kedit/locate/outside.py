"""Locating outside the language model: what can be scored in a vision tower, a projector, a Q-Former.

The neurons there see patches of the picture, tiles or queries, not the positions of the prompt: every one of them
counts, whatever `image` or `all` is asked for. What needs the prompt's positions, the language model's attention or
its words has no meaning there and is refused.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from kedit.locate.scorer import Prober, Scorer
from kedit.models.mllm import IMAGE, MODALITIES, TeacherForced
from kedit.neurons import Scope

LANGUAGE_ONLY = {
    "attention": "reads the language model's attention",
    "unembedding": "reads what neurons write in words",
}
"""Why a scorer that needs this is of the language model alone."""


def check_scope(scope: Scope, stages: Mapping[str, Scorer | Prober]) -> None:
    """Raise a ValueError unless every stage can score the neurons of `scope`; it names the stage and the reason."""
    if scope not in get_args(Scope):
        raise ValueError(f"`scope` is one of {', '.join(get_args(Scope))}, got {scope!r}")
    if scope == "language":
        return
    for name, scorer in stages.items():
        if (reason := _refusal(scorer)) is not None:
            raise ValueError(
                f"stage `{name}` cannot score neurons of scope `{scope}`: {type(scorer).__name__} {reason}; "
                "use a difference, an activation or a gradient at `positions=image`, or `scope=language`"
            )


def seen_whole(batch: TeacherForced, activation: Tensor) -> TeacherForced:
    """Return the batch of one sample as a layer outside the language model sees it: rows that are all of the picture.

    Args:
        batch: One sample.
        activation: What the layer sees of it, `[..., neuron]`: patches, tiles of patches, queries.
    """
    if len(batch.token_types) != 1:
        raise ValueError(f"outside the language model samples are read one at a time, got {len(batch.token_types)}")
    rows = torch.ones(1, activation.shape[:-1].numel(), dtype=torch.long, device=batch.token_types.device)
    return replace(
        batch,
        token_types=rows * IMAGE,
        modalities=rows * MODALITIES.index("image"),
        prompt=torch.ones_like(rows).bool(),
    )


def _refusal(scorer: Scorer | Prober) -> str | None:
    if not isinstance(scorer, Scorer):
        return None if getattr(scorer, "any_scope", False) else "runs the model by positions of the prompt"
    if not getattr(scorer, "any_scope", True):
        return "tells the positions of the prompt apart"
    for need, reason in LANGUAGE_ONLY.items():
        if need in scorer.needs:
            return reason
    positions = getattr(scorer, "positions", "all")
    return None if positions in ("all", "image") else f"counts `positions={positions}` of the prompt"
