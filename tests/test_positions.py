"""An edit by position means the same however the sequence is computed: whole, from a cache, by beams, or padded."""

import warnings
from functools import cache
from itertools import product
from typing import Any

import pytest
import tiny
import tiny_families
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, Gemma4Config, Gemma4ForConditionalGeneration

from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.internals.hooks import before, record
from kedit.internals.positions import Sequence, behind_pictures, following
from kedit.internals.sites import Site, decoder_path
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.planted import Planted, picture
from kedit.models.tiny.families import tiny as tiny_of
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt

WHERE = list(product(("all", "image", "text", "image_end", "last"), ("both", "prefill", "decode")))
EVERY_THIRD = NeuronSet(tuple(NeuronId(layer, i) for layer in range(tiny.LAYERS) for i in range(0, tiny.NEURONS, 3)))
PROMPTS = tiny.prompt([5, 6, 7, 8], [9, 10, 11, 12])
UNEVEN = tiny.prompt([5, 6, 7, 8, 13], [9, 10], [14, 15, 16])
N_NEW = 5


@cache
def llava() -> Any:
    return tiny.llava()


def edit(positions: Any, phase: Any) -> Edit:
    return Edit(EVERY_THIRD, Scale(-3.0), positions, phase)


def by_hand(tokens: Tensor, n_prompt: int, positions: str, phase: str) -> Tensor:
    """Return the positions that an edit acts on, spelled out for a whole unpadded sequence: `[batch, pos]`."""
    mask, is_image = torch.zeros_like(tokens, dtype=torch.bool), tokens == tiny.IMAGE_TOKEN
    for row, column in product(*map(range, tokens.shape)):
        in_prompt = column < n_prompt
        by_content = {
            "all": True,
            "image": tokens[row, column] == tiny.IMAGE_TOKEN,
            "text": tokens[row, column] != tiny.IMAGE_TOKEN,
            "image_end": is_image[row, column - 1 : column + 1].tolist() == [True, False],
            "last": column >= n_prompt - 1,
        }
        by_age = {"both": True, "prefill": in_prompt, "decode": not in_prompt}
        mask[row, column] = bool(by_content[positions]) and by_age[phase]
    return mask


@torch.no_grad()
def oracle(inputs: dict[str, Tensor], new: Tensor, positions: str, phase: str) -> Tensor:
    """Return the logits of the new tokens from one pass over the whole sequence, edited by plain torch hooks."""
    module = llava()
    tokens = torch.cat([inputs["input_ids"], new], dim=1)
    n_prompt = inputs["input_ids"].shape[1]
    scale = torch.ones(tiny.NEURONS)
    scale[::3] = -3.0
    mask = by_hand(tokens, n_prompt, positions, phase)[..., None]
    handles = [
        block.mlp.down_proj.register_forward_pre_hook(lambda one, args: (torch.where(mask, args[0] * scale, args[0]),))
        for block in module.model.language_model.layers
    ]
    try:
        logits = module(input_ids=tokens, pixel_values=inputs["pixel_values"], use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return logits[:, n_prompt - 1 : -1]


def acts(positions: str, phase: str) -> bool:
    """Return whether the edit acts anywhere: no image token is ever generated."""
    return phase != "decode" or not positions.startswith("image")


@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_generation_from_a_cache_is_edited_at_the_positions_that_are_named(positions: str, phase: str) -> None:
    plain, unedited = tiny.generated(llava(), PROMPTS)
    with edit(positions, phase).applied(llava()):
        tokens, logits = tiny.generated(llava(), PROMPTS)
    torch.testing.assert_close(logits, oracle(PROMPTS, tokens, positions, phase), atol=2e-5, rtol=1e-4)
    assert torch.equal(plain, tokens) != acts(positions, phase)
    assert torch.equal(unedited, logits) != acts(positions, phase)


@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_sampling_is_edited_at_the_positions_that_are_named(positions: str, phase: str) -> None:
    drawn = {"do_sample": True, "top_k": 0, "temperature": 2.0}
    with torch.random.fork_rng(), edit(positions, phase).applied(llava()):
        torch.manual_seed(3)
        tokens, logits = tiny.generated(llava(), PROMPTS, **drawn)
    torch.testing.assert_close(logits, oracle(PROMPTS, tokens, positions, phase), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"cache_implementation": "static"}], ids=["none", "static"])
