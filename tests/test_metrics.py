"""BLEU, ROUGE-L and BERTScore: values derived by hand, laws, and texts that break other implementations."""

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor

from kedit.evaluation.bertscore import Match, bert_scores, greedy_match
from kedit.evaluation.metrics import Similarity, combined, corpus_scores
from kedit.evaluation.texts import ORDERS, WordTokenizer, rouge_l, sentence_bleu

WORDS = ("a", "b", "c", "d", "e", "f", "star", "red")
CAPTIONS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
TEXTS = st.one_of(CAPTIONS, st.text(max_size=20))


@dataclass
class OneHotEncoder:
    """A word is its own direction, so that a cosine is 1 for equal words and 0 for different ones."""

    name: str = "one-hot"
    specials: tuple[int, int] = (0, 0)
    asked: list[str] = field(default_factory=list)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        self.asked += texts
        return [self._rows(text) for text in texts]

    def _rows(self, text: str) -> Tensor:
        words = ["<s>"] * self.specials[0] + text.split() + ["</s>"] * self.specials[1]
        known = [*WORDS, "<s>", "</s>"]
        return torch.stack([torch.eye(len(known) + 1)[known.index(w) if w in known else -1] for w in words])


@dataclass
class FixedEncoder:
    """Returns the rows it was given for each text."""

    rows: dict[str, Tensor]
    name: str = "fixed"
    specials: tuple[int, int] = (0, 0)

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        return [self.rows[text] for text in texts]


def test_bleu_of_a_shorter_prediction_is_its_brevity_penalty() -> None:
    # All n-grams of "a b c" occur in "a b c d": every precision is 1, what remains is exp(1 - 4/3).
    for order in ORDERS:
        assert sentence_bleu("a b c", "a b c d", order) == pytest.approx(math.exp(1 - 4 / 3))


def test_bleu_is_the_geometric_mean_of_the_ngram_precisions() -> None:
    # "a b c e" against "a b c d": 3 of 4 words, 2 of 3 pairs, 1 of 2 triples; no quadruple, smoothed to half of 1 in 1.
    precisions = [3 / 4, 2 / 3, 1 / 2, 1 / 2]
    for order in ORDERS:
        by_hand = math.prod(precisions[:order]) ** (1 / order)
        assert sentence_bleu("a b c e", "a b c d", order) == pytest.approx(by_hand)


def test_bleu_counts_a_word_no_more_often_than_a_reference_does() -> None:
    assert sentence_bleu("the the the", "the dog ran", 1) == pytest.approx(1 / 3)


def test_bleu_of_chinese_is_sacrebleus_with_its_chinese_tokens(tmp_path: Path) -> None:
    # mjpost/sacrebleu#147, facebookresearch/fairseq#4689: with 13a a caption without spaces is one token.
    said, was = "一只狗在红色的沙发上睡觉", "一只猫在红色的沙发上睡觉"
    right = BLEU(effective_order=True, tokenize="zh").sentence_score(said, [was]).score / 100
    assert right > 0.7
    assert sentence_bleu(said, was) == pytest.approx(right)
    assert corpus_scores([said], [was], cache_dir=tmp_path)["bleu"] == pytest.approx(right)
    assert 0.5 < sentence_bleu("ソファの上に犬がいる", "ソファの上に猫がいる") < 1


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # "a c d" is common; precision 3/3, recall 3/4.
    assert rouge_l("a c d", "a b c d") == pytest.approx(2 * 1 * 0.75 / 1.75)
    # Order counts: of "d c b a" only one word at a time follows the order of "a b c d".
    assert rouge_l("d c b a", "a b c d") == pytest.approx(0.25)


def test_rouge_l_counts_words_of_any_script() -> None:
    assert rouge_l("ein großer Hund", "ein kleiner Hund") == pytest.approx(2 / 3)
    # Chinese has no spaces: of three signs two are common, in order.
    assert rouge_l("一只狗", "一只猫") == pytest.approx(2 / 3)
    assert WordTokenizer().tokenize("Cafe\u0301, dog-house 3!") == ["café", "dog", "house", "3"]


def test_on_ascii_our_words_are_those_of_rouge_score() -> None:
    from rouge_score.tokenizers import DefaultTokenizer

    text = "A red-star, 2 dogs; it's_here (so) 3.5!"
    assert WordTokenizer().tokenize(text) == DefaultTokenizer().tokenize(text)


