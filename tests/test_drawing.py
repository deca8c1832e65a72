"""Models that draw: one picture in any batch, edits as in edited weights, drawings read again as they were drawn."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image
from test_gill import FOLDER, PARTS
from torch import Tensor, nn
from transformers import GenerationConfig

from kedit.doctor.diagnose import diagnose
from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.internals.hooks import intervene, record
from kedit.models import drawing
from kedit.models.drawing import Drawings, TokenDrawer, drawer
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, PADDING, TEXT
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from tests.tiny import our_hooks
from tests.tiny_diffusion import text_to_image

FAMILIES = ("janus", "emu3")
ASKED = ("a yellow star and a blue circle", "a dog")
"""Of different lengths, so that one of them is padded."""
EVEN = NeuronSet(tuple(NeuronId(layer, index) for layer in range(3) for index in range(0, 24, 2)))
NEAR = 1e-5


@cache
def built(family: str) -> TokenDrawer:
    found = drawer(tiny(family))
    assert isinstance(found, TokenDrawer)
    return found


@cache
def drawn(family: str) -> Drawings:
    """Return drawings without guidance, sharp enough for codes to depend on the prompt."""
    return built(family).draw(ASKED, seed=3, temperature=0.3, guidance=1)


@pytest.fixture(params=FAMILIES)
def one(request: pytest.FixtureRequest) -> TokenDrawer:
    return built(request.param)


def family_of(one: TokenDrawer) -> str:
    return next(name for name in FAMILIES if built(name) is one)


def watched(one: TokenDrawer, draw: Callable[[], Any]) -> dict[int, Tensor]:
    """Return each layer's activations at all columns, `[row, pos, neuron]`, seen while `draw` is called."""
    seen: dict[int, list[Tensor]] = {}

    def watch(layer: int) -> Callable[[Tensor], None]:
        return lambda activation: seen.setdefault(layer, []).append(activation.detach())

    with intervene(one.model.module, one.model.site(), {layer: watch(layer) for layer in range(3)}):
        draw()
    return {layer: torch.cat(parts, dim=1) for layer, parts in seen.items()}


# --- drawing


def test_a_drawing_has_a_code_for_each_cell_and_the_picture_of_its_codes(one: TokenDrawer) -> None:
    found = one.draw(ASKED, seed=0)
    assert (one.grid, one.codebook) == ((4, 4), 16)
    assert found.prompts == ASKED and found.seed == 0 and len(found) == 2
    assert found.codes.shape == (2, 16) and found.codes.dtype == torch.long
    assert [picture.mode for picture in found.images] == ["RGB", "RGB"]
    assert [picture.size for picture in found.images] == [(8, 8) if family_of(one) == "janus" else (32, 32)] * 2
    assert [*map(Image.Image.tobytes, one.decode(found.codes))] == [*map(Image.Image.tobytes, found.images)]
    assert found.images[0].tobytes() != found.images[1].tobytes()


def test_a_prompt_and_a_seed_draw_the_same_whatever_is_drawn_beside_it(one: TokenDrawer) -> None:
    together = one.draw([*ASKED, *ASKED, "a cat"], seed=3)
    assert torch.equal(together.codes[:2], together.codes[2:4])
    assert torch.equal(one.draw(ASKED[1], seed=3).codes[0], together.codes[1])
    assert torch.equal(one.draw(ASKED[::-1], seed=3).codes.flip(0), together.codes[:2])
    assert not torch.equal(one.draw(ASKED, seed=4).codes, together.codes[:2])
    small = TokenDrawer(replace(one.model, batch_size=1), one.family)
    assert torch.equal(small.draw(ASKED, seed=3).codes, together.codes[:2])


def test_drawing_takes_no_random_number_of_the_process_and_leaves_no_hook(one: TokenDrawer) -> None:
    before = torch.random.get_rng_state()
    one.draw("a dog", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert our_hooks(one.model.module) == []


def test_nothing_asked_is_nothing_drawn(one: TokenDrawer) -> None:
    found = one.draw([], seed=0)
    assert (found.images, found.codes.shape) == ((), (0, 16))
    assert one.encode([]).shape == (0, 16)


def test_codes_are_drawn_as_often_as_they_are_likely() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).expand(20000, 4)
    for temperature in (0.5, 1.0, 2.0):
        noise = [drawing._generator("", seed) for seed in range(len(scores))]
        counts = torch.bincount(drawing._chosen(scores, temperature, noise), minlength=4) / len(scores)
        wanted = (scores[0] / temperature).softmax(-1)
        assert ((counts - wanted).abs() < 4 * (wanted * (1 - wanted) / len(scores)).sqrt()).all()
    assert drawing._chosen(scores, 0, []).unique().tolist() == [2]


