"""Answers are greedy whatever a checkpoint asks for, and drafts of them change nothing but the work."""

import logging
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Patch, Scale, Zero
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.internals.positions import Phase, Positions
from kedit.models import writing
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.mllm import Generated
from kedit.models.planted import STAR_CONCEPT, Planted, picture
from kedit.models.tiny.families import FAMILIES, LANGUAGE, fill, mute, tiny
from kedit.models.tiny.tokens import byte_tokenizer
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.outputs import edited, unedited
from kedit.prompts import Prompt
from kedit.samples import silent
from tests.tiny_minigpt4 import tiny_minigpt4

N_NEW = 8
ROOMY = {"layers": 2, "ffn_dim": 24, "attention_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
TEXTS = ("A", "The picture of a dog?", "Describe this image. It is a cat", "What is it?")
QUICK = ("llava", "gpt2", "llama", "t5", "mixtral", "blip2", "blip2_t5", "qwen2_vl")
"""Left-padded rows, learned positions, an encoder-decoder, experts, two parts that write, and rows of patches."""
OTHERS = sorted({*FAMILIES} - {*QUICK, "bert"})


def noise(seed: int) -> Image.Image:
    values = torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(values.to(torch.uint8).numpy())


def prompts_of(family: str) -> list[Prompt]:
    """Return prompts of different lengths, with pictures where the family sees."""
    if family in (*LANGUAGE, "qwen2_audio"):
        return [Prompt(text) for text in TEXTS]
    return [Prompt(text, noise(number)) for number, text in enumerate(TEXTS)]


def drawn(model: HuggingFaceMLLM, share: float, seed: int) -> NeuronSet:
    """Return random neurons of each layer."""
    chance, site = torch.Generator().manual_seed(seed), model.site()
    return NeuronSet(
        tuple(
            NeuronId(layer, int(index))
            for layer, width in site.widths.items()
            for index in torch.randperm(width, generator=chance)[: max(1, round(share * width))]
        )
    )


def drafts_of(*rows: Sequence[int]) -> list[Generated]:
    return [Generated("", tuple(row)) for row in rows]


@contextmanager
def counting(model: HuggingFaceMLLM) -> Iterator[list[int]]:
    """Yield how many rows each call of the model's `generate` writes."""
    rows: list[int] = []
    generate = model.module.generate

    def counted(**given: Any) -> Any:
        rows.append(len(given["input_ids"]))
        return generate(**given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.module, "generate", counted, raising=False)
        yield rows


@contextmanager
def reading() -> Iterator[list[list[int]]]:
    """Yield the lengths of the prefixes of each batch that is teacher-forced."""
    lengths: list[list[int]] = []
    read = HuggingFaceMLLM.read

    def noted(self: Any, prompts: Any, prefixes: Any) -> Any:
        lengths.append([len(one) for one in prefixes])
        return read(self, prompts, prefixes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HuggingFaceMLLM, "read", noted)
        yield lengths


def written_rows(
    model: HuggingFaceMLLM,
    prompts: Sequence[Prompt],
    drafts: Sequence[Generated],
    expected: Sequence[Generated] | None = None,
) -> int:
    """Return how many answers are written in spite of drafts, all of which must be `expected`, as without drafts."""
    expected = model.ask(prompts) if expected is None else expected
    with counting(model) as rows:
        assert model.ask(prompts, drafts=drafts) == expected
    return sum(rows)


@pytest.fixture(scope="module")
def llama() -> HuggingFaceMLLM:
    return tiny("llama", max_new_tokens=N_NEW)


@pytest.fixture(scope="module")
def captions(llama: HuggingFaceMLLM) -> list[Generated]:
    return llama.ask(prompts_of("llama"))


def ending(token: int, **options: Any) -> HuggingFaceMLLM:
    """Return a model that says the mark of an end, a special token, where it would have said `token`."""
    model = tiny("llama", **({"max_new_tokens": N_NEW} | options))
    head = model.module.get_output_embeddings().weight
    head[model.tokenizer.eos_token_id] = 1.5 * head[token]
    return model


# --- under edits


def check_edits(family: str) -> None:
    """Compare answers with and without drafts under edits that change none, some and all of them."""
    model, prompts = tiny(family), prompts_of(family)
    unedited, n_changed = model.ask(prompts), 0
    sees = "image_token_id" in vars(model.module.config) and family not in (*LANGUAGE, "mllama", "qwen2_audio")
    operators: list[tuple[float, Operator, Positions]] = [
        (0.02, Zero(), "all"),
        (0.05, Scale(0.9), "text"),
        (0.3, Scale(-2.0), "image" if sees else "all"),
        (0.4, Patch(0.7), "text"),
    ]
    for seed, (share, operator, positions) in enumerate(operators):
        with Edit(drawn(model, share, seed), operator, positions).applied(model):
            plain = model.ask(prompts)
            assert model.ask(prompts, drafts=unedited) == plain
            assert model.ask(prompts, drafts=[*plain[1:], plain[0]]) == plain
            assert written_rows(model, prompts, plain, plain) == 0
        n_changed += sum(one != other for one, other in zip(plain, unedited, strict=True))
    assert 0 < n_changed < len(operators) * len(prompts), "edits that change all or nothing prove nothing"


@pytest.mark.parametrize("family", QUICK)
def test_drafts_change_nothing_under_an_edit_and_right_ones_save_every_generation(family: str) -> None:
    check_edits(family)


@pytest.mark.slow
@pytest.mark.parametrize("family", OTHERS)
def test_drafts_change_nothing_under_an_edit_in_every_other_family(family: str) -> None:
    check_edits(family)


@pytest.mark.parametrize("name", ["scenes", pytest.param("scenes_soft", marks=pytest.mark.slow)])
def test_drafts_change_nothing_of_what_the_shipped_models_say(name: str) -> None:
    from kedit.data.scenes import Scenes
    from kedit.samples import find_concept

    data = Scenes()
    split = data.split(find_concept(data.concepts, "star"), locate=1, target=3, retention=2, seed=0)
    model = load(name, prompt="describe the picture .", batch_size=16, max_new_tokens=12, device="cpu")
    prompts = [Prompt(model.prompt, one.image) for one in (*split.target, *split.near, *split.far)]
    unedited = model.ask(prompts)
    assert written_rows(model, prompts, unedited, unedited) == 0
    for share, operator in ((0.005, Zero()), (0.2, Zero()), (0.3, Patch(1.0))):
        with Edit(drawn(model, share, 7), operator).applied(model):
            assert model.ask(prompts, drafts=unedited) == model.ask(prompts)


def test_drafts_change_nothing_in_half_precision() -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW), prompts_of("llama")
    model.module.to(torch.bfloat16)
    assert writing.rounding(model.module) == torch.finfo(torch.bfloat16).eps
    unedited = model.ask(prompts)
    for seed in range(3):
        with Edit(drawn(model, 0.1, seed), Zero()).applied(model):
            assert model.ask(prompts, drafts=unedited) == model.ask(prompts)