@pytest.mark.parametrize("metric", [sentence_bleu, rouge_l])
class TestConventionsOfTheTextMetrics:
    def test_the_best_reference_counts(self, metric) -> None:
        assert metric("a b c d", ["e f e f", "a b c d"]) == 1.0
        assert metric("a b c e", ["e", "a b c d"]) >= metric("a b c e", ["a b c d"])

    def test_a_blank_text_is_equal_to_a_blank_one_and_to_no_other(self, metric) -> None:
        assert metric("", "a star") == metric("a star", "") == metric("  \n", ["a star", "b"]) == 0.0
        assert metric("", "") == metric(" ", "\t") == metric("", ["a star", ""]) == 1.0

    @pytest.mark.parametrize("text", ["star", "a star", "一只狗", "🐕🐕", "...", "naïve café", "'", "a\u0000b"])
    def test_an_unchanged_text_scores_exactly_1_however_short(self, metric, text: str) -> None:
        assert metric(text, text) == 1.0

    def test_no_reference_at_all_is_refused_with_a_cure(self, metric) -> None:
        with pytest.raises(ValueError, match="at least one reference, got none; leave out samples"):
            metric("a star", [])

    @given(prediction=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=3))
    @example(prediction="🐕", references=["a dog"])
    @example(prediction="a dog", references=["", "一只狗"])
    def test_every_score_lies_in_0_to_1(self, metric, prediction: str, references: list[str]) -> None:
        assert 0.0 <= metric(prediction, references) <= 1.0


def test_bleu_refuses_an_order_it_does_not_have() -> None:
    with pytest.raises(ValueError, match="orders 1 to 4, got 5"):
        sentence_bleu("a", "a", 5)


def test_similarity_gives_one_number_per_prediction_for_every_metric() -> None:
    scores = Similarity(OneHotEncoder())(["a b", "", "a b c e"], ["a b", ["a", "b"], ["a b c d", "f"]])
    assert list(scores) == ["bleu1", "bleu2", "bleu3", "bleu4", "bleu", "rougeL", "bertscore"]
    assert scores["bleu"] == scores["bleu4"]
    assert scores["bleu1"] == pytest.approx([1, 0, 3 / 4])
    assert scores["rougeL"] == scores["bertscore"] == pytest.approx([1, 0, 3 / 4])


def test_without_an_encoder_similarity_leaves_bertscore_out() -> None:
    assert "bertscore" not in Similarity()(["a"], ["b"])


def test_similarity_of_nothing_is_nothing() -> None:
    assert set(map(tuple, Similarity(OneHotEncoder())([], []).values())) == {()}


def test_similarity_refuses_uneven_or_bare_inputs() -> None:
    with pytest.raises(ValueError, match="got 2 predictions and references for 1"):
        Similarity()(["a", "b"], ["a"])
    with pytest.raises(TypeError, match="got a single text"):
        Similarity()("ab", ["a", "b"])


def test_bertscore_matches_each_token_with_its_nearest() -> None:
    # Tokens x=(1,0), y=(0,1) against z=(.6,.8): cosines .6 and .8. Precision averages both, recall takes the larger.
    rows = {"x y": torch.eye(2) * 7, "z": torch.tensor([[3.0, 4.0]])}
    match = bert_scores(FixedEncoder(rows), ["x y"], ["z"])[0]
    assert (match.precision, match.recall) == pytest.approx((0.7, 0.8))
    assert match.f1 == pytest.approx(2 * 0.7 * 0.8 / 1.5)


def test_bertscore_of_distinct_directions_is_the_overlap_of_words() -> None:
    match = bert_scores(OneHotEncoder(), ["a b c"], ["a b d e"])[0]
    assert (match.precision, match.recall) == pytest.approx((2 / 3, 2 / 4))


def test_special_tokens_may_be_matched_but_do_not_count() -> None:
    # "</s>" in the reference is a candidate for the prediction's first row, which is a special token itself.
    encoder = OneHotEncoder(specials=(1, 1))
    match = bert_scores(encoder, ["a b"], ["a c"])[0]
    assert (match.precision, match.recall) == pytest.approx((0.5, 0.5))
    both = torch.eye(2)
    assert greedy_match(both[[0, 1]], both[[1, 1]], specials=(1, 0)) == Match(1.0, 1.0)
    assert greedy_match(both[:1], both, specials=(1, 0)).f1 == 0.0


def test_bertscore_never_leaves_0_to_1_when_cosines_are_negative() -> None:
    opposite = FixedEncoder({"x": torch.tensor([[1.0, 0.0]]), "y": torch.tensor([[-1.0, 0.0]])})
    match = bert_scores(opposite, ["x"], ["y"])[0]
    assert (match.precision, match.recall, match.f1) == (-1.0, -1.0, 0.0)


def test_bertscore_encodes_each_distinct_text_once_and_no_settled_one() -> None:
    encoder = OneHotEncoder()
    bert_scores(encoder, ["a", "a", "b", "", "c"], ["d", "d", ["a", "e"], "f", "c"])
    assert sorted(encoder.asked) == ["a", "b", "d", "e"]


@given(st.lists(st.tuples(CAPTIONS, CAPTIONS), min_size=1, max_size=5))
def test_a_pair_scores_the_same_alone_and_in_any_batch(pairs: list[tuple[str, str]]) -> None:
    predictions, references = zip(*pairs, strict=True)
    together = bert_scores(OneHotEncoder(), predictions, references)
    assert together == [bert_scores(OneHotEncoder(), [p], [r])[0] for p, r in pairs]
    turned = bert_scores(OneHotEncoder(), references, predictions)
    assert [(m.precision, m.recall) for m in together] == [(m.recall, m.precision) for m in turned]


