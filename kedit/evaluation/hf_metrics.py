"""The corpus metrics as `evaluate.Metric`s, used offline: never `evaluate.load`, which needs the hub.

Imported only by `kedit.evaluation.metrics.combined`, because `evaluate` takes seconds to import.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from kedit.evaluation.bertscore import bert_scores
from kedit.evaluation.texts import ORDERS, TextEncoder, Texts, as_references, rouge_l
from kedit.words import bleu_tokens


class Bleu(evaluate.Metric):  # type: ignore[misc]
    """Corpus BLEU-1 to 4 by sacrebleu: effective order, so that short captions can score 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _described("Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002) by sacrebleu, in [0, 1].")

    def _compute(self, predictions: Sequence[str], references: Sequence[Texts]) -> dict[str, float]:
        scores = {f"bleu{order}": _corpus_bleu(predictions, references, order) for order in ORDERS}
        return {**scores, "bleu": scores["bleu4"]}


class Rouge(evaluate.Metric):  # type: ignore[misc]
    """The mean over the corpus of ROUGE-L F1, by rouge-score."""

    def _info(self) -> evaluate.MetricInfo:
        return _described("ROUGE-L F1 (Lin 2004) by rouge-score, mean over the corpus, in [0, 1].")

    def _compute(self, predictions: Sequence[str], references: Sequence[Texts]) -> dict[str, float]:
        return {"rougeL": _mean([rouge_l(*pair) for pair in zip(predictions, references, strict=True)])}


class BertScore(evaluate.Metric):  # type: ignore[misc]
    """The mean over the corpus of BERTScore under `encoder`."""

    def __init__(self, encoder: TextEncoder, **kwargs: Any) -> None:
        self.encoder = encoder
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return _described(f"BERTScore (Zhang et al. 2020) with {self.encoder.name}, mean over the corpus.")

    def _compute(self, predictions: Sequence[str], references: Sequence[Texts]) -> dict[str, float]:
        matches = bert_scores(self.encoder, predictions, references)
        return {
            "bertscore_precision": _mean([match.precision for match in matches]),
            "bertscore_recall": _mean([match.recall for match in matches]),
            "bertscore": _mean([match.f1 for match in matches]),
        }


def _described(description: str) -> evaluate.MetricInfo:
    text = datasets.Value("string")
    several = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
    single = datasets.Features({"predictions": text, "references": text})
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions: one text each; references: one text or several for each prediction",
        features=[several, single],
    )


def _corpus_bleu(predictions: Sequence[str], references: Sequence[Texts], order: int) -> float:
    from sacrebleu.metrics.bleu import BLEU

    listed = [as_references(entry) for entry in references]
    if all(prediction in texts for prediction, texts in zip(predictions, listed, strict=True)):
        return 1.0  # also where every caption is blank, which sacrebleu scores 0
    tokenize = bleu_tokens("".join(text for texts in listed for text in texts))
    metric = BLEU(max_ngram_order=order, effective_order=True, tokenize=tokenize)
    return min(1.0, float(metric.corpus_score(list(predictions), _streams(listed)).score) / 100)


def _streams(references: Sequence[Sequence[str]]) -> Any:
    """Return sacrebleu's streams, one for each rank of reference, with None where a sample has fewer."""
    ranks = range(max(map(len, references)))
    return [[texts[rank] if rank < len(texts) else None for texts in references] for rank in ranks]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