# --- wrong drafts


@pytest.mark.parametrize("at", [0, N_NEW // 2, N_NEW - 1], ids=["first", "middle", "last"])
def test_a_draft_with_a_wrong_token_is_written_and_the_others_are_kept(
    at: int, llama: HuggingFaceMLLM, captions: list[Generated]
) -> None:
    rows = [list(one.tokens) for one in captions]
    rows[2][at] = rows[2][at] + 1 if rows[2][at] < 40 else rows[2][at] - 1
    assert written_rows(llama, prompts_of("llama"), drafts_of(*rows)) == 1


@pytest.mark.parametrize("cut", [1, 3, N_NEW])
def test_a_draft_that_ends_too_early_is_written(cut: int, llama: HuggingFaceMLLM, captions: list[Generated]) -> None:
    rows = [list(one.tokens) for one in captions]
    rows[3] = rows[3][:-cut]
    assert written_rows(llama, prompts_of("llama"), drafts_of(*rows)) == 1


def test_a_draft_that_goes_on_behind_the_end_is_written(captions: list[Generated]) -> None:
    model, prompts = ending(captions[1].tokens[3]), prompts_of("llama")
    plain = model.ask(prompts)
    assert len(plain[1].tokens) <= 3
    rows = [list(one.tokens) for one in plain]
    assert written_rows(model, prompts, drafts_of(*rows)) == 0
    rows[1] = list(captions[1].tokens)
    assert written_rows(model, prompts, drafts_of(*rows)) == 1
    rows[1] = [*plain[1].tokens, model.tokenizer.eos_token_id]
    assert written_rows(model, prompts, drafts_of(*rows)) == 1


def test_an_answer_may_be_empty(captions: list[Generated]) -> None:
    model, prompts = ending(captions[2].tokens[0]), prompts_of("llama")
    plain = model.ask(prompts)
    assert plain[2].tokens == ()
    assert written_rows(model, prompts, plain) == 0
    assert written_rows(model, prompts, drafts_of(*(one.tokens for one in plain[:3]), ())) == 1


@pytest.mark.parametrize("n_most", [1, 3, N_NEW + 2])
def test_a_draft_is_whole_only_at_the_length_at_which_an_answer_ends(n_most: int, captions: list[Generated]) -> None:
    model, prompts = tiny("llama", max_new_tokens=n_most), prompts_of("llama")
    assert written_rows(model, prompts, model.ask(prompts)) == 0
    assert written_rows(model, prompts, captions) == len(prompts)


@pytest.mark.parametrize("n_ends", [1, 3])
def test_a_plain_token_may_end_an_answer_and_is_part_of_it(n_ends: int, captions: list[Generated]) -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW), prompts_of("llama")
    model.module.generation_config.eos_token_id = [captions[row].tokens[3 + row] for row in range(n_ends)]
    plain = model.ask(prompts)
    assert any(len(one.tokens) < N_NEW for one in plain)
    assert written_rows(model, prompts, plain) == 0
    without = [one.tokens[:-1] if len(one.tokens) < N_NEW else one.tokens for one in plain]
    n_ended = sum(len(one.tokens) < N_NEW for one in plain)
    # The first of the drafts decides whether the others are read at all.
    assert written_rows(model, prompts, drafts_of(*without)) >= n_ended
    assert model.ask(prompts, drafts=captions) == plain


def test_what_ends_an_answer_for_one_part_of_a_model_alone_confirms_nothing() -> None:
    model, prompts = tiny("blip2", max_new_tokens=N_NEW), prompts_of("blip2")
    end = model.ask(prompts)[0].tokens[3]
    model.module.generation_config.eos_token_id = end
    assert writing.end_tokens(model.module) == frozenset()
    model.module.language_model.generation_config.eos_token_id = [end, 2]
    assert writing.end_tokens(model.module) == {end}
    assert written_rows(model, prompts, model.ask(prompts)) == 0


def test_where_two_tokens_are_as_likely_an_answer_is_written(captions: list[Generated]) -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW), prompts_of("llama")
    twin, token = max(captions[1].tokens) + 1, captions[1].tokens[4]
    assert all(token not in one.tokens for one in captions[:1])
    head = model.module.get_output_embeddings().weight
    head[twin] = head[token] * (1 - 1e-6)
    assert written_rows(model, prompts, captions) == sum(token in one.tokens for one in captions) > 0


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_any_draft_leaves_the_answers_as_they_are(seed: int, llama: HuggingFaceMLLM, captions: list[Generated]) -> None:
    chance, rows = random.Random(seed), []
    for one in captions:
        kept = one.tokens[: chance.randrange(N_NEW + 1)]
        rows.append((*kept, *chance.choices(range(60), k=chance.choice([0, N_NEW - len(kept), 4]))))
    assert llama.ask(prompts_of("llama"), drafts=drafts_of(*rows)) == captions