def test_bertscore_of_blank_texts_is_defined() -> None:
    blank = bert_scores(OneHotEncoder(), ["", "a", "", " "], ["a", "", "", ["a", " "]])
    assert [match.f1 for match in blank] == [0.0, 0.0, 1.0, 1.0]


def test_bertscore_takes_the_best_of_ragged_references() -> None:
    scores = bert_scores(OneHotEncoder(), ["a b", "a b"], [["e f", "a f", ""], ["f"]])
    assert [match.f1 for match in scores] == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize("rows", [torch.ones(3), torch.ones(0, 3), torch.tensor([[math.nan, 1.0]])])
def test_an_encoder_that_returns_nonsense_is_named(rows: Tensor) -> None:
    with pytest.raises(ValueError, match=r"encoder `fixed` must return finite `\[token, width\]` embeddings; for 'x'"):
        bert_scores(FixedEncoder({"x": rows, "y": torch.ones(1, 3)}), ["x"], ["y"])


def test_an_encoder_that_loses_a_text_is_named() -> None:
    class Forgetful(OneHotEncoder):
        def encode(self, texts: Sequence[str]) -> list[Tensor]:
            return super().encode(texts)[:-1]

    with pytest.raises(ValueError, match="`one-hot` was given 2 texts and returned 1"):
        bert_scores(Forgetful(), ["a"], ["b"])


def test_corpus_bleu_pools_ngrams_and_the_others_average(tmp_path: Path) -> None:
    predictions, references = ["a b c e", "f"], [["a b c d"], ["f", "e e"]]
    scores = corpus_scores(predictions, references, cache_dir=tmp_path, encoder=OneHotEncoder())
    # Pooled: 3 + 1 of 4 + 1 words, 2 of 3 pairs; the lengths agree, so no brevity penalty.
    assert scores["bleu1"] == pytest.approx(4 / 5)
    assert scores["bleu2"] == pytest.approx(math.sqrt(4 / 5 * 2 / 3))
    assert scores["rougeL"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores["bertscore"] == scores["bertscore_precision"] == pytest.approx((3 / 4 + 1) / 2)
    assert scores["bleu"] == scores["bleu4"]


def test_corpus_scores_accept_single_ragged_blank_and_unicode_texts(tmp_path: Path) -> None:
    texts = ["", "star", "一只狗", "naïve 🐕"]
    unchanged = corpus_scores(texts, texts, cache_dir=tmp_path, encoder=OneHotEncoder())
    assert set(unchanged.values()) == {1.0}
    ragged = corpus_scores(texts, [["a"], ["star", "b", ""], ["c"], ["d", "e"]], cache_dir=tmp_path)
    assert all(0 <= value <= 1 for value in ragged.values())
    assert set(corpus_scores([""], [""], cache_dir=tmp_path).values()) == {1.0}
    assert set(corpus_scores([""], ["star"], cache_dir=tmp_path).values()) == {0.0}


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one prediction, got none"):
        corpus_scores([], [], cache_dir=tmp_path)


def test_the_corpus_metrics_are_evaluate_metrics_and_may_be_filled_in_batches(tmp_path: Path) -> None:
    import evaluate

    metrics = combined(tmp_path, OneHotEncoder())
    assert [type(m).__name__ for m in metrics.evaluation_modules] == ["Bleu", "Rouge", "BertScore"]
    assert all(isinstance(m, evaluate.Metric) for m in metrics.evaluation_modules)
    metrics.add_batch(predictions=["a b"], references=[["a b"]])
    metrics.add(prediction="c", references=["c", "d"])
    assert metrics.compute()["rougeL"] == 1.0


def test_the_corpus_metrics_leave_no_file_in_the_cache(tmp_path: Path) -> None:
    corpus_scores(["a"], ["a"], cache_dir=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_importing_the_metrics_imports_neither_evaluate_nor_torch() -> None:
    heavy = "{'evaluate', 'datasets', 'sacrebleu', 'rouge_score', 'transformers', 'torch'}"
    code = f"import sys, kedit.evaluation.measure; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_our_bertscore_agrees_with_the_formula_of_bert_score() -> None:
    """bert_score 0.3.13, `greedy_cos_idf`, on one pair without padding: weights 0 at specials, candidates all."""
    generator = torch.Generator().manual_seed(0)
    reference, prediction = (torch.randn(n, 8, generator=generator).abs() for n in (6, 4))
    unit = [side / side.norm(dim=-1, keepdim=True) for side in (prediction, reference)]
    cosine = torch.bmm(unit[0][None], unit[1][None].transpose(1, 2))[0]
    weights = [torch.tensor([0.0, *[1.0] * (len(side) - 2), 0.0]) for side in unit]
    precision = (cosine.max(dim=1).values * weights[0] / weights[0].sum()).sum()
    recall = (cosine.max(dim=0).values * weights[1] / weights[1].sum()).sum()
    match = bert_scores(FixedEncoder({"p": prediction, "r": reference}, specials=(1, 1)), ["p"], ["r"])[0]
    assert (match.precision, match.recall) == pytest.approx((precision.item(), recall.item()))
    assert match.f1 == pytest.approx((2 * precision * recall / (precision + recall)).item())
