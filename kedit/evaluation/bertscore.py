"""BERTScore: greedy matching of contextual embeddings (Zhang et al. 2020, without IDF or rescaling).

Written here because the bert-score package fails on blank texts under transformers 5 and lets the padding
of one pair change the score of another; each pair is compared alone here, so a batch changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from kedit.evaluation.texts import TextEncoder, Texts, aligned, settled_score


@dataclass(frozen=True)
class Match:
    """How well two texts match, token by token; cosines, so precision and recall may be negative."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall in [0, 1]; 0 where one of them is not positive."""
        if min(self.precision, self.recall) <= 0:
            return 0.0
        return min(1.0, 2 * self.precision * self.recall / (self.precision + self.recall))


def bert_scores(encoder: TextEncoder, predictions: Sequence[str], references: Sequence[Texts]) -> list[Match]:
    """Return the match of each prediction with its best reference; each distinct text is encoded once."""
    listed = aligned(predictions, references)
    pairs = list(zip(predictions, listed, strict=True))
    open_pairs = [pair for pair in pairs if settled_score(*pair) is None]
    needed = {text for prediction, texts in open_pairs for text in (prediction, *texts) if text.strip()}
    vectors = unit_embeddings(encoder, sorted(needed))
    return [_best(prediction, texts, vectors, encoder.specials) for prediction, texts in pairs]


def greedy_match(prediction: Tensor, reference: Tensor, specials: tuple[int, int] = (0, 0)) -> Match:
    """Return the match of two unit-length embeddings, `[token, width]` each.

    Precision is the mean over the prediction's tokens of the largest cosine with any token of the
    reference; recall the same from the reference's side. `specials` tokens at either end count as
    candidates only. A text of special tokens alone matches nothing.
    """
    cosine = prediction @ reference.T  # prediction token, reference token
    best = [side[specials[0] : len(side) - specials[1]] for side in (cosine.amax(1), cosine.amax(0))]
    if not all(len(side) for side in best):
        return Match(0.0, 0.0)
    precision, recall = (float(side.mean()) for side in best)
    return Match(precision, recall)


def _best(
    prediction: str, references: Sequence[str], vectors: Mapping[str, Tensor], specials: tuple[int, int]
) -> Match:
    settled = settled_score(prediction, references)
    if settled is not None:
        return Match(settled, settled)
    matches = [greedy_match(vectors[prediction], vectors[text], specials) for text in references if text.strip()]
    return max(matches, key=lambda match: match.f1)


def unit_embeddings(encoder: TextEncoder, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return the embeddings of each text at length one, `[token, width]`, special tokens included."""
    if not texts:
        return {}
    with torch.no_grad():
        encoded = encoder.encode(texts)
    if len(encoded) != len(texts):
        raise ValueError(f"encoder `{encoder.name}` was given {len(texts)} texts and returned {len(encoded)}")
    return {text: _unit_rows(encoder, text, rows) for text, rows in zip(texts, encoded, strict=True)}


def _unit_rows(encoder: TextEncoder, text: str, rows: Tensor) -> Tensor:
    if rows.ndim != 2 or not len(rows) or not bool(torch.isfinite(rows).all()):
        raise ValueError(
            f"encoder `{encoder.name}` must return finite `[token, width]` embeddings; "
            f"for {text!r} it returned shape {tuple(rows.shape)}, finite: {bool(torch.isfinite(rows).all())}"
        )
    return normalize(rows.detach().float(), dim=-1)
