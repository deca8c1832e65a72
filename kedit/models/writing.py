"""How answers are written: greedily, or not at all where what they may be turns out to be what they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kedit.internals.wrappers import evaluating
from kedit.models import prompting
from kedit.models.fitting import counting
from kedit.models.special_tokens import MARKED, medium_token
from kedit.progress import Batched
from kedit.prompts import Prompt
from kedit.samples import Progress

TIE = (64 * torch.finfo(torch.float32).eps, 4.0)
"""Two tokens are as likely if their logits differ by at most so much of the largest, or by so many units of rounding of
the weights: a column rounds differently alone and among others (on the shipped model by 6 units of 32 bits at most, and
by 1.5 of 16 bits)."""
PROBED = 8
"""Of so many drafts one is checked first."""
PAYS = 0.5
"""The others are checked if more than this share of those are right: elsewhere reading them is time lost."""
MOST_LOGITS = 2**26
"""How many logits a check asks for at once: a quarter of a gigabyte of them."""

Tokens = tuple[int, ...]


@torch.no_grad()
def generate_batch(model: Any, prompts: Sequence[Prompt]) -> list[Tokens]:
    """Return the tokens of the greedy answer to each prompt of one batch, without special ones.

    Args:
        model: A `HuggingFaceMLLM`.
        prompts: All of one medium.
    """
    from kedit.models.greedy import Greedy

    inputs = model.encode(prompts)
    settings = Greedy(max_new_tokens=model.max_new_tokens, pad_token_id=model.tokenizer.pad_token_id)
    with evaluating(model.module), counting(model.processor, model.name):
        written: Tensor = prompting.reader(model.module, inputs).generate(**inputs, generation_config=settings)
    special = set(model.tokenizer.all_special_ids)
    n_before = 1 if model.architecture == "encoder-decoder" else inputs["input_ids"].shape[1]
    return [tuple(token for token in row if token not in special) for row in written[:, n_before:].tolist()]


def check_drafts(model: Any, prompts: Sequence[Prompt], drafts: Sequence[Tokens], progress: Progress) -> list[int]:
    """Return the places of drafts that are what `generate_batch` would write, in any order; not always of all such.

    Args:
        model: A `HuggingFaceMLLM`.
        prompts: What is asked.
        drafts: For each prompt, the tokens of what the answer may be.
        progress: Shows the batches.
    """
    check = Check(model, prompts, drafts)
    probe, rest = check.split()
    right = check.confirm(probe, progress)
    if len(right) > PAYS * len(probe):
        right += check.confirm(rest, progress)
    return right


@dataclass(frozen=True, eq=False)
class Check:
    """Reads drafts of answers behind their prompts, each once, teacher-forced.

    A draft is right if at every column its next token is the likeliest by more than rounding, and at its end a token
    that ends an answer, unless its length does.
    """

    model: Any
    prompts: Sequence[Prompt]
    drafts: Sequence[Tokens]

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_tokens(self.model.module)

    @cached_property
    def special(self) -> frozenset[int]:
        """The tokens that are left out of an answer, and those that stand for what is no text."""
        media = {medium_token(self.model.module, medium) for medium in MARKED}
        return frozenset(self.model.tokenizer.all_special_ids) | {token for token in media if token is not None}

    def split(self) -> tuple[list[int], list[int]]:
        """Return the places of a fair sample of the drafts that can be told, and of the others; neighbors are alike."""

        def likeness(place: int) -> tuple[str, int, int]:
            return self.prompts[place].medium, len(self.prompts[place].text), len(self.drafts[place])

        # MiniGPT-4 ends and trims its answers by their text.
        by_text = getattr(self.model.module, "ending", None) is not None
        places = [] if by_text else [place for place, draft in enumerate(self.drafts) if self._may_be_whole(draft)]
        places.sort(key=likeness)
        return places[::PROBED], [place for number, place in enumerate(places) if number % PROBED]

    def confirm(self, places: Sequence[int], progress: Progress) -> list[int]:
        """Return those of the places whose drafts are right."""
        right, chunks = [], self._chunks(places)
        for chunk in progress(Batched(chunks, [*map(len, chunks)]), len(chunks), "drafts"):
            likeliest, sure = self._read(chunk)
            for place, tokens, certain in zip(chunk, likeliest.tolist(), sure.tolist(), strict=True):
                if self._is_right(self.drafts[place], tokens, certain):
                    right.append(place)
        return right

    def _chunks(self, places: Sequence[int]) -> list[list[int]]:
        """Return neighbors in batches of one medium whose logits fit into memory."""
        chunks: list[list[int]] = []
        longest = 0
        for place in places:
            longest = max(longest, len(self.drafts[place]) + 1)
            n_rows = min(self.model.batch_size, MOST_LOGITS // (longest * len(self.model.tokenizer)))
            last = chunks[-1] if chunks else []
            if not last or len(last) >= n_rows or self.prompts[last[0]].medium != self.prompts[place].medium:
                chunks.append([])
                longest = len(self.drafts[place]) + 1
            chunks[-1].append(place)
        return chunks

    @torch.no_grad()
    def _read(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return what is likeliest behind each prompt and behind each token of its draft, and whether it is sure.

        Both are `[batch, longest + 1]`. Shorter drafts are filled behind their ends, which they do not see, so that all
        stand where they would be written; what is behind them there means nothing.
        """
        drafts, filler = [self.drafts[place] for place in places], int(self.model.tokenizer.pad_token_id)
        longest = max(map(len, drafts))
        filled = [(*draft, *[filler] * (longest - len(draft))) for draft in drafts]
        logits = self.model.logits(self.model.read([self.prompts[place] for place in places], filled), longest + 1)
        best, (low, high) = logits.topk(2, dim=-1), logits.aminmax(dim=-1)
        bound = max(TIE[0], TIE[1] * rounding(self.model.module)) * torch.maximum(high, -low)
        return best.indices[..., 0], best.values[..., 0] - best.values[..., 1] > bound

    def _may_be_whole(self, draft: Tokens) -> bool:
        """Return whether a draft may be all of an answer: not if it goes on behind an end, say."""
        fits = len(draft) <= self.model.max_new_tokens
        plain = self.special.isdisjoint(draft) and self.ends.isdisjoint(draft[:-1])
        return fits and plain and (self._is_ended(draft) or not self.ends.isdisjoint(self.special))

    def _is_ended(self, draft: Tokens) -> bool:
        """Return whether nothing can follow a draft, by its length or by its last token."""
        return len(draft) == self.model.max_new_tokens or (len(draft) > 0 and draft[-1] in self.ends)

    def _is_right(self, draft: Tokens, likeliest: Sequence[int], sure: Sequence[bool]) -> bool:
        n = len(draft)
        if tuple(likeliest[:n]) != draft or not all(sure[:n]):
            return False
        return self._is_ended(draft) or (sure[n] and likeliest[n] in self.ends & self.special)


def end_tokens(module: nn.Module) -> frozenset[int]:
    """Return the tokens that end an answer, whichever part of the model writes it: BLIP-2 lets its language model."""
    ends = []
    for part in module.modules():
        settings = vars(part).get("generation_config")
        if settings is not None and hasattr(part, "generate"):
            named = settings.eos_token_id
            ends.append(frozenset([named] if isinstance(named, int) else named or ()))
    return frozenset.intersection(*ends) if ends else frozenset()


def rounding(module: nn.Module) -> float:
    """Return the unit of rounding of the coarsest weights, without those of 8 bits, which are not reckoned with."""
    kinds = {weight.dtype for weight in module.parameters() if weight.is_floating_point() and weight.itemsize > 1}
    return max((torch.finfo(kind).eps for kind in kinds), default=0.0)
