"""MoverScore: how far the tokens of one text have to be moved to become those of another (Zhao et al. 2019).

The transport is solved by POT (`pip install 'kedit[mover]'`). Unlike the original, tokens weigh alike (no IDF), and
their embeddings are those of one layer of whatever encoder is given.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kedit.evaluation.bertscore import unit_embeddings
from kedit.evaluation.texts import TextEncoder, Texts, aligned, settled_score


def mover_scores(encoder: TextEncoder, predictions: Sequence[str], references: Sequence[Texts]) -> list[float]:
    """Return the score of each prediction with its best reference: 1 less the earth mover's distance, in [-1, 1].

    The distance of two tokens is that of their embeddings at length one, 0 to 2. Each distinct text is encoded once.

    Args:
        encoder: Embeds texts; its special tokens have no weight.
        predictions: The texts.
        references: One or several for each.

    Raises:
        ImportError: POT is not installed.
        ValueError: There are not as many references as predictions.
    """
    listed = aligned(predictions, references)
    pairs = list(zip(predictions, listed, strict=True))
    open_pairs = [pair for pair in pairs if settled_score(*pair) is None]
    needed = {text for prediction, texts in open_pairs for text in (prediction, *texts) if text.strip()}
    vectors = {text: _words(rows, encoder.specials) for text, rows in unit_embeddings(encoder, sorted(needed)).items()}
    scores = []
    for prediction, texts in pairs:
        settled = settled_score(prediction, texts)
        written = [text for text in texts if text.strip()]
        scores.append(
            max(1 - least_cost(vectors[prediction], vectors[text]) for text in written) if settled is None else settled
        )
    return scores


def least_cost(one: Tensor, other: Tensor) -> float:
    """Return the earth mover's distance of two sets of points, `[point, width]` each, all of a set of equal weight.

    Sets without a point are 2 apart, as far as points of length one can be.
    """
    try:
        import ot
    except ImportError as error:
        raise ImportError("MoverScore moves words by POT: `pip install 'kedit[mover]'`") from error
    if not len(one) or not len(other):
        return 2.0
    cost = np.linalg.norm(one.double().numpy()[:, None] - other.double().numpy()[None], axis=-1)
    weights = (np.full(len(points), 1 / len(points)) for points in (one, other))
    return float(ot.emd2(*weights, cost))


def _words(rows: Tensor, specials: tuple[int, int]) -> Tensor:
    """Return the embeddings without those of the special tokens at either end."""
    return rows[specials[0] : len(rows) - specials[1]]