def test_drafts_of_different_lengths_stand_where_they_would_be_written() -> None:
    """An encoder-decoder with a position learned for each column, which reads no padded answers."""
    tokenizer = byte_tokenizer()
    sizes = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in ROOMY.items()}
    module = transformers.BartForConditionalGeneration(
        transformers.BartConfig(d_model=16, vocab_size=len(tokenizer), max_position_embeddings=64, **SPECIAL, **sizes)
    )
    fill(module, 0)
    mute(module, tokenizer)
    model, prompts = HuggingFaceMLLM(module.eval(), tokenizer, max_new_tokens=N_NEW), prompts_of("t5")
    module.generation_config.eos_token_id = model.ask(prompts)[0].tokens[2]
    plain = model.ask(prompts)
    assert len({len(one.tokens) for one in plain}) > 1
    assert written_rows(model, prompts, plain) == 0


@pytest.mark.parametrize("flavor", ["vicuna", pytest.param("llama2", marks=pytest.mark.slow)])
def test_a_model_that_ends_answers_by_their_text_writes_them(flavor: str) -> None:
    model = tiny_minigpt4(flavor, max_new_tokens=4)
    prompts = [Prompt("What?", noise(1)), Prompt("What is in the image?", noise(2))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert written_rows(model, prompts, model.ask(prompts)) == len(prompts)


def test_there_is_a_draft_for_each_prompt_or_none(llama: HuggingFaceMLLM, captions: list[Generated]) -> None:
    with pytest.raises(ValueError, match="got 2 for 4 prompts"):
        llama.ask(prompts_of("llama"), drafts=captions[:2])


# --- the work


def test_a_check_is_one_pass_over_rows_of_like_length(planted: Planted) -> None:
    model = planted.model
    images = [picture(str(number), star=(number,) if number % 2 else ()).image for number in range(12)]
    prompts = [Prompt(model.prompt, image) for image in images]
    plain = model.ask(prompts)
    assert {len(one.tokens) for one in plain} == {1, 2}
    with reading() as read:
        assert written_rows(model, prompts, plain) == 0
    # One of eight first, and what is left in batches of four.
    assert [len(lengths) for lengths in read] == [2, 4, 4, 2]
    assert [max(lengths) for lengths in read[1:]] == [1, 2, 2]


@pytest.mark.parametrize(("n_wrong", "n_read"), [(1, 32), (32, 4)])
def test_drafts_most_of_which_are_wrong_are_not_all_read(n_wrong: int, n_read: int) -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW, batch_size=64), [Prompt("A")] * 32
    right = model.ask([prompts[0]])[0].tokens
    rows = [tuple(reversed(right))] * n_wrong + [right] * (32 - n_wrong)
    random.Random(1).shuffle(rows)
    with reading() as read:
        assert written_rows(model, prompts, drafts_of(*rows)) == n_wrong
    assert sum(map(len, read)) == n_read