# Without guidance its own `generate` (transformers 5.24) fails: it doubles the rows all the same.
@pytest.mark.parametrize("guidance", [2.0, 5.0])
def test_janus_draws_greedily_what_its_own_generate_draws(guidance: float) -> None:
    one, prompt = built("janus"), ASKED[0]
    module: Any = one.model.module
    tokenizer, processor = one.model.tokenizer, one.model.processor
    chat = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    how = GenerationConfig(
        guidance_scale=guidance, do_sample=False, max_length=200, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        generation_kwargs={"boi_token_id": tokenizer.boi_token_id},
    )  # fmt: skip
    inputs = processor(text=text, generation_mode="image", return_tensors="pt")
    codes = module.generate(**inputs, generation_mode="image", generation_config=how)
    found = one.draw(prompt, seed=0, temperature=0, guidance=guidance)
    assert torch.equal(found.codes, codes)
    pixels = module.decode_image_tokens(codes).permute(0, 3, 1, 2)  # the processor without torchvision wants it so
    painted = processor.postprocess(list(pixels), return_tensors="PIL.Image.Image")
    assert found.images[0].tobytes() == painted["pixel_values"][0].tobytes()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_emu3_draws_greedily_what_its_own_generate_draws(guidance: float) -> None:
    one, prompt = built("emu3"), ASKED[0]
    module: Any = one.model.module
    processor, mapping = one.model.processor, one.model.module.vocabulary_mapping  # type: ignore[attr-defined]
    inputs = processor(text=[prompt], return_for_image_generation=True, return_tensors="pt")
    empty = processor(text=[""], return_for_image_generation=True, return_tensors="pt")
    (height, width), n_prompt = inputs.pop("image_sizes")[0], inputs["input_ids"].shape[1]

    def allowed(row: int, ids: Tensor) -> list[int]:
        behind = len(ids) - n_prompt
        return [mapping.eol_token_id] if behind % (width + 1) == width else mapping.image_tokens

    guided = {"guidance_scale": guidance, "negative_prompt_ids": empty["input_ids"]} if guidance != 1 else {}
    written = module.generate(
        **inputs, do_sample=False, prefix_allowed_tokens_fn=allowed, max_new_tokens=height * (width + 1), **guided
    )[:, n_prompt:]
    found = one.draw(prompt, seed=0, temperature=0, guidance=guidance)
    assert torch.equal(found.codes, mapping.convert_bpe2img(written.view(1, height, width + 1)).flatten(1).long())
    ends = torch.zeros(1, 3, dtype=torch.long)  # the marks behind a picture, which it leaves out
    pixels = module.decode_image_tokens(image_tokens=torch.cat([written, ends], dim=1), height=height, width=width)
    assert found.images[0].tobytes() == processor.postprocess(list(pixels))["pixel_values"][0].tobytes()


def test_guidance_leads_away_from_the_drawing_without_a_prompt(one: TokenDrawer) -> None:
    plain, twice, thrice = (next(one.steps(ASKED, seed=0, guidance=strength)).scores for strength in (1, 2, 3))
    torch.testing.assert_close(thrice - twice, twice - plain, rtol=0, atol=NEAR)
    without = 2 * plain - twice
    # The prompts differ, and what is left of them without their words does not.
    assert (plain[0] - plain[1]).abs().max() > 1e-2
    if family_of(one) == "emu3":
        torch.testing.assert_close(without[0], without[1], rtol=0, atol=NEAR)


