"""Words that a picture's concept could have been called and is not."""

from collections.abc import Sequence

import torch

from kedit.models.mllm import MLLM, Generated
from kedit.samples import Concept

FEWEST_WORDS = 5
"""Fewer distractor words tell nothing about a neuron's spread."""


def distractor_words(
    model: MLLM, concept: Concept, words: Sequence[Concept], at_most: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """Return at most so many of the `words`, drawn by seed, and their tokens; the first is none of the concept's.

    Raises:
        ValueError: Fewer than 5 are left.
    """
    own = {tokens[0] for word in concept.words if (tokens := _tokens(model, Concept(word)))}
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for one in words:
        tokens = _tokens(model, one)
        if one.name != concept.name and tokens and tokens[0] not in own:
            found.setdefault(tokens[0], (one.name, tokens))
    if len(found) < FEWEST_WORDS:
        named = ", ".join(f"`{name}`" for name, _ in found.values()) or "none"
        raise ValueError(
            f"`select=auto` sets `{concept.name}` against distractor words, {FEWEST_WORDS} or more that begin with "
            f"other "
            f"tokens; the {len(words)} words given leave {named}"
        )
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).tolist()
    usable = list(found.values())
    return dict(usable[place] for place in sorted(order[:at_most]))


def _tokens(model: MLLM, concept: Concept) -> tuple[int, ...]:
    """Return the word's tokens as a caption would continue with them; none if the tokenizer cannot spell it."""
    mention = model.mention(Generated("", ()), concept, force=True)
    return () if mention is None else mention.word
