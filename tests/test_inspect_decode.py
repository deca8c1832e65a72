"""What neurons say in words, where the output matrix is written by hand."""

import sys
from typing import Any

import pytest
import torch

from kedit.inspection.decode import Decoded, decode, decoding_rows
from kedit.internals.unembedding import Unembedding
from kedit.models import planted as written
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted import Planted
from kedit.models.planted.builder import WORDS
from kedit.models.planted.smallest import HOUSE_SEEN, KNOWS_STAR, STAR_SEEN
from kedit.neurons import NeuronId, NeuronSet
from kedit.samples import Concept


@pytest.fixture
def speaking() -> HuggingFaceMLLM:
    """The planted model; its star neuron writes 1 for `star`, 2 for `house`, and the norm counts stars fourfold."""
    model = written.planted().model
    module: Any = model.module
    head, layers = module.lm_head.weight, module.model.language_model.layers
    head.zero_()
    head[WORDS.index("star"), STAR_SEEN] = 1.0
    head[WORDS.index("house"), HOUSE_SEEN] = 1.0
    head[WORDS.index("what"), [STAR_SEEN, HOUSE_SEEN]] = -1.0
    vector = layers[0].mlp.down_proj.weight
    vector[:, KNOWS_STAR] = 0.0
    vector[STAR_SEEN, KNOWS_STAR], vector[HOUSE_SEEN, KNOWS_STAR] = 1.0, 2.0
    module.model.language_model.norm.weight[STAR_SEEN] = 4.0
    return model


def test_a_neuron_decodes_to_what_its_value_vector_says_through_the_final_norm(speaking: HuggingFaceMLLM) -> None:
    [decoded] = decode(speaking, NeuronSet((NeuronId(0, KNOWS_STAR),)), k=2)
    assert decoded.neuron == (0, KNOWS_STAR)
    assert decoded.words == ("star", "house")
    assert decoded.raw == ("house", "star")
    assert decoded.opposite[0] == "what"


def test_many_neurons_are_decoded_some_at_a_time(speaking: HuggingFaceMLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits over all words of all neurons at once would fill the memory for a large model."""
    every, rows, logits = NeuronSet(tuple(NeuronId(0, index) for index in range(7))), [], Unembedding.logits

    def noted(self: Unembedding, vectors: torch.Tensor, **how: bool) -> torch.Tensor:
        rows.append(len(vectors))
        return logits(self, vectors, **how)

    at_once = decode(speaking, every, k=3, below={NeuronId(0, 5)})
    monkeypatch.setattr(Unembedding, "logits", noted)
    monkeypatch.setattr(sys.modules["kedit.inspection.decode"], "AT_ONCE", 3)
    assert decode(speaking, every, k=3, below={NeuronId(0, 5)}) == at_once
    assert set(rows) == {3, 1}


def test_a_neuron_that_fires_below_zero_says_what_its_negated_value_vector_says(speaking: HuggingFaceMLLM) -> None:
    neuron = NeuronId(0, KNOWS_STAR)
    [decoded] = decode(speaking, NeuronSet((neuron,)), k=2, below={neuron})
    assert decoded.words[0] == decoded.raw[0] == "what"
    assert decoded.opposite == ("star", "house")
    assert decoded.to_json()["fires"] == "below zero"


def test_neurons_are_decoded_in_the_order_of_their_set_and_only_as_many_words_as_there_are(planted: Planted) -> None:
    chosen = planted.house | planted.star | NeuronSet((NeuronId(1, 0),))
    decoded = decode(planted.model, chosen, k=1000)
    assert [one.neuron for one in decoded] == list(chosen)
    assert all(sorted(one.words) == sorted(WORDS) for one in decoded)


def test_no_neurons_say_nothing(planted: Planted) -> None:
    assert decode(planted.model, NeuronSet()) == []


def test_a_number_of_words_that_is_not_positive_is_refused(planted: Planted) -> None:
    with pytest.raises(ValueError, match="`k` is a number of words, 1 or more, got 0"):
        decode(planted.model, planted.star, k=0)


def test_decoding_changes_no_weight_and_makes_no_gradient(speaking: HuggingFaceMLLM) -> None:
    before = [one.clone() for one in speaking.module.parameters()]
    decode(speaking, NeuronSet((NeuronId(0, KNOWS_STAR),)))
    assert all(torch.equal(a, b) for a, b in zip(before, speaking.module.parameters(), strict=True))
    assert all(one.grad is None for one in speaking.module.parameters())


def test_a_neuron_names_a_concept_if_a_word_that_it_raises_is_a_word_for_it() -> None:
    one = Decoded(NeuronId(0, 1), ("shape", "Stars"), ("house",), ("moon",))
    assert one.names(Concept("star"))
    assert not one.names(Concept("house"))
    assert not one.names(Concept("moon"))


def test_the_table_has_a_row_for_each_neuron_with_its_strongest_words() -> None:
    one = Decoded(NeuronId(3, 17), ("a", "b", "c"), ("d", "e"), ("f",))
    header, rows = decoding_rows([one], shown=2)
    assert header == ("layer", "neuron", "fires", "words", "raw", "opposite direction")
    assert rows == [("3", "17", "above zero", "a, b", "d, e", "f")]
    assert one.to_json() == {
        "layer": 3, "index": 17, "fires": "above zero", "words": ["a", "b", "c"], "raw": ["d", "e"], "opposite": ["f"]
    }  # fmt: skip
