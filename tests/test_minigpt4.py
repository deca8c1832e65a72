"""MiniGPT-4 from its original files is what the original code makes of them, and kedit works on it."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import our_hooks
from tiny_minigpt4 import CAT, DOG, FOLDERS, RESERVED, SIDE, SIZES, Golden, picture, taught, tiny_minigpt4

from kedit.data.inpaint import MeanFill
from kedit.edit.edit import Edit
from kedit.edit.operators import Operator, Scale, Zero
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity
from kedit.inspection.grid import NoGridError, token_grids
from kedit.internals.hooks import record
from kedit.internals.unembedding import Unembedding
from kedit.locate.two_stage import two_stage
from kedit.models import chat
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.minigpt4 import load
from kedit.models.minigpt4_files import MiniGPT4FileError
from kedit.models.minigpt4_model import MiniGPT4
from kedit.models.minigpt4_processor import PICTURE, Ending
from kedit.models.mllm import IMAGE
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.locate import locate
from kedit.pipelines.outputs import collect_outputs
from kedit.prompts import Prompt
from kedit.samples import Question, silent

EMBEDS, LOGITS = 2e-5, 1e-4


@pytest.fixture(scope="module", params=["vicuna", "llama2"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def vicuna() -> HuggingFaceMLLM:
    return tiny_minigpt4("vicuna")


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def new_tokens(model: HuggingFaceMLLM, batch: dict[str, torch.Tensor], **options: Any) -> list[list[int]]:
    settings = {"do_sample": False, "max_new_tokens": 10, "pad_token_id": model.tokenizer.pad_token_id}
    written = model.module.generate(**batch, **(settings | options))
    return written[:, batch["input_ids"].shape[1] :].tolist()


# --- what the original made of the same files


def test_the_picture_is_prepared_to_the_bit(golden: Golden) -> None:
    assert torch.equal(golden.model.processor.pixels(golden.images), golden.inputs["pixel_values"])


@torch.no_grad()
def test_the_image_embeddings_are_the_originals(golden: Golden) -> None:
    module, pixels = golden.model.module, golden.inputs["pixel_values"]
    assert off(module.vision_model(pixels).last_hidden_state, golden.expected["ln_vision_out"]) < EMBEDS
    assert off(module.image_embeds(pixels), golden.expected["image_embeds"]) < EMBEDS


def test_the_prompt_is_made_tokens_of_piece_by_piece(golden: Golden) -> None:
    def pieces(segments: list[list[int]]) -> list[int]:
        first, second = segments
        return [*first, *[golden.model.module.config.image_token_id] * len(golden.expected["image_embeds"][0]), *second]

    processor = golden.model.processor
    assert processor.ids(golden.meta["prompt"]) == pieces(golden.meta["segment_input_ids"])
    for prompt, segments in zip(golden.meta["batch_prompts"], golden.meta["batch_segment_input_ids"], strict=True):
        assert processor.ids(prompt) == pieces(segments)
    batch = golden.batch(*golden.meta["batch_prompts"])
    assert torch.equal(batch["attention_mask"], golden.expected["gen_batch_attention_mask"].long())
    assert batch["input_ids"][0, 0] == golden.meta["pad_token_id"]


def test_the_caption_prompt_is_the_original_demos(golden: Golden) -> None:
    ids = golden.model.teacher_forced(golden.images[:1], [()]).inputs["input_ids"]
    assert ids[0].tolist() == golden.model.processor.ids(golden.meta["prompt"])


def test_logits_activations_and_gradients_are_the_originals(golden: Golden) -> None:
    model = golden.model
    with record(model.module, model.site(), differentiable=True) as recorded:
        logits = model.module(**golden.batch(golden.meta["prompt"])).logits
    assert off(logits.detach(), golden.expected["logits"]) < LOGITS
    layers = [recorded[layer] for layer in sorted(recorded)]
    assert off(torch.cat(layers).detach(), golden.expected["ffn_act"]) < LOGITS
    gradients = torch.autograd.grad(logits[0, -1, golden.meta["grad_target_token"]], layers)
    assert off(torch.cat(gradients), golden.expected["ffn_grad"]) < LOGITS
    assert all(one.grad is None for one in model.module.parameters())


@torch.no_grad()
@pytest.mark.parametrize(("operator", "name"), [(Zero(), "zero"), (Scale(2.5), "scale2p5")])
def test_edited_logits_are_the_originals(golden: Golden, operator: Operator, name: str) -> None:
    neurons = NeuronSet(tuple(NeuronId(*one) for one in golden.meta["edit_neurons"]))
    batch = golden.batch(golden.meta["prompt"])
    with Edit(neurons, operator).applied(golden.model):
        edited = golden.model.module(**batch).logits
    assert off(edited, golden.expected[f"logits_{name}_edit"]) < LOGITS
    assert off(edited, golden.expected["logits"]) > 1
    assert off(golden.model.module(**batch).logits, golden.expected["logits"]) < LOGITS


def test_greedy_tokens_are_the_originals_alone_and_padded(golden: Golden) -> None:
    alone = new_tokens(golden.model, golden.batch(golden.meta["prompt"]))
    assert alone == golden.expected["gen_single_ids"][:, 1:].tolist()
    padded = new_tokens(golden.model, golden.batch(*golden.meta["batch_prompts"]))
    end = golden.model.tokenizer.eos_token_id
    for found, expected in zip(padded, golden.expected["gen_batch_ids"][:, 1:].tolist(), strict=True):
        n_said = expected.index(end) + 1 if end in expected else len(expected)
        assert found[:n_said] == expected[:n_said]
    captions = golden.model.caption(golden.images[:1])[0]
    assert list(captions.tokens) == alone[0]


# --- what kedit needs of a model


def test_image_positions_are_the_queries_or_the_joined_patches(golden: Golden) -> None:
    model = golden.model
    batch = model.teacher_forced(golden.images, [(), (7, 8)])
    n_image = golden.expected["image_embeds"].shape[1]
    assert (batch.token_types == IMAGE).sum(1).tolist() == [n_image] * 2
    assert batch.inputs["input_ids"][1, -2:].tolist() == [7, 8]
    alone = model.logits(model.teacher_forced(golden.images[:1], [()]))
    assert off(model.logits(batch)[:1], alone) < LOGITS
    # 4 x 4 patches, of which 4 in a row are joined; queries have no place.
    if golden.flavor == "llama2":
        assert token_grids(model.module, batch) == [(4, 1)] * 2
    else:
        with pytest.raises(NoGridError, match="resamples the picture"):
            token_grids(model.module, batch)


@torch.no_grad()
def test_of_the_real_size_64_cells_lie_in_16_rows_of_4() -> None:
    described = tiny_minigpt4("llama2").module.config
    described.vision_config.image_size, described.vision_config.patch_size = 224, 14
    with torch.device("meta"):
        module = MiniGPT4(described)
    assert described.n_image_tokens == 64
    assert module.image_grid == (16, 4)


@torch.no_grad()
def test_a_cell_of_the_grid_is_made_of_its_own_patches() -> None:
    model = tiny_minigpt4("llama2")
    for block in model.module.vision_model.encoder.layers:
        block.self_attn.projection.weight.zero_()
    before = model.module.image_embeds(model.processor.pixels([Image.new("RGB", (SIDE, SIDE))]))
    for row in range(4):
        changed = Image.new("RGB", (SIDE, SIDE))
        changed.paste((255, 255, 255), (0, 14 * row + 4, 6, 14 * row + 10))
        after = model.module.image_embeds(model.processor.pixels([changed]))
        assert ((after - before).abs().amax((0, 2)) > 1e-4).tolist() == [cell == row for cell in range(4)]


@torch.no_grad()
def test_edits_by_position_mean_the_same_with_and_without_a_cache_and_in_a_padded_batch(golden: Golden) -> None:
    neurons = NeuronSet(tuple(NeuronId(layer, index) for layer in range(3) for index in range(0, 112, 2)))
    prompts = golden.meta["batch_prompts"]
    batch, alone = golden.batch(*prompts), golden.batch(prompts[0])
    told = {}
    for positions in ("image", "text", "last"):
        with Edit(neurons, Scale(3.0), positions=positions).applied(golden.model):
            told[positions] = new_tokens(golden.model, batch, max_new_tokens=4)
            assert new_tokens(golden.model, batch, max_new_tokens=4, use_cache=False) == told[positions]
            assert new_tokens(golden.model, alone, max_new_tokens=4) == told[positions][:1]
    with (
        Edit(neurons, Zero(), positions="image").applied(golden.model),
        Edit(neurons, Zero(), positions="text").applied(golden.model),
    ):
        parts = golden.model.module(**alone).logits
    with Edit(neurons, Zero()).applied(golden.model):
        assert torch.equal(parts, golden.model.module(**alone).logits)
    assert not our_hooks(golden.model.module)


def test_a_question_without_a_picture_is_answered(vicuna: HuggingFaceMLLM) -> None:
    sample = picture(0, "dog")
    asked = [Question("What is a dog?", "", "fact"), Question("What is in it?", "", "seen", sample)]
    answers = vicuna.answer(asked)
    assert len(answers) == 2
    assert answers[1] == dataclasses.replace(vicuna, prompt="What is in it?").caption([sample.image])[0].text
    rendered = chat.render(vicuna.processor, Prompt("What is a dog?"))
    assert rendered.endswith("###Human: What is a dog?###Assistant: ")
    assert PICTURE not in rendered


@torch.no_grad()
def test_the_vocabulary_is_what_it_was_and_the_unembedding_is_found(golden: Golden) -> None:
    model = golden.model
    found = Unembedding.of(model.module)
    assert found.weight.shape == (golden.meta["vocab_size"], 64)
    with record(model.module, model.site()):
        told = model.module(**golden.batch(golden.meta["prompt"]), output_hidden_states=True)
    assert off(found.logits(told.hidden_states[-1][0], raw=True), told.logits[0]) < LOGITS


def test_the_converted_model_can_be_saved_and_read(golden: Golden, tmp_path: Path) -> None:
    golden.model.module.save_pretrained(tmp_path)
    again: Any = MiniGPT4.from_pretrained(tmp_path, local_files_only=True).eval()
    batch = golden.batch(golden.meta["prompt"])
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, golden.model.module(**batch).logits)


def test_half_precision_keeps_the_qformer_in_full(golden: Golden) -> None:
    model = tiny_minigpt4(golden.flavor, dtype="bfloat16")
    kinds = {name.partition(".")[0]: one.dtype for name, one in model.module.named_parameters()}
    full = {"qformer", "query_tokens"}
    assert all(kind == (torch.float32 if name in full else torch.bfloat16) for name, kind in kinds.items())
    assert len(model.caption(golden.images)) == 2


# --- where an answer ends


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("a dog###Human: what", "a dog"),
        ("a dog", "a dog"),
        ("###a dog", ""),
        ("Assistant: a dog", "a dog"),
        ("Assistant: Assistant: a dog### a", "a dog"),
        ("a # dog", "a # dog"),
    ],
)
def test_an_answer_ends_at_the_next_turn_and_begins_after_its_own_mark(
    vicuna: HuggingFaceMLLM, written: str, kept: str
) -> None:
    tokens = torch.tensor(vicuna.tokenizer(written, add_special_tokens=False).input_ids)
    trimmed = Ending(vicuna.tokenizer).trimmed(tokens)
    assert trimmed.shape == tokens.shape
    assert vicuna.tokenizer.decode(trimmed.tolist(), skip_special_tokens=True).strip() == kept


def test_a_mark_of_several_tokens_ends_an_answer_too(vicuna: HuggingFaceMLLM) -> None:
    one, two, dog = vicuna.tokenizer.convert_tokens_to_ids(["#", "##", "dog"])
    ending = Ending(vicuna.tokenizer)
    for mark in ((two, one), (one, two), (one, one, one)):
        tokens = torch.tensor([[9, 9, dog, *mark]])
        assert ending.criterion(2)(tokens, None).tolist() == [True]
        assert ending.criterion(4)(tokens, None).tolist() == [False]
        assert ending.trimmed(tokens[0, 2:]).tolist()[:2] == [dog, vicuna.tokenizer.eos_token_id]


def test_generation_stops_for_each_row_at_its_own_mark(vicuna: HuggingFaceMLLM) -> None:
    images = [picture(0).image, picture(1, "dog", "cat").image]
    free = vicuna.caption(images)
    dog = vicuna.tokenizer.convert_tokens_to_ids("dog")
    places = [one.tokens.index(dog) if dog in one.tokens else len(one.tokens) for one in free]
    assert len(set(places)) == 2
    module = vicuna.module
    ending, module.ending = module.ending, Ending(vicuna.tokenizer, stop="dog")
    try:
        stopped = [one.tokens for one in vicuna.caption(images)]
    finally:
        module.ending = ending
    assert stopped == [one.tokens[:place] for one, place in zip(free, places, strict=True)]


def test_as_many_pictures_as_places(vicuna: HuggingFaceMLLM) -> None:
    with pytest.raises(ValueError, match=r"the prompts have 1 places for a picture .* got 2 pictures"):
        vicuna.processor([f"a {PICTURE}"], [picture(0).image] * 2)
    batch = vicuna.processor([f"a {PICTURE}"], [picture(0).image])
    with pytest.raises(ValueError, match="1 pictures fill 8 positions, and the prompts have 7 image tokens"):
        vicuna.module(input_ids=batch["input_ids"][:, :-1], pixel_values=batch["pixel_values"])


# --- the files


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """Return a copy of a model's folder, to break."""

    def copied(flavor: str) -> Path:
        return Path(shutil.copytree(FOLDERS[flavor], tmp_path / flavor))

    return copied


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = torch.load(path, weights_only=True)
    change(held.get("model", held))
    torch.save(held, path)


