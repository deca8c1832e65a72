"""Drafts change nothing but the number of calls, whatever they say and whatever the model is asked for."""

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedit.edit.edit import Edit
from kedit.edit.operators import Scale
from kedit.hooks import before
from kedit.models.drafts import Drafted
from kedit.models.guesses import Guess
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import Generated
from kedit.models.once import Copies, outside
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from tests.test_side_by_side import noise, prompts_of

N_NEW = 8


@pytest.fixture(scope="module")
def llama() -> HuggingFaceMLLM:
    return tiny("llama", max_new_tokens=N_NEW)


@pytest.fixture(scope="module")
def said(llama: HuggingFaceMLLM) -> list[Generated]:
    return llama.ask(prompts_of("llama"))


def calls(model: HuggingFaceMLLM, drafts: Sequence[Generated] | None) -> tuple[list[Generated], list[tuple[int, ...]]]:
    """Return the answers, and the shape of the tokens of each call."""
    shapes: list[tuple[int, ...]] = []
    with before(model.module, "", lambda given, named: shapes.append(tuple(named["input_ids"].shape))):
        return model.ask(prompts_of("llama"), drafts=drafts), shapes


def drafted(*rows: Sequence[int]) -> list[Generated]:
    return [Generated("", tuple(row)) for row in rows]


def test_a_right_draft_is_checked_in_one_call(llama: HuggingFaceMLLM, said: list[Generated]) -> None:
    told, shapes = calls(llama, said)
    assert told == said
    assert [shape[1] for shape in shapes[1:]] == [N_NEW - 1]
    assert len(calls(llama, None)[1]) == N_NEW


def test_without_a_guess_there_are_as_many_calls_as_ever(llama: HuggingFaceMLLM, said: list[Generated]) -> None:
    told, shapes = calls(llama, drafted((), (), ()))
    assert told == said
    assert [shape[1] for shape in shapes[1:]] == [1] * (N_NEW - 1)


def test_only_rows_that_differ_are_written_on(llama: HuggingFaceMLLM, said: list[Generated]) -> None:
    wrong = (*said[1].tokens[:3], *said[0].tokens)
    told, shapes = calls(llama, drafted(said[0].tokens, wrong, said[2].tokens))
    assert told == said
    assert shapes[1] == (3, N_NEW - 1)
    assert all(rows == 1 for rows, _ in shapes[2:])
    assert len(shapes) <= N_NEW - 3 + 2


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_any_draft_leaves_the_answers_as_they_are(seed: int, llama: HuggingFaceMLLM, said: list[Generated]) -> None:
    chance, drafts = random.Random(seed), []
    for one in said:
        kept = one.tokens[: chance.randrange(N_NEW + 1)]
        drafts.append((*kept, *chance.choices(range(5, 60), k=chance.randrange(12))))
    assert llama.ask(prompts_of("llama"), drafts=drafted(*drafts)) == said


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram_size": 1},
        {"min_new_tokens": 4},
        {"suppress_tokens": [20, 21, 22, 23, 24, 25]},
        {"forced_eos_token_id": 30},
        {"bad_words_ids": [[20], [21, 22]]},
        {"prompt_lookup_num_tokens": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"return_dict_in_generate": False, "output_scores": True},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_the_generation_settings_ask_for_counts(asked: dict[str, Any]) -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW, batch_size=1), prompts_of("llama")
    plain = model.ask(prompts)
    for name, value in asked.items():
        setattr(model.module.generation_config, name, value)
    expected = model.ask(prompts)
    assert model.ask(prompts, drafts=plain) == expected
    assert model.ask(prompts, drafts=expected) == expected


@pytest.mark.parametrize("n_ends", [1, 3])
def test_an_answer_ends_where_the_model_ends_it(n_ends: int, said: list[Generated]) -> None:
    model = tiny("llama", max_new_tokens=N_NEW)
    model.module.generation_config.eos_token_id = [said[row].tokens[3 + row] for row in range(n_ends)]
    expected = model.ask(prompts_of("llama"))
    assert any(len(one.tokens) < N_NEW for one in expected)
    for drafts in (said, expected, drafted((), said[0].tokens, said[2].tokens[:2])):
        assert model.ask(prompts_of("llama"), drafts=drafts) == expected


def test_where_two_tokens_are_as_likely_a_row_is_written_in_the_ordinary_way(said: list[Generated]) -> None:
    model = tiny("llama", max_new_tokens=N_NEW)
    twin, token = max(said[0].tokens) + 1, said[0].tokens[4]
    head = model.module.get_output_embeddings().weight
    head[twin] = head[token]
    expected = model.ask(prompts_of("llama"))
    guided = Drafted([one.tokens for one in expected], N_NEW)
    model.module.generate(
        **model.encode(prompts_of("llama")), max_new_tokens=N_NEW, do_sample=False, custom_generate=guided
    )
    assert 0 in guided.undecided
    assert model.ask(prompts_of("llama"), drafts=expected) == expected
    assert model.ask(prompts_of("llama"), drafts=said) == expected