@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_the_kind_of_cache_does_not_matter(positions: str, phase: str, options: dict[str, Any]) -> None:
    with edit(positions, phase).applied(llava()):
        tokens, logits = tiny.generated(llava(), UNEVEN)
        others, other_logits = tiny.generated(llava(), UNEVEN, **options)
    assert torch.equal(tokens, others)
    torch.testing.assert_close(logits, other_logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_padding_on_the_left_does_not_matter(positions: str, phase: str) -> None:
    with edit(positions, phase).applied(llava()):
        tokens, logits = tiny.generated(llava(), UNEVEN)
        for row in range(len(tokens)):
            alone, alone_logits = tiny.generated(llava(), tiny.row_of(UNEVEN, row))
            assert torch.equal(tokens[row : row + 1], alone)
            torch.testing.assert_close(logits[row : row + 1], alone_logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_beams_are_edited_alike_with_and_without_a_cache_and_in_a_padded_batch(positions: str, phase: str) -> None:
    plain, _ = tiny.generated(llava(), UNEVEN, num_beams=3)
    with edit(positions, phase).applied(llava()):
        cached, _ = tiny.generated(llava(), UNEVEN, num_beams=3)
        whole, _ = tiny.generated(llava(), UNEVEN, num_beams=3, use_cache=False)
        alone = [tiny.generated(llava(), tiny.row_of(UNEVEN, row), num_beams=3)[0] for row in range(3)]
    assert torch.equal(cached, whole)
    assert torch.equal(cached, torch.cat(alone))
    # The one column behind the picture is too little to change a beam.
    assert torch.equal(plain, cached) != (acts(positions, phase) and positions != "image_end")


@pytest.mark.parametrize("build", [tiny.llama, tiny.gpt2, tiny.opt, tiny.gpt_neox])
@pytest.mark.parametrize(("positions", "phase"), [("text", "both"), ("last", "both"), ("all", "decode")])
def test_text_models_are_edited_alike_with_and_without_a_cache(build: Any, positions: Any, phase: Any) -> None:
    module = build()
    inputs = {key: UNEVEN[key] for key in ("input_ids", "attention_mask")}
    plain, _ = tiny.generated(module, inputs)
    with edit(positions, phase).applied(module):
        tokens, logits = tiny.generated(module, inputs)
        whole, whole_logits = tiny.generated(module, inputs, use_cache=False)
    assert torch.equal(tokens, whole) and not torch.equal(tokens, plain)
    torch.testing.assert_close(logits, whole_logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["image", "text", "last"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_that_embeds_its_prompt_before_the_beams_are_spread_is_edited_as_well(positions: Any, beams) -> None:
    module = tiny.blip2()
    _, unedited = tiny.generated(module, UNEVEN, num_beams=beams)
    with edit(positions, "both").applied(module):
        tokens, logits = tiny.generated(module, UNEVEN, num_beams=beams)
        alone = [tiny.generated(module, tiny.row_of(UNEVEN, row), num_beams=beams)[0] for row in range(3)]
    assert torch.equal(tokens, torch.cat(alone))
    assert not torch.allclose(logits, unedited, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}], ids=["cache", "none", "beams"])
@pytest.mark.parametrize(
    ("positions", "phase", "message"),
    [
        ("all", "both", "picture house"),
        ("image", "both", "picture house"),
        ("image", "prefill", "picture house"),
        ("image", "decode", "picture star house"),
        ("text", "both", "picture star house"),
        ("last", "both", "picture star house"),
        ("all", "decode", "picture star house"),
    ],
)
def test_the_planted_neuron_speaks_at_the_pictures_positions_alone(
    planted: Planted, options: dict[str, Any], positions: Any, phase: Any, message: str
) -> None:
    model = planted.model
    assert isinstance(model, HuggingFaceMLLM)
    images = [picture("both", star=(1, 2, 6), house=(9, 10)).image, picture("house", house=(3,)).image]
    inputs = dict(model.teacher_forced(images, [(), ()]).inputs)
    with Edit(planted.star, Zero(), positions, phase).applied(model):
        tokens, _ = tiny.generated(model.module, inputs, n_new=4, **options)
    first, second = (model.tokenizer.decode(row, skip_special_tokens=True).split() for row in tokens)
    n_words = len(message.split())
    assert first[:n_words] == message.split()
    assert second[:2] == ["picture", "house"]


@pytest.mark.parametrize("positions", ["image", "text"])
def test_where_there_are_no_image_tokens_image_is_refused_and_text_is_everything(positions: Any) -> None:
    module, tokens = tiny.llama(), torch.tensor([[1, 5, 6, 7]])
    if positions == "image":
        refused = pytest.raises(LookupError, match=r"`positions=image` needs image tokens.*no `image_token_id`")
        with refused, edit("image", "both").applied(module):
            pass
        return
    with torch.no_grad(), edit("text", "both").applied(module):
        by_text = module(input_ids=tokens).logits
    with torch.no_grad(), edit("all", "both").applied(module):
        assert torch.equal(module(input_ids=tokens).logits, by_text)


@torch.no_grad()
def test_a_call_with_embeddings_instead_of_tokens_is_refused_even_after_one_with_tokens() -> None:
    module = tiny.llama()
    ids = torch.tensor([[1, 5, 6, 7]])
    embedded = module.get_input_embeddings()(ids)
    text = "4 positions and the embedding saw no tokens: edits by position need a model that is called with token ids"
    with edit("last", "both").applied(module):
        with pytest.raises(ValueError, match=text):
            module(inputs_embeds=embedded)
        module(input_ids=ids)
        with pytest.raises(ValueError, match=text):
            module(inputs_embeds=embedded)
    assert tiny.our_hooks(module) == []


@torch.no_grad()
def test_a_cache_that_was_filled_before_the_edit_is_refused() -> None:
    module = tiny.llama()
    past, tokens = DynamicCache(), torch.tensor([[1, 5, 6, 7, 8]])
    module(tokens[:, :4], None, None, past)
    refused = pytest.raises(ValueError, match="the cache held 4 columns before the edit began")
    with refused, edit("last", "both").applied(module):
        module(tokens[:, 4:], None, None, past)


def test_a_model_without_a_token_embedding_cannot_tell_positions() -> None:
    with pytest.raises(LookupError, match="Plain has no token embedding, so positions cannot be told; use `all`"):
        edit("last", "both").applied(tiny.plain()).__enter__()


@torch.no_grad()
def test_a_position_edit_that_begins_a_new_sequence_forgets_the_old_prompt() -> None:
    module = tiny.llama()
    first, second = torch.tensor([[1, 5, 6, 7]]), torch.tensor([[1, 8, 9, 10, 11, 12]])
    with edit("last", "both").applied(module):
        alone = module(input_ids=second).logits
    with edit("last", "both").applied(module):
        module(input_ids=first)
        assert torch.equal(module(input_ids=second).logits, alone)


class Held:
    """Stands for a cache: it tells how many columns it holds."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def follow(
    *calls: tuple[list[list[int]], int | None], mask: list[list[int]] | None = None, **asked: Any
) -> list[list[int]]:
    """Return the columns that a `Span` acts on in the first row of each call.

    A call is given as its tokens, and how many columns its cache holds; None without a cache.
    """
    span, columns = Sequence(tiny.IMAGE_TOKEN), []
    for tokens, start in calls:
        span.saw_tokens(torch.tensor(tokens))
        span.saw_call(
            () if start is None else (Held(start),), {"attention_mask": None if mask is None else torch.tensor(mask)}
        )
        found = span.where(asked["positions"], asked["phase"], torch.tensor(tokens).numel())
        columns.append((found[0].nonzero().squeeze(1) + (start or 0)).tolist())
    return columns


@pytest.mark.parametrize(
    ("positions", "phase", "expected"),
    [
        ("all", "both", [[0, 1, 2, 3], [4], [5]]),
        ("image", "both", [[1, 2], [], []]),
        ("text", "both", [[0, 3], [4], [5]]),
        ("image_end", "both", [[3], [], []]),
        ("last", "both", [[3], [4], [5]]),
        ("last", "prefill", [[3], [], []]),
        ("last", "decode", [[], [4], [5]]),
        ("text", "decode", [[], [4], [5]]),
    ],
)
def test_columns_of_a_cached_generation_are_counted_from_its_start(positions, phase, expected) -> None:
    calls = (([[1, 4, 4, 7]], 0), ([[8]], 4), ([[9]], 5))
    assert follow(*calls, positions=positions, phase=phase) == expected


def test_columns_of_a_generation_without_a_cache_keep_their_age() -> None:
    calls = (([[1, 4, 4, 7]], None), ([[1, 4, 4, 7, 8]], None), ([[1, 4, 4, 7, 8, 9]], None))
    assert follow(*calls, positions="last", phase="both") == [[3], [3, 4], [3, 4, 5]]
    assert follow(*calls, positions="all", phase="decode") == [[], [4], [4, 5]]


def test_a_generation_that_begins_with_an_empty_cache_continues_none() -> None:
    calls = (([[1, 4, 4, 7]], 0), ([[1, 4, 4, 7, 8]], 0))
    assert follow(*calls, positions="last", phase="both") == [[3], [4]]
    assert follow(*calls, positions="all", phase="decode") == [[], []]


@torch.no_grad()
@pytest.mark.parametrize(("positions", "phase"), [("last", "both"), ("all", "decode"), ("all", "prefill")])
def test_what_a_model_wrote_may_be_its_next_prompt(positions: Any, phase: Any) -> None:
    module, ids = tiny.llama(), torch.tensor([[1, 5, 6, 7, 8, 9, 10]])
    how = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with edit(positions, phase).applied(module):
        alone = module.generate(ids, **how).logits
    with edit(positions, phase).applied(module):
        module.generate(ids[:, :6], **{**how, "max_new_tokens": 1})
        again = module.generate(ids, **how).logits
    assert all(torch.equal(*both) for both in zip(alone, again, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("family", ["gemma3", "paligemma", "llava"])
def test_the_last_token_of_a_right_padded_prompt_is_no_padding_whatever_mask_the_decoder_gets(family: str) -> None:
    model = tiny_of(family)
    prompts = [Prompt(text, picture(0).image) for text in ("what is it?", "what?")]
    left, mask = model.encode(prompts), model.encode(prompts)["attention_mask"]
    right = {
        name: torch.stack([row.roll(-int((kept == 0).sum()), 0) for row, kept in zip(one, mask, strict=True)])
        if one.shape[:2] == mask.shape
        else one
        for name, one in left.items()
    }
    some = Edit(NeuronSet.of({layer: range(0, 24, 2) for layer in model.site("mid").blocks}), Scale(-2.0), "last")
    with some.applied(model):
        padded = model.module(**right).logits
    for row, prompt in enumerate(prompts):
        with some.applied(model):
            alone = model.module(**model.encode([prompt])).logits[0]
        torch.testing.assert_close(padded[row, : len(alone)], alone, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_a_mask_that_does_not_tell_padding_is_refused_where_the_last_token_is_edited() -> None:
    module, ids = tiny.llama(), torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match="a mask that does not tell padding"), edit("last", "both").applied(module):
        module(input_ids=ids, attention_mask=mask)
    for positions, phase in (("text", "both"), ("all", "prefill"), ("all", "decode")):
        with edit(positions, phase).applied(module):
            module(input_ids=ids, attention_mask=mask)
    with edit("last", "both").applied(module):
        module(input_ids=ids[:1], attention_mask=mask[:1])


@pytest.mark.parametrize(
    ("row", "expected"),
    [("t i i t t", [3]), ("i i t t i i t", [2, 6]), ("i i r i i e t", [5]), ("t i i", []), ("t t", [])],
    ids=["one picture", "two", "rows that end within one", "nothing behind it", "none"],
)
def test_what_is_right_behind_a_picture(row: str, expected: list[int]) -> None:
    images = torch.tensor([[one == "i" for one in row.split()]])
    assert behind_pictures(images)[0].nonzero().flatten().tolist() == expected


def test_behind_a_picture_that_ends_the_prompt_is_the_first_word_with_and_without_a_cache() -> None:
    asked = {"positions": "image_end", "phase": "both"}
    assert follow(([[1, 4, 4]], 0), ([[8]], 3), ([[9]], 4), **asked) == [[], [3], []]
    assert follow(([[1, 4, 4]], None), ([[1, 4, 4, 8]], None), ([[1, 4, 4, 8, 9]], None), **asked) == [[], [3], [3]]


NO_END = "so that the prompt's end is unknown: generate without that, or edit at `positions` all, image or text in"
HIDDEN = [
    ({"attention_mask": torch.ones(1, 5, dtype=torch.long)}, "with 1 columns without a cache and a mask of 5"),
    ({"position_ids": torch.tensor([[4]])}, "with 1 columns without a cache whose positions begin at 4"),
    ({}, "with 1 column without a cache, a mask or positions, after a call of 4"),
    ({"past": Held(4), "attention_mask": torch.ones(1, 9, dtype=torch.long)}, "behind 4 cached ones and a mask of 9"),
]


@pytest.mark.parametrize(("content", "why"), HIDDEN, ids=["mask", "positions", "nothing", "longer mask"])
@pytest.mark.parametrize(("positions", "phase"), WHERE)
def test_where_nothing_tells_how_many_columns_came_before_an_edit_that_needs_it_is_refused(
    content: dict[str, Any], why: str, positions: Any, phase: Any
) -> None:
    span = Sequence(tiny.IMAGE_TOKEN)
    for tokens, kwargs in (([[1, 4, 4, 7]], {}), ([[8]], content)):
        span.saw_tokens(torch.tensor(tokens))
        span.saw_call((), kwargs)
        if len(tokens[0]) == 4:
            span.where(positions, phase, 4)
    if positions in ("last", "image_end") or phase != "both":
        with pytest.raises(ValueError, match=f"{why}, {NO_END}"):
            span.where(positions, phase, 1)
    else:
        assert span.where(positions, phase, 1).tolist() == [[positions != "image"]]


@pytest.mark.parametrize("kwargs", [{"attention_mask": torch.ones(1, 1)}, {"position_ids": torch.tensor([[0]])}, {}])
def test_a_prompt_of_one_token_is_a_prompt(kwargs: dict[str, Any]) -> None:
    span = Sequence(tiny.IMAGE_TOKEN)
    span.saw_tokens(torch.tensor([[8]]))
    span.saw_call((), kwargs)
    assert span.where("last", "prefill", 1).tolist() == [[True]]


def test_two_caches_of_different_lengths_are_refused() -> None:
    span = Sequence(None)
    with pytest.raises(ValueError, match=r"caches of \[3, 4\] columns: edit at all positions"):
        span.saw_call((Held(3),), {"other": Held(4)})


@torch.no_grad()
def test_sequences_that_are_packed_into_one_row_have_no_prompts_end() -> None:
    module, packed = tiny.llama(), {"input_ids": torch.tensor([[1, 5, 6, 1, 7, 8]])}
    packed["position_ids"] = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with pytest.raises(ValueError, match="positions begin anew within a row"), edit("last", "both").applied(module):
        module(**packed)
    with edit("text", "both").applied(module):
        assert module(**packed).logits.isfinite().all()


def test_positions_in_three_axes_are_told_to_begin_anew_as_well() -> None:
    span, numbers = Sequence(None), torch.tensor([0, 1, 2, 3, 0, 1, 2]).expand(3, 1, 7)
    span.saw_tokens(torch.arange(1, 8)[None])
    span.saw_call((), {"position_ids": numbers})
    with pytest.raises(ValueError, match="positions begin anew within a row"):
        span.where("last", "both", 7)


def test_transformers_tells_a_cache_by_its_length() -> None:
    """What `kedit.internals.positions` relies on."""
    grown, states = DynamicCache(), torch.zeros(1, 2, 3, 4)
    both = EncoderDecoderCache(grown, DynamicCache())
    assert isinstance(both, Cache) and grown.get_seq_length() == both.get_seq_length() == 0
    grown.update(states, states, 0)
    assert grown.get_seq_length() == both.get_seq_length() == 3


@pytest.mark.parametrize("build", [tiny.llama, tiny.gpt2, tiny.opt, tiny.gpt_neox, tiny.qwen2, tiny.gemma2, tiny.phi3])
def test_generate_hands_the_decoder_its_cache_as_an_argument(build: Any) -> None:
    """What `kedit.internals.positions` relies on."""
    module, held = build(), []
    inputs = {key: UNEVEN[key] for key in ("input_ids", "attention_mask")}

    def see(args: Any, kwargs: Any) -> None:
        held.extend(int(one.get_seq_length()) for one in (*args, *kwargs.values()) if isinstance(one, Cache))

    with before(module, decoder_path(module), see):
        tiny.generated(module, inputs)
    assert held == [0, *range(inputs["input_ids"].shape[1], inputs["input_ids"].shape[1] + N_NEW - 1)]


def test_the_last_prompt_token_of_a_right_padded_row_is_its_last_real_one() -> None:
    calls = (([[1, 5, 0, 0], [1, 5, 6, 7]], 0),)
    assert follow(*calls, mask=[[1, 1, 0, 0], [1, 1, 1, 1]], positions="last", phase="prefill") == [[1, 2, 3]]


def test_following_leaves_no_hook_when_the_body_fails() -> None:
    module = tiny.llama()
    with pytest.raises(KeyboardInterrupt), following(module, None):
        assert len(tiny.our_hooks(module)) == 3
        raise KeyboardInterrupt
    assert tiny.our_hooks(module) == []


def test_an_edit_that_acts_nowhere_in_the_sequence_warns_of_nothing() -> None:
    with warnings.catch_warnings(), edit("image", "decode").applied(llava()):
        warnings.simplefilter("error")
        tiny.generated(llava(), PROMPTS, n_new=2)


# --- an encoder and a decoder


OF_T5 = {"input_ids": torch.tensor([[5, 6, 7, 8, 13], [0, 0, 9, 10, 2]]),
         "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])}  # fmt: skip
OF_BOTH = NeuronSet(tuple(NeuronId(layer, i) for layer in range(2 * tiny.LAYERS) for i in range(0, tiny.NEURONS, 3)))
CODED = [
    ("all", "prefill", [0, 1, 2, 3, 4], False),
    ("all", "decode", [], True),
    ("text", "both", [0, 1, 2, 3, 4], True),
    ("last", "both", [4], True),
    ("last", "prefill", [4], False),
    ("last", "decode", [], True),
]
"""Where an edit acts: the columns of the encoder, and whether it acts in the decoder."""


@cache
def t5() -> Any:
    return tiny_families.t5()


@pytest.mark.parametrize(("positions", "phase", "columns", "decodes"), CODED)
@torch.no_grad()
def test_a_decoders_columns_continue_behind_its_encoders(
    positions: Any, phase: Any, columns: list[int], decodes
) -> None:
    inputs = OF_T5 | {"decoder_input_ids": torch.tensor([[0, 5, 6], [0, 7, 8]])}
    scale = torch.ones(tiny.NEURONS)
    scale[::3] = -3.0
    here = torch.zeros(5, 1, dtype=torch.bool)
    here[columns] = True
    masks = {"encoder": here, "decoder": torch.full((3, 1), decodes)}
    handles = []
    for path, one in t5().named_modules():
        if path.endswith("wo"):
            mask = masks[path.split(".")[0]]
            handles.append(
                one.register_forward_pre_hook(
                    lambda module, args, mask=mask: (torch.where(mask, args[0] * scale, args[0]),)
                )
            )
    expected = t5()(**inputs).logits
    for handle in handles:
        handle.remove()
    with Edit(OF_BOTH, Scale(-3.0), positions, phase).applied(t5()):
        assert torch.equal(t5()(**inputs).logits, expected)
    assert not torch.equal(t5()(**inputs).logits, expected)


@pytest.mark.parametrize(("positions", "phase"), [one[:2] for one in CODED])
def test_an_encoder_decoder_is_edited_alike_with_and_without_a_cache_and_padding(positions: Any, phase: Any) -> None:
    # In single precision a change of the weights by 6e-8 of themselves, a rounding, moves an edited logit by 1e-3.
    module = tiny_families.t5().double()
    plain, _ = tiny.generated(module, OF_T5)
    with Edit(OF_BOTH, Scale(-3.0), positions, phase).applied(module):
        cached, logits = tiny.generated(module, OF_T5)
        whole, whole_logits = tiny.generated(module, OF_T5, use_cache=False)
        beams, _ = tiny.generated(module, OF_T5, num_beams=3)
        alone = {key: value[1:, 2:] for key, value in OF_T5.items()}
        tokens, _ = tiny.generated(module, alone)
        beams_alone, _ = tiny.generated(module, alone, num_beams=3)
    assert torch.equal(cached, whole) and torch.equal(cached[1:], tokens) and torch.equal(beams[1:], beams_alone)
    assert not torch.equal(cached, plain)
    torch.testing.assert_close(logits, whole_logits)


@pytest.mark.parametrize("positions", ["image", "text", "image_end", "last"])
def test_an_encoder_that_reads_a_picture_is_edited_at_its_positions(positions: Any) -> None:
    module = tiny_families.blip2_t5()
    _, unedited = tiny.generated(module, UNEVEN)
    with Edit(OF_BOTH, Scale(-3.0), positions).applied(module):
        cached, logits = tiny.generated(module, UNEVEN)
        whole, _ = tiny.generated(module, UNEVEN, use_cache=False)
        alone = [tiny.generated(module, tiny.row_of(UNEVEN, row))[0] for row in range(3)]
        beams, _ = tiny.generated(module, UNEVEN, num_beams=3)
        beams_alone = [tiny.generated(module, tiny.row_of(UNEVEN, row), num_beams=3)[0] for row in range(3)]
    assert torch.equal(cached, whole) and torch.equal(cached, torch.cat(alone))
    assert torch.equal(beams, torch.cat(beams_alone))
    assert not torch.allclose(logits, unedited, atol=1e-3)


def test_an_encoder_that_reads_a_longer_text_with_the_same_beginning_starts_anew() -> None:
    longer = {"input_ids": torch.tensor([[5, 6, 7, 8, 13, 14]]), "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    shorter = {key: value[:, :5] for key, value in longer.items()}
    with Edit(OF_BOTH, Scale(-3.0), "last").applied(t5()):
        alone, _ = tiny.generated(t5(), longer)
    with Edit(OF_BOTH, Scale(-3.0), "last").applied(t5()):
        tiny.generated(t5(), shorter)
        assert torch.equal(tiny.generated(t5(), longer)[0], alone)


# --- other ways to generate


GUESSED = {
    "input_ids": torch.tensor([[1, 5, 6, 7, 5, 6, 7, 5, 6]]),
    "attention_mask": torch.ones(1, 9, dtype=torch.long),
}


def guessing(way: str) -> dict[str, Any]:
    """Return the options of a way of writing in which several columns go through the model behind cached ones."""
    if way == "assisted":
        return {"assistant_model": tiny.llama(seed=1)}
    return {"prompt_lookup_num_tokens": 3} if way == "lookup" else {"prefill_chunk_size": 4}


@pytest.mark.parametrize("way", ["assisted", "lookup", "parts"])
@pytest.mark.parametrize(("positions", "phase"), [one for one in WHERE if not one[0].startswith("image")])
def test_several_columns_at_once_are_edited_as_one_after_the_other_or_refused(
    positions: Any, phase: Any, way: str
) -> None:
    module = tiny.llama()
    plain, _ = tiny.generated(module, GUESSED, n_new=8)
    if positions == "last" or phase != "both":
        refused = pytest.raises(ValueError, match=r"prompt's end is unknown.*`positions` all, image or text in phase")
        with refused, edit(positions, phase).applied(module):
            tiny.generated(module, GUESSED, n_new=8, **guessing(way))
        return
    with edit(positions, phase).applied(module):
        one_by_one, _ = tiny.generated(module, GUESSED, n_new=8)
        guessed, _ = tiny.generated(module, GUESSED, n_new=8, **guessing(way))
    assert torch.equal(guessed, one_by_one) and not torch.equal(guessed, plain)


def test_what_the_model_as_a_whole_is_asked_for_is_known_whatever_stands_between() -> None:
    span, ids = Sequence(None), torch.tensor([[1, 5, 6, 0]])
    span.saw_model((), {"input_ids": ids, "logits_to_keep": 3, "attention_mask": (ids > 0).long()})
    span.saw_model((), {"input_ids": ids})
    span.saw_tokens(ids)
    span.saw_call((Held(0),), {})
    with pytest.raises(ValueError, match="as for guesses, so that"):
        span.where("last", "both", 4)
    span.saw_model((), {"input_ids": ids, "attention_mask": (ids > 0).long()})
    span.saw_model((), {"input_ids": ids})
    span.saw_tokens(ids)
    span.saw_call((Held(0),), {})
    assert span.where("last", "both", 4).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("n_new", [2, 3])
def test_guesses_that_end_an_answer_in_the_first_round_are_refused_as_well(n_new: int) -> None:
    module = tiny.llama()
    with pytest.raises(ValueError, match="as for guesses, so that"), edit("last", "both").applied(module):
        tiny.generated(module, GUESSED, n_new=n_new, assistant_model=tiny.llama())


@pytest.mark.parametrize("positions", ["image", "text", "image_end", "last"])
def test_a_model_that_counts_positions_in_three_axes_is_edited_alike_from_a_cache_and_padded(positions: Any) -> None:
    module = tiny_families.qwen2_5_vl()
    rows = ([8, 5, 6, 10], [11])
    inputs = tiny_families.qwen_prompt(*rows)
    plain, _ = tiny.generated(module, inputs)
    with edit(positions, "both").applied(module):
        cached, logits = tiny.generated(module, inputs)
        whole, whole_logits = tiny.generated(module, inputs, use_cache=False)
        alone = {key: value[1:, 3:] for key, value in inputs.items() if value.shape == inputs["input_ids"].shape}
        alone |= {"pixel_values": inputs["pixel_values"][16:], "image_grid_thw": inputs["image_grid_thw"][1:]}
        tokens, _ = tiny.generated(module, alone)
        again, _ = tiny.generated(module, inputs)
    assert torch.equal(cached, whole) and torch.equal(cached[1:], tokens) and torch.equal(cached, again)
    assert not torch.equal(cached, plain)
    torch.testing.assert_close(logits, whole_logits, atol=5e-5, rtol=1e-3)


@pytest.mark.parametrize(("positions", "wanted"), [("image", [1, 2, 3]), ("text", [0, 4, 5, 6, 7]), ("image_end", [4])])
def test_image_tokens_are_known_where_the_model_embeds_padding_in_their_place(
    positions: Any, wanted: list[int]
) -> None:
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 2, "num_key_value_heads": 1, "global_head_dim": 8, "num_kv_shared_layers": 0,
             "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 64, "pad_token_id": 0, "eos_token_id": 1,
             "bos_token_id": 2, "layer_types": ["full_attention"] * 2}  # fmt: skip
    marks = {"image_token_id": 50, "video_token_id": 51, "audio_token_id": 52, "boi_token_id": 53, "eoi_token_id": 54}
    config = Gemma4Config(text_config=sizes, vision_config=None, audio_config=None, **marks)
    module = tiny.seeded(lambda: Gemma4ForConditionalGeneration(config))
    ids = torch.tensor([[2, 50, 50, 50, 54, 7, 8, 9]])
    every = NeuronSet(tuple(NeuronId(layer, index) for layer in range(2) for index in range(24)))
    with Edit(every, Zero(), positions=positions).applied(module), record(module, Site.of(module, "mid")) as seen:
        module(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids))
    assert (seen[0].reshape(8, -1).abs().sum(-1) == 0).nonzero().flatten().tolist() == wanted