def refused(path: Path, flavor: str, **options: Any) -> str:
    with pytest.raises(MiniGPT4FileError) as caught:
        load(path, flavor=flavor, **(SIZES | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_file_lists_what_is_expected_where(folder: Callable[[str], Path]) -> None:
    path = folder("vicuna")
    (path / "eva_vit_g.pth").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(path, **(SIZES | {"language": "vicuna-7b"}))
    message = str(caught.value)
    assert "read from 4 places, and 2 are not there" in message
    for part, name, state in (
        ("vision", "eva_vit_g.pth", "MISSING"),
        ("qformer", "blip2_pretrained_flant5xxl.pth", "found"),
        ("checkpoint", "prerelease_minigpt4.pth", "found"),
        ("language", "vicuna-7b", "MISSING"),
    ):
        assert f"`{part}`" in message
        assert f"`{path / name}`: {state}" in message
    with pytest.raises(FileNotFoundError, match="read from 3 places, and 3 are not there"):
        load(path / "nowhere", flavor="llama2")


def test_another_flavor_is_told_apart(folder: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="`flavor` is one of vicuna, llama2, got 'v2'"):
        load(FOLDERS["vicuna"], flavor="v2")
    path = folder("vicuna")
    assert "reads 36 features, as of a Q-Former, and not 4 joined patches (192)" in refused(path, "llama2")
    shutil.copy(FOLDERS["llama2"] / "prerelease_minigpt4.pth", path)
    message = refused(path, "vicuna")
    assert "reads 4 joined patches (192 features)" in message
    assert "set `flavor=llama2`" in message
    low_rank = {"llama_model.base_model.model.layers.0.lora_A": torch.zeros(2)}
    changed(path / "prerelease_minigpt4.pth", lambda held: held.update(low_rank))
    assert "it is MiniGPT-v2" in refused(path, "vicuna")


def test_a_wrong_shape_names_the_weight_its_file_and_what_was_expected(folder: Callable[[str], Path]) -> None:
    path = folder("vicuna")
    changed(path / "prerelease_minigpt4.pth", lambda held: held.update({"llama_proj.weight": torch.zeros(80, 36)}))
    message = refused(path, "vicuna")
    assert "`llama_proj.weight` of `checkpoint` is [80, 36], expected [64, 36]" in message
    assert f"`vision` `{path / 'eva_vit_g.pth'}`, 48 wide" in message
    assert f"`language` `{path / 'llama'}`, 64 wide" in message


def test_a_missing_weight_names_its_file(folder: Callable[[str], Path]) -> None:
    path = folder("vicuna")
    changed(path / "eva_vit_g.pth", lambda held: held.pop("blocks.1.mlp.fc2.bias"))
    assert "nothing in `vision` for `vision_model.encoder.layers.1.mlp.fc2.bias` [48]" in refused(path, "vicuna")
    assert "nothing in `vision` for `vision_model.encoder.layers.4" in refused(path, "vicuna", vision_blocks=5)


def test_another_file_in_the_place_of_one_is_said_at_once(folder: Callable[[str], Path]) -> None:
    path = folder("vicuna")
    message = refused(path, "vicuna", vision="blip2_pretrained_flant5xxl.pth")
    assert "is not the vision tower EVA-ViT-g/14: it has no `cls_token`, `pos_embed`" in message
    assert "but `query_tokens`" in message
    (path / "eva_vit_g.pth").write_text("<html>Sign in</html>")
    assert "is not a file of weights that can be read safely (20 bytes)" in refused(path, "vicuna")


def test_a_broken_language_model_is_said_at_once(folder: Callable[[str], Path]) -> None:
    path = folder("llama2")
    (path / "llama" / "model.safetensors").write_bytes(b"cut short")
    assert "is no complete language model of transformers" in refused(path, "llama2")
    (path / "llama" / "tokenizer.model").unlink()
    assert "has no tokenizer that can be read (`tokenizer.model`" in refused(path, "llama2")


def test_a_number_type_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="`dtype` is auto, float32, float16 or bfloat16, got 'int8'"):
        load(FOLDERS["vicuna"], dtype="int8")


# --- the whole job


@pytest.mark.timeout(300)
def test_it_is_located_in_edited_and_evaluated() -> None:
    model = taught("vicuna")
    shown = (("dog",), ("cat",), ("dog", "cat"), ())
    dogs, cats, both, none = ([picture(10 + number, *names) for number in range(6)] for names in shown)
    every = (*dogs[:2], *cats[:2], *both[:2], *none[:2])
    assert [one.text for one in model.caption([sample.image for sample in every])] == [s.references[0] for s in every]

    located = locate(
        model, two_stage().limited(16), [MeanFill()(sample, DOG) for sample in dogs[:3] + both[:3]], silent
    )
    assert len(located.neurons & RESERVED) >= 3  # of 336, so that chance has less than one

    evaluation_set = EvaluationSet(
        DOG, (DOG, CAT), (*dogs[3:], *both[3:]), (*cats[:3],), (*none[:3],), (Question("what?", "", "fact"),)
    )
    random = [RESERVED.layer_matched(model.site().widths, seed) for seed in range(2)]
    reports = {}
    for name, neurons in (("located", located.neurons), ("reserved", RESERVED)):
        outputs = collect_outputs(model, evaluation_set, [Edit(one, Zero()) for one in (neurons, *random)], silent)
        reports[name] = measure(evaluation_set, *outputs, Similarity(None), neurons=len(neurons)).to_json()
    assert reports["reserved"]["suppression"]["mention_drop"]["value"] == 1.0
    assert reports["reserved"]["retention"]["objects"]["value"] == 1.0
    assert reports["reserved"]["retention"]["others"]["value"] == 1.0
    assert reports["located"]["suppression"]["mention_drop"]["value"] >= 0.5
    assert reports["located"]["control"]["suppression"]["mention_drop"]["value"] < 0.25
    assert not our_hooks(model.module)
