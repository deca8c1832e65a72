"""How alike two texts are: BLEU and ROUGE-L of one pair, and what every metric takes and obeys.

Every metric here obeys the same conventions, so that an edit that changes nothing scores exactly 1:
a prediction equal to one of its references scores 1, two blank texts are equal, and a blank text scores
0 against any other.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kedit.words import UNSPACED, bleu_tokens

if TYPE_CHECKING:
    from torch import Tensor

ORDERS = (1, 2, 3, 4)
"""The n-gram orders of BLEU."""

# Scripts without spaces count each sign as a word; elsewhere a word is a run of letters and digits.
# On ASCII this is rouge-score's own tokenizer, which drops every other letter.
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")

Texts = str | Sequence[str]
"""One reference, or several of which the best counts."""


class TextEncoder(Protocol):
    """Turns texts into contextual embeddings for BERTScore."""

    @property
    def name(self) -> str:
        """What a report calls the encoder: its folder or hub id, and the layer."""

    @property
    def specials(self) -> tuple[int, int]:
        """How many special tokens open and close each text: (1, 1) for BERT, (1, 0) for Llama.

        They may be matched, but do not count in the mean, as in the bert-score package.
        """

    def encode(self, texts: Sequence[str]) -> "list[Tensor]":
        """Return `[token, width]` for each text, special tokens included."""


def sentence_bleu(prediction: str, references: Texts, order: int = 4) -> float:
    """Return the sentence BLEU of `prediction` up to `order`-grams, in [0, 1].

    Effective order (n-grams longer than the prediction do not count) and exponential smoothing, both
    sacrebleu's own for sentences (Chen and Cherry 2014, method 3); the tokens that `kedit.words.bleu_tokens` names,
    case kept.
    """
    if order not in ORDERS:
        raise ValueError(f"BLEU has orders 1 to 4, got {order}")
    return bleu_by_order(prediction, as_references(references))[order - 1]


def rouge_l(prediction: str, references: Texts) -> float:
    """Return the F1 of the longest common subsequence of words (Lin 2004), in [0, 1]; the best reference counts."""
    listed = as_references(references)
    if (settled := settled_score(prediction, listed)) is not None:
        return settled
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
    return min(1.0, float(scorer.score_multi(listed, prediction)["rougeL"].fmeasure))


def bleu_by_order(prediction: str, references: Sequence[str]) -> list[float]:
    """Return the sentence BLEU of each of `ORDERS`; see `sentence_bleu`."""
    if (settled := settled_score(prediction, references)) is not None:
        return [settled] * len(ORDERS)
    from sacrebleu.metrics.bleu import BLEU

    tokenize = bleu_tokens("".join(references))
    counted = BLEU(effective_order=True, tokenize=tokenize).sentence_score(prediction, list(references))
    lengths = int(counted.sys_len), int(counted.ref_len)
    scores = [
        BLEU.compute_bleu(
            counted.counts[:order], counted.totals[:order], *lengths, "exp", effective_order=True, max_ngram_order=order
        ).score
        for order in ORDERS
    ]
    return [min(1.0, score / 100) for score in scores]


@dataclass(frozen=True)
class WordTokenizer:
    """Splits a text into lowercase words of any script, in the form that rouge-score expects."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of `text`."""
        return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def settled_score(prediction: str, references: Sequence[str]) -> float | None:
    """Return the score that the conventions of this module fix, or None where there is something to compare."""
    if prediction in references:
        return 1.0
    if prediction.strip():
        return None if any(reference.strip() for reference in references) else 0.0
    return 0.0 if all(reference.strip() for reference in references) else 1.0


def as_references(references: Texts) -> list[str]:
    """Return `references` as a list; a ValueError says that at least one is needed."""
    listed = [references] if isinstance(references, str) else list(references)
    if not listed:
        raise ValueError("a prediction needs at least one reference, got none; leave out samples without references")
    return listed


def aligned(predictions: Sequence[str], references: Sequence[Texts]) -> list[list[str]]:
    """Return the references of each prediction as a list, checked to be as many as the predictions."""
    if isinstance(predictions, str) or isinstance(references, str):
        raise TypeError("`predictions` and `references` are sequences with one entry per sample, got a single text")
    if len(predictions) != len(references):
        raise ValueError(f"got {len(predictions)} predictions and references for {len(references)}; they must match")
    return [as_references(entry) for entry in references]