def test_an_answer_of_one_token_needs_no_check() -> None:
    model = tiny("llama", max_new_tokens=1)
    expected = model.ask(prompts_of("llama"))
    assert model.ask(prompts_of("llama"), drafts=drafted((1, 2), (3,), ())) == expected


def test_a_cache_that_slides_is_written_in_the_ordinary_way(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny("gemma2", max_new_tokens=N_NEW)
    model.module.config.sliding_window = 12
    plain = model.ask(prompts_of("gemma2"))
    with caplog.at_level("DEBUG", logger="kedit.models.writing"):
        assert model.ask(prompts_of("gemma2"), drafts=plain) == plain
    assert "the cache slides after 12 columns" in caplog.text


@pytest.mark.parametrize("positions", ["last", "text"])
@pytest.mark.parametrize("phase", ["prefill", "decode", "both"])
def test_positions_mean_the_same_while_drafts_are_checked(
    positions: Any, phase: Any, llama: HuggingFaceMLLM, said: list[Generated]
) -> None:
    neurons = NeuronSet(tuple(NeuronId(1, index) for index in range(0, llama.site().widths[1], 2)))
    with Edit(neurons, Scale(-3.0), positions, phase).applied(llama):
        expected = llama.ask(prompts_of("llama"))
        assert llama.ask(prompts_of("llama"), drafts=said) == expected
    assert expected != said


def test_there_is_a_draft_for_each_prompt_or_none(llama: HuggingFaceMLLM, said: list[Generated]) -> None:
    with pytest.raises(ValueError, match="got 2 for 3 prompts"):
        llama.ask(prompts_of("llama"), drafts=said[:2])


@given(
    truth=st.lists(st.integers(0, 2), min_size=1, max_size=8),
    draft=st.lists(st.integers(0, 2), max_size=8),
    n_most=st.integers(1, 8),
)
def test_a_guess_ends_up_with_what_is_true(truth: list[int], draft: list[int], n_most: int) -> None:
    """The model says `truth` behind a right start, and nonsense behind a wrong one; 0 ends an answer."""
    right = [*truth, *[0] * 9]
    one = Guess(tuple(draft), {0}, n_most)
    for _ in range(20):
        if one.done:
            break
        written, first = one.written, max(len(one.said) - 1, 0)
        named = []
        for column in range(first, max(len(written), 1)):
            length = column + 1 if one.said else 0
            named.append(right[length] if list(written[:length]) == right[:length] else 2)
            if not one.said:
                break
        before_, n_new = one.said, one.take(named)
        assert n_new >= 1
        assert one.said[: len(before_)] == before_
    end = min(n_most, right.index(0) + 1)
    assert list(one.said) == right[:end]


# Prompts that are there several times


class Noting(HuggingFaceMLLM):
    """Notes how many prompts it encodes at once."""

    read: ClassVar[list[int]] = []

    def encode(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Return the inputs."""
        self.read.append(len(prompts))
        return super().encode(prompts)


def test_the_same_prompt_is_encoded_and_looked_at_once() -> None:
    made = tiny("llava")
    model = Noting(made.module, made.processor, batch_size=8, max_new_tokens=N_NEW)
    one, other = Prompt("A", noise(1)), Prompt("Describe it", noise(2))
    seen: list[int] = []
    path = "model.vision_tower.embeddings"
    with before(
        model.module, path, lambda given, named: seen.append(len(given[0] if given else next(iter(named.values()))))
    ):
        told = model.ask([one, other, one, other, one])
    assert Noting.read == [2]
    assert seen == [2]
    assert told == [*model.ask([one, other]) * 2, *model.ask([one])]


def test_copies_are_the_same_picture_with_the_same_text() -> None:
    picture = noise(1)
    prompts = [Prompt("A", picture), Prompt("B", picture), Prompt("A", noise(1)), Prompt("A", picture)]
    copies = Copies.among(prompts)
    assert copies == Copies((0, 1, 2), (0, 1, 2, 0))
    assert copies.any


def test_inputs_that_are_not_one_to_a_prompt_are_not_spread() -> None:
    copies = Copies((0, 1), (0, 1, 1))
    rows = torch.tensor([[1], [2]])
    spread = copies.spread({"input_ids": rows})
    assert spread is not None
    assert spread["input_ids"].tolist() == [[1], [2], [2]]
    assert copies.spread({"input_ids": rows, "pixel_values": torch.zeros(8, 3)}) is None


@pytest.mark.parametrize(
    ("family", "paths"),
    [
        ("llava", ("model.vision_tower", "model.multi_modal_projector")),
        ("blip2", ("vision_model", "qformer")),
        ("llama", ()),
        ("t5", ()),
    ],
)
def test_what_stands_outside_the_language_model_is_found(family: str, paths: tuple[str, ...]) -> None:
    assert outside(tiny(family).module) == paths
