"""Every metric of how alike texts are: for each pair, and for a corpus; see `texts` for what they obey."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit.evaluation.texts import ORDERS, TextEncoder, Texts, aligned, bleu_by_order, rouge_l


@dataclass(frozen=True)
class Similarity:
    """Scores predictions against references by every metric; without an encoder, BERTScore is left out."""

    encoder: TextEncoder | None = None

    def __call__(self, predictions: Sequence[str], references: Sequence[Texts]) -> dict[str, list[float]]:
        """Return for each metric one number in [0, 1] per prediction.

        Keys: "bleu1" to "bleu4", "bleu" (which is BLEU-4), "rougeL" and, with an encoder, "bertscore" (F1).
        """
        listed = aligned(predictions, references)
        pairs = list(zip(predictions, listed, strict=True))
        bleus = [bleu_by_order(*pair) for pair in pairs]
        scores = {f"bleu{order}": [bleu[order - 1] for bleu in bleus] for order in ORDERS}
        scores["bleu"] = scores["bleu4"]
        scores["rougeL"] = [rouge_l(*pair) for pair in pairs]
        if self.encoder is not None:
            from kedit.evaluation.bertscore import bert_scores  # imports torch

            scores["bertscore"] = [match.f1 for match in bert_scores(self.encoder, predictions, listed)]
        return scores


def combined(cache_dir: Path, encoder: TextEncoder | None = None) -> Any:
    """Return the corpus metrics as one `evaluate.CombinedEvaluations`, working offline.

    `cache_dir` is where `evaluate` makes its (empty) folders: the folder of the run. Importing `evaluate`
    takes seconds, so it happens here.
    """
    import evaluate

    from kedit.evaluation import hf_metrics

    held = {"cache_dir": str(cache_dir), "keep_in_memory": True}
    metrics = [hf_metrics.Bleu(**held), hf_metrics.Rouge(**held)]
    if encoder is not None:
        metrics.append(hf_metrics.BertScore(encoder, **held))
    return evaluate.combine(metrics)


def corpus_scores(
    predictions: Sequence[str],
    references: Sequence[Texts],
    *,
    cache_dir: Path,
    encoder: TextEncoder | None = None,
) -> dict[str, float]:
    """Return the scores of the whole corpus by `combined`: corpus BLEU-1 to 4, and means of the others."""
    listed = aligned(predictions, references)
    if not listed:
        raise ValueError("a corpus needs at least one prediction, got none")
    scores: dict[str, float] = combined(cache_dir, encoder).compute(predictions=list(predictions), references=listed)
    return scores