# --- edits


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_drawing_under_an_edit_is_that_of_weights_edited_by_hand(one: TokenDrawer, guidance: float) -> None:
    how: dict[str, Any] = {"seed": 5, "temperature": 0.3, "guidance": guidance}
    by_hand = tiny(family_of(one))
    with torch.no_grad():
        for layer, block in by_hand.site().blocks.items():
            weight = by_hand.module.get_submodule(block.output).weight
            weight[:, [neuron.index for neuron in EVEN if neuron.layer == layer]] = 0  # type: ignore[index]
    plain, wanted = one.draw(ASKED, **how), drawer(by_hand).draw(ASKED, **how)
    with Edit(EVEN, Zero()).applied(one.model):
        edited = one.draw(ASKED, **how)
    assert torch.equal(edited.codes, wanted.codes)
    assert not torch.equal(edited.codes, plain.codes)
    assert [*map(Image.Image.tobytes, edited.images)] == [*map(Image.Image.tobytes, wanted.images)]
    assert torch.equal(one.draw(ASKED, **how).codes, plain.codes)
    with Edit(EVEN, Scale(1.0)).applied(one.model):
        assert torch.equal(one.draw(ASKED, **how).codes, plain.codes)


def test_what_is_drawn_is_image_positions_and_decoding_and_the_prompt_is_neither(one: TokenDrawer) -> None:
    def scores(**where: Any) -> Tensor:
        with Edit(EVEN, Zero(), **where).applied(one.model) if where else nullcontext():
            return torch.stack([step.scores for step in one.steps(ASKED, seed=0, temperature=0, guidance=2)])

    plain, image, decode = scores(), scores(positions="image"), scores(phase="decode")
    text, prefill = scores(positions="text"), scores(phase="prefill")
    assert torch.equal(image, decode) and torch.equal(text, prefill)
    assert torch.equal(image[0], plain[0]) and not torch.equal(image[1], plain[1])
    assert not torch.equal(text[0], plain[0])


# --- reading a drawing again


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_teacher_forced_pass_sees_each_neuron_as_it_was_while_drawing(one: TokenDrawer, guidance: float) -> None:
    found: list[Drawings] = []
    how: dict[str, Any] = {"seed": 3, "guidance": guidance}
    seen = watched(one, lambda: found.append(one.draw(ASKED, **how)))
    forced = one.teacher_forced(found[0])
    with torch.no_grad(), record(one.model.module, one.model.site()) as again:
        forced.states()
    real = forced.mask.bool()
    for layer, activation in again.items():
        assert (
            activation.shape[:2] == forced.token_types.shape == seen[layer].shape[:1] + real.shape[1:] or guidance != 1
        )
        torch.testing.assert_close(activation[real], seen[layer][: len(ASKED)][real], rtol=0, atol=NEAR)


def test_the_log_probabilities_of_codes_are_those_that_they_were_drawn_from(one: TokenDrawer) -> None:
    steps = [*one.steps(ASKED, seed=3, temperature=0.3, guidance=1)]
    forced = one.teacher_forced(drawn(family_of(one)))
    codes = torch.stack([step.codes for step in steps], dim=1)
    assert torch.equal(forced.codes, codes)
    scores = torch.stack([step.scores for step in steps], dim=1)
    wanted = scores.log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    with torch.no_grad():
        torch.testing.assert_close(forced.logits(), scores, rtol=0, atol=NEAR)
        torch.testing.assert_close(forced.log_probs(), wanted, rtol=0, atol=NEAR)
        torch.testing.assert_close(forced.log_probs(forced.states()), wanted, rtol=0, atol=NEAR)