def test_the_logits_of_a_check_fit_into_what_is_allowed(
    llama: HuggingFaceMLLM, captions: list[Generated], monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = 2 * (N_NEW + 1) * len(llama.tokenizer)
    monkeypatch.setattr(writing, "MOST_LOGITS", allowed)
    asked, own = [], HuggingFaceMLLM.logits

    def noted(self: Any, batch: Any, n_last: int = 1) -> Any:
        logits = own(self, batch, n_last)
        asked.append(logits.numel())
        return logits

    monkeypatch.setattr(HuggingFaceMLLM, "logits", noted)
    assert written_rows(llama, prompts_of("llama"), captions) == 0
    assert len(asked) == 3
    assert max(asked) <= allowed
    monkeypatch.setattr(writing, "MOST_LOGITS", 1)
    assert written_rows(llama, prompts_of("llama"), captions) == 0


def test_nothing_is_asked_of_nobody(llama: HuggingFaceMLLM) -> None:
    assert llama.ask([], drafts=[]) == []


# --- greedy, whatever the checkpoint asks for


SETTINGS: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.7},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 0.6},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "sampling": {"do_sample": True, "temperature": 9.0, "top_k": 3, "top_p": 0.9, "min_p": 0.01},
    "sampling flags alone": {"temperature": 0.6, "top_k": 3, "top_p": 0.9, "typical_p": 0.9},
    "beams": {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
    "several answers": {"num_beams": 3, "num_return_sequences": 2},
    "groups": {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0},
    "contrast": {"penalty_alpha": 0.6, "top_k": 4},
    "length": {"min_length": 30, "max_length": 4},
    "new length": {"min_new_tokens": 4, "max_new_tokens": 2},
    "suppressed": {"suppress_tokens": list(range(20, 60)), "begin_suppress_tokens": [30, 31]},
    "bad words": {"bad_words_ids": [[20], [21, 22]]},
    "bias": {"sequence_bias": [[[30], 9.0]]},
    "forced": {"forced_bos_token_id": 30, "forced_eos_token_id": 31},
    "decay": {"exponential_decay_length_penalty": (1, 2.0)},
    "guidance": {"guidance_scale": 3.0},
    "stop strings": {"stop_strings": ["a", "e"]},
    "time": {"max_time": 1e-9},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "parts": {"prefill_chunk_size": 4},
    "more than tokens": {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    "watermark": {"watermarking_config": {"bias": 9.0}},
    "of its own": {"made_up": 3},
}


def demand(model: HuggingFaceMLLM, asked: dict[str, Any]) -> None:
    """Write settings into every generation config of a model, as if its checkpoint came with them."""
    for part in model.module.modules():
        config = vars(part).get("generation_config")
        for name, value in asked.items() if config is not None else ():
            setattr(config, name, value)


def by_hand(model: HuggingFaceMLLM, prompt: Prompt) -> tuple[int, ...]:
    """Return one likeliest token after the other, up to the length of an answer."""
    tokens: tuple[int, ...] = ()
    while len(tokens) < model.max_new_tokens:
        tokens += (int(model.logits(model.read([prompt], [tokens]))[0, -1].argmax()),)
    return tokens


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "llava", "blip2", "instructblip", "t5"])
def test_an_answer_is_the_likeliest_token_again_and_again(family: str) -> None:
    model, prompts = tiny(family, max_new_tokens=4), prompts_of(family)
    demand(model, {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "num_beams": 2})
    assert [one.tokens for one in model.ask(prompts)] == [by_hand(model, one) for one in prompts]


@cache
def answered(family: str) -> tuple[HuggingFaceMLLM, list[Generated]]:
    """Return a model whose checkpoint asks for nothing, which nobody changes, and its answers."""
    model = tiny(family, max_new_tokens=6)
    return model, model.ask(prompts_of(family))


@pytest.mark.parametrize("family", ["llama", "blip2", "t5"])
@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_checkpoint_asks_for_changes_nothing_and_says_nothing(
    name: str, family: str, speaking: Callable[[], list[str]]
) -> None:
    (silent, plain), prompts = answered(family), prompts_of(family)
    model = replace(silent, module=deepcopy(silent.module))
    demand(model, SETTINGS[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.ask(prompts) == plain
        assert model.ask(prompts, drafts=plain) == plain
    assert speaking() == []
    config = model.module.generation_config
    assert all(getattr(config, key) == value for key, value in SETTINGS[name].items())


@pytest.fixture
def speaking(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What transformers has said so far to a user who silenced nothing."""
    level, logger = transformers.logging.get_verbosity(), logging.getLogger("transformers")
    transformers.logging.set_verbosity_warning()
    logger.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.name.startswith("transformers")]
    logger.removeHandler(caplog.handler)
    transformers.logging.set_verbosity(level)


def test_the_ends_of_a_checkpoint_stay(captions: list[Generated]) -> None:
    model, prompts = tiny("llama", max_new_tokens=N_NEW), prompts_of("llama")
    end = captions[0].tokens[2]
    demand(model, {"eos_token_id": end})
    assert model.ask(prompts)[0].tokens == captions[0].tokens[: captions[0].tokens.index(end) + 1]


def test_what_an_answer_of_an_encoder_decoder_begins_with_stays() -> None:
    model, prompts = tiny("t5", max_new_tokens=4), prompts_of("t5")
    plain = model.ask(prompts)
    demand(model, {"decoder_start_token_id": 40})
    assert model.ask(prompts) != plain
    assert written_rows(model, prompts, model.ask(prompts)) == 0


# --- edits that a draft would be wrong under


SPANS: list[tuple[Positions, Phase]] = [("all", "prefill"), ("all", "decode"), ("last", "both"), ("text", "decode")]


@pytest.mark.parametrize("phase", ["both", "prefill", "decode"])
@pytest.mark.parametrize("positions", ["all", "image", "text", "last"])
def test_an_edit_of_a_phase_or_of_the_last_position_is_not_teacher_forceable(
    positions: Positions, phase: Phase
) -> None:
    edit = Edit(NeuronSet((NeuronId(0, 0),)), Zero(), positions, phase)
    assert edit.teacher_forceable == (positions != "last" and phase == "both")


@torch.no_grad()
@pytest.mark.parametrize(("positions", "phase"), SPANS)
def test_under_such_an_edit_a_draft_would_be_kept_that_is_not_written(
    positions: Positions, phase: Phase, llama: HuggingFaceMLLM
) -> None:
    """Read in one pass, an answer is prompt: edited where it should not be, or not where it should."""
    prompt, neurons = Prompt(TEXTS[3]), drawn(llama, 0.5, 1)
    with Edit(neurons, Scale(-3.0)).applied(llama) if phase == "prefill" else nullcontext():
        draft = llama.ask([prompt])[0].tokens
    edit = Edit(neurons, Scale(-3.0), positions, phase)
    with edit.applied(llama):
        assert by_hand(llama, prompt) != draft
    with edit.applied(llama):
        assert writing.check_drafts(llama, [prompt], [draft], silent) == [0]


@pytest.mark.parametrize(("positions", "phase"), [*SPANS, ("all", "both"), ("image", "both")])
def test_collecting_outputs_hands_on_the_unedited_answers_only_where_they_may_be_read(
    positions: Positions, phase: Phase, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_set = EvaluationSet(
        STAR_CONCEPT, (STAR_CONCEPT,), [picture("star", star=(1,))], far=[picture("house", house=(2,))]
    )
    edit, before = Edit(planted.star, Zero(), positions, phase), unedited(planted.model, evaluation_set, silent)
    handed_on, own = [], HuggingFaceMLLM.ask

    def noted(self: Any, prompts: Any, *, drafts: Any = None, **options: Any) -> Any:
        handed_on.append(drafts)
        return own(self, prompts, drafts=drafts, **options)

    monkeypatch.setattr(HuggingFaceMLLM, "ask", noted)
    answers = edited(planted.model, evaluation_set, [edit], before, silent)
    assert handed_on == [before.texts if phase == "both" and positions != "last" else None]
    with edit.applied(planted.model):
        assert list(answers[0].texts) == planted.model.caption(
            [one.image for one in (*evaluation_set.target, *evaluation_set.far)]
        )