def test_a_padded_pass_reads_what_each_drawing_alone_reads(one: TokenDrawer) -> None:
    found = drawn(family_of(one))
    with torch.no_grad():
        together = one.teacher_forced(found).log_probs()
        alone = torch.cat([one.teacher_forced(found[row : row + 1]).log_probs() for row in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=NEAR)


def test_a_pass_says_what_each_column_holds(one: TokenDrawer) -> None:
    forced = one.teacher_forced(drawn(family_of(one)))
    n_prompt = forced.columns[0] + 1
    assert (forced.token_types[:, n_prompt:] == IMAGE).all()
    assert ((forced.token_types[:, :n_prompt] == TEXT) == forced.prompt[:, :n_prompt]).all()
    assert (forced.token_types == PADDING).any(1).tolist() == [False, True]
    rows = torch.tensor(forced.columns).view(4, 4)
    assert (rows[:, 1:] - rows[:, :-1] == 1).all()
    # A word for the end of a row is between two rows of Emu3.
    assert (rows[1:, 0] - rows[:-1, -1] == (2 if family_of(one) == "emu3" else 1)).all()
    assert forced.columns[-1] == forced.token_types.shape[1] - 1


def test_a_code_depends_on_those_before_it_alone(one: TokenDrawer) -> None:
    found = drawn(family_of(one))
    codes = found.codes.clone()
    codes[:, 6] = (codes[:, 6] + 1) % 16
    with torch.no_grad():
        was, now = (one.teacher_forced(replace(found, codes=some)).logits() for some in (found.codes, codes))
    assert torch.equal(was[:, :7], now[:, :7])
    assert ((was[:, 7:] - now[:, 7:]).abs().amax((0, 2)) > 0).all()


def test_gradients_of_a_region_reach_the_neurons_of_each_layer_up_to_the_region(one: TokenDrawer) -> None:
    forced, region = one.teacher_forced(drawn(family_of(one))), [5, 6, 9]
    with record(one.model.module, one.model.site(), differentiable=True) as activations:
        target = forced.log_probs()[:, region].sum()
    found = torch.autograd.grad(target, list(activations.values()))
    last = forced.columns[region[-1]]
    for gradient in found:
        assert (gradient[:, last].abs().amax(-1) > 0).all()
        assert not gradient[:, last + 1 :].any()


def test_an_edit_acts_on_the_pass_as_on_the_drawing(one: TokenDrawer) -> None:
    with Edit(EVEN, Zero(), "image").applied(one.model), torch.no_grad():
        steps = [*one.steps(ASKED, seed=1, guidance=1)]
        codes = torch.stack([step.codes for step in steps], dim=1)
        forced = one.teacher_forced(Drawings(ASKED, (), codes, 1))
        torch.testing.assert_close(forced.logits(), torch.stack([step.scores for step in steps], 1), rtol=0, atol=NEAR)


def test_the_unembedding_scores_the_codes_where_the_head_is_linear() -> None:
    assert built("janus").unembedding is None
    one = built("emu3")
    assert one.unembedding is not None and one.unembedding.shape == (16, 16)
    forced = one.teacher_forced(drawn("emu3"))
    with torch.no_grad():
        states = forced.states()
        torch.testing.assert_close(forced.logits(states), states @ one.unembedding.T, rtol=0, atol=NEAR)
        whole = one.model.module.get_output_embeddings()(states)  # type: ignore[operator]
        torch.testing.assert_close(whole[..., one.family.tokens], forced.logits(states), rtol=0, atol=NEAR)  # type: ignore[attr-defined]


# --- the VQ tokenizer


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = torch.randint(0, 256, (*size, 3), generator=torch.Generator().manual_seed(7)).to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def test_janus_encodes_as_its_own_codec_does_where_the_entries_are_of_one_length() -> None:
    one = drawer(model := tiny("janus"))
    codec = model.module.model.vqmodel  # type: ignore[union-attr]
    entries, images = codec.quantize.embedding, [noise((8, 8)), noise((40, 40))]
    before, painted = one.encode(images), one.decode(one.encode(images))
    with torch.no_grad():
        entries.weight.copy_(nn.functional.normalize(entries.weight, dim=-1))
    # The length of an entry is nothing to what is decoded, and so to what is encoded.
    assert torch.equal(one.encode(images), before)
    assert [*map(Image.Image.tobytes, one.decode(before))] == [*map(Image.Image.tobytes, painted)]
    pixels = model.processor.image_processor(images, size={"height": 8, "width": 8}, return_tensors="pt")
    assert torch.equal(codec.encode(pixels["pixel_values"], return_dict=True).image_tokens.view(2, 16), before)
    assert len(before.unique()) > 1


def test_emu3_encodes_as_it_reads_pictures() -> None:
    one = built("emu3")
    module: Any = one.model.module
    images = [noise((32, 32)), noise((32, 32)).rotate(90)]
    seen = one.model.processor.image_processor(images, return_tensors="pt")
    tokens = module.model.get_image_tokens(**seen).view(2, 4, 5)
    assert torch.equal(one.encode(images), module.vocabulary_mapping.convert_bpe2img(tokens).flatten(1).long())
    assert one.encode(noise((100, 50))).shape == (1, 16)
    assert len(one.encode(images).unique()) > 1


# --- what is refused


@pytest.mark.parametrize("family", ["llava", "bert", "gpt2", "t5"])
def test_a_model_that_draws_nothing_says_so_in_one_line(family: str) -> None:
    with pytest.raises(ValueError, match=r"^`tiny-\w+` \(\w+\) draws no pictures; models that do are Janus, Emu3 and"):
        drawer(tiny(family))


def test_a_bare_module_is_no_model() -> None:
    with pytest.raises(TypeError, match="`model` is a model with its processor, as `load` and `wrap` return, got Lin"):
        drawer(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": 3}, "`prompts` is a list of texts, got int 3"),
        ({"prompts": ["a", None]}, "`prompts` is a list of texts, got NoneType"),
        ({"seed": 0.5}, "`seed` is a whole number, 0 or more, got float 0.5"),
        ({"seed": -1}, "`seed` is 0 or more, got -1"),
        ({"temperature": -0.5}, "`temperature` is a number, 0 or more, got -0.5"),
        ({"temperature": "hot"}, "`temperature` is a number, 0 or more, got str 'hot'"),
        ({"guidance": 0.5}, "`guidance` is a number, 1 or more, got 0.5"),
        ({"guidance": float("nan")}, "`guidance` is a number, 1 or more, got nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(one: TokenDrawer, wrong: dict[str, Any], message: str) -> None:
    given = {"prompts": "a dog", "seed": 0} | wrong
    with pytest.raises((TypeError, ValueError)) as error:
        one.draw(given.pop("prompts"), **given)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros(1, 9, dtype=torch.long), r"\[n, 16\], 0 to 15; got \[1, 9\] of torch.int64, 0 to 0: they"),
        (torch.full((1, 16), 16), r"got \[1, 16\] of torch.int64, 16 to 16"),
        (torch.zeros(1, 16), r"got \[1, 16\] of torch.float32"),
    ],
)  # fmt: skip
def test_codes_of_another_model_are_refused(one: TokenDrawer, codes: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        one.decode(codes)
    with pytest.raises(ValueError, match=message):
        one.teacher_forced(Drawings(("a dog",), (), codes, 0))
    with pytest.raises(ValueError, match="there are no `drawings` to read"):
        one.teacher_forced(Drawings((), (), torch.empty(0, 16, dtype=torch.long), 0))


# --- GILL


def test_gill_draws_what_it_draws_itself_and_has_no_codes(tmp_path: Any) -> None:
    from kedit.models.gill.loading import load

    text_to_image(768, 77).save_pretrained(tmp_path)
    gill = load(FOLDER, **PARTS, diffusion=str(tmp_path), steps=2)
    one = drawer(gill)
    found = one.draw(ASKED, seed=2)
    assert [*map(Image.Image.tobytes, found.images)] == [
        drawn.picture.tobytes() for drawn in gill.draw([*ASKED], seed=2)
    ]
    assert (found.codes.shape, one.grid, one.codebook, one.unembedding) == ((2, 0), (0, 0), 0, None)
    for asked in (lambda: one.teacher_forced(found), lambda: one.decode(found.codes), lambda: one.encode([])):
        with pytest.raises(ValueError, match="by diffusion and has no codes; read the states by `read_drawing`"):
            asked()
    with pytest.raises(ValueError, match="without a temperature"):
        one.draw("a dog", seed=0, temperature=0.5)


def test_the_doctor_finds_drawing_with_gill_sound_without_a_stable_diffusion() -> None:
    from kedit.models.gill.loading import load

    found = diagnose(load(FOLDER, **PARTS), "drawing").findings["drawing"]
    assert found.status == "SUPPORTED", found.told


@pytest.mark.parametrize("family", FAMILIES)
def test_the_doctor_finds_drawing_sound(family: str) -> None:
    model: HuggingFaceMLLM = built(family).model
    found = diagnose(model, "drawing").findings["drawing"]
    assert (found.status, found.value) == ("SUPPORTED", 0), found.told
