"""GILL from its original files is what the original code makes of them, and kedit captions, edits and draws with it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import our_hooks

from kedit import cli
from kedit.data.inpaint import MeanFill
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.internals.hooks import record
from kedit.locate.two_stage import two_stage
from kedit.models.gill.files import GILLFileError
from kedit.models.gill.loading import load
from kedit.models.gill.model import GILLModel
from kedit.models.gill.module import GILL
from kedit.models.gill.painter import Painter, PainterError
from kedit.models.gill.processor import PICTURE, FirstLine
from kedit.models.image_grid.reading import NoGridError, picture_grids
from kedit.models.mllm import IMAGE, MODALITIES, Generated
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Concept, Sample
from tests.tiny_diffusion import text_to_image

FOLDER = Path(__file__).resolve().parent / "fixtures" / "gill_tiny"
PARTS: dict[str, Any] = {"language": "facebook/opt-tiny", "vision": "openai/clip-vit-tiny", "device": "cpu"}
NEAR, GRADIENT = 2e-5, 1e-6
"""The fixture's README says 5e-6 and 2e-7, as observed elsewhere; other machines sum in other orders."""


class Golden:
    """What the original code made of the same weights."""

    def __init__(self) -> None:
        self.model = load(FOLDER, **PARTS, max_new_tokens=10)
        self.module: Any = self.model.module
        self.meta = json.loads((FOLDER / "meta.json").read_text())
        self.inputs, self.expected = (load_file(FOLDER / f"{name}.safetensors") for name in ("inputs", "expected"))
        self.images = [Image.fromarray(self.inputs[f"raw_image_uint8_{number}"].numpy()) for number in (0, 1)]
        self.edit = Edit(NeuronSet(tuple(NeuronId(*one) for one in self.meta["edit_neurons"])), Zero())

    @cached_property
    def dialog(self) -> dict[str, torch.Tensor]:
        """The inputs of texts and pictures in turn."""
        pieces = [PICTURE if one.startswith("<raw") else one for one in self.meta["dialog"]]
        batch: dict[str, torch.Tensor] = self.model.processor(["".join(pieces)], self.images)
        return batch

    @cached_property
    def written(self) -> dict[str, torch.Tensor]:
        """The inputs of the dialog and of what the original wrote after it."""
        ids = torch.cat([self.dialog["input_ids"], self.expected["dialog_generated_ids"]], dim=1)
        return {"input_ids": ids, "pixel_values": self.dialog["pixel_values"]}

    def draw_first(self, out: Any) -> torch.Tensor:
        """Return what the first [IMG] tokens of the dialog tell Stable Diffusion, with a graph."""
        start = self.meta["dialog_prompt_len"] + self.meta["dialog_img_start_in_generated"]
        told: torch.Tensor = self.module.map_states(out.hidden_states[-1][:, start : start + 8])
        return told


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden()


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Stable Diffusion that reads 77 states of 768 features."""
    folder = tmp_path_factory.mktemp("diffusion")
    text_to_image(768, 77).save_pretrained(folder)
    return folder


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


# --- what the original made of the same files


@torch.no_grad()
def test_pictures_are_read_as_the_original_reads_them(golden: Golden) -> None:
    module, expected = golden.module, golden.expected
    pixels = golden.model.processor.pixels(golden.images)
    assert torch.equal(pixels, golden.inputs["pixel_values"])
    seen = module.vision_model(pixels)
    assert off(seen.last_hidden_state, expected["clip_last_hidden_state"]) < NEAR
    assert off(seen.pooler_output, expected["clip_pooler_output"]) < NEAR
    assert off(module.image_embeds(pixels), expected["visual_embs_captioning"]) < NEAR
    assert off(module.retrieval_picture(seen.pooler_output)[:, None], expected["visual_embs_retrieval"]) < NEAR


@torch.no_grad()
def test_a_caption_is_begun_as_the_original_begins_it(golden: Golden) -> None:
    batch = golden.model.teacher_forced(golden.images[:1], [()])
    assert golden.model.prompt == golden.meta["caption_text"]
    assert batch.inputs["input_ids"][0, 4:].tolist() == golden.expected["caption_input_ids"][0].tolist()
    out = golden.module(**batch.inputs, output_hidden_states=True)
    assert off(out.logits, golden.expected["caption_logits"]) < NEAR
    for number, states in enumerate(out.hidden_states):
        assert off(states, golden.expected[f"caption_hidden_{number}"]) < NEAR
    embeds = golden.module.embeds(batch.inputs["input_ids"], batch.inputs["pixel_values"])
    assert off(embeds, golden.expected["caption_inputs_embeds"]) < NEAR


def test_greedy_tokens_of_a_caption_are_the_originals(golden: Golden) -> None:
    assert (
        list(golden.model.caption(golden.images[:1])[0].tokens) == golden.expected["caption_generated_ids"][0].tolist()
    )


def test_activations_and_gradients_of_a_word_are_the_originals(golden: Golden) -> None:
    batch = golden.model.teacher_forced(golden.images[:1], [()])
    with record(golden.module, golden.model.site(), differentiable=True) as recorded:
        logits = golden.model.logits(batch)
    layers = [recorded[layer] for layer in sorted(recorded)]
    assert off(torch.stack(layers).detach(), golden.expected["caption_ffn_act"]) < NEAR
    gradients = torch.autograd.grad(logits[0, -1, golden.meta["caption_grad_target"]], layers)
    assert off(torch.stack(gradients), golden.expected["caption_ffn_grad"]) < GRADIENT


@torch.no_grad()
def test_what_is_drawn_of_a_text_is_the_originals(golden: Golden) -> None:
    batch = golden.model.read_drawing([Prompt(text) for text in golden.meta["gen_texts"]])
    for row, ids, length in zip(
        batch.inputs["input_ids"], golden.expected["gen_labels"], golden.expected["gen_caption_len"], strict=True
    ):
        assert row[-length:].tolist() == ids[:length].tolist()
    states = golden.model.img_states(batch)
    assert off(states, golden.expected["gen_forward_img_hidden"]) < NEAR
    assert off(golden.model.map_states(states), golden.expected["gen_forward_mapper_out"]) < NEAR
    logits = golden.model.logits(batch, 2)[:, 0]
    assert off(logits, golden.expected["gen_forward_last_logit"]) < NEAR
    padded = golden.module(input_ids=golden.expected["gen_labels"]).logits
    assert off(padded, golden.expected["gen_forward_logits"]) < NEAR


def test_retrieval_scores_are_the_originals(golden: Golden) -> None:
    texts, shown = (golden.expected[f"ret_forward_{name}"] for name in ("text_emb_normed", "visual_emb_normed_scaled"))
    assert off(golden.model.retrieve(golden.meta["gen_texts"], golden.images), texts @ shown.T) < 5 * NEAR


@torch.no_grad()
def test_a_dialog_of_texts_and_pictures_is_written_and_drawn_as_the_originals(golden: Golden) -> None:
    embeds = golden.module.embeds(golden.dialog["input_ids"], golden.dialog["pixel_values"])
    assert off(embeds, golden.expected["dialog_inputs_embeds"]) < NEAR
    wanted = golden.expected["dialog_generated_ids"]
    written = golden.module.generate(
        **golden.dialog, do_sample=False, max_new_tokens=wanted.shape[1], eos_token_id=None, pad_token_id=1,
        img_scale=golden.meta["dialog_scale_factor"] ** 2, min_words=golden.meta["dialog_min_word_tokens"],
    )  # fmt: skip
    assert torch.equal(written[:, golden.meta["dialog_prompt_len"] :], wanted)
    out = golden.module(**golden.written, output_hidden_states=True)
    seen = golden.expected["dialog_last_hidden"]
    assert off(out.hidden_states[-1][:, : seen.shape[1]], seen) < NEAR
    assert off(golden.draw_first(out), golden.expected["dialog_sd_prompt_embeds"]) < NEAR


def test_activations_and_gradients_of_a_drawing_are_the_originals(golden: Golden) -> None:
    with record(golden.module, golden.model.site(), differentiable=True) as recorded:
        told = golden.draw_first(golden.module(**golden.written, output_hidden_states=True))
    assert off(told.detach(), golden.expected["image_mapper_out"]) < NEAR
    score = (told * golden.expected["image_probe_v"]).mean()
    assert off(score.detach()[None], golden.expected["image_y"]) < NEAR
    layers = [recorded[layer] for layer in sorted(recorded)]
    assert off(torch.stack(layers).detach(), golden.expected["image_ffn_act"]) < NEAR
    gradients = torch.stack(torch.autograd.grad(score, layers))
    assert off(gradients, golden.expected["image_ffn_grad"]) < 1e-4 * float(
        golden.expected["image_ffn_grad"].abs().max()
    )


@torch.no_grad()
def test_an_edit_changes_words_and_drawings_as_in_the_original(golden: Golden) -> None:
    with golden.edit.applied(golden.model):
        out = golden.module(**golden.written, output_hidden_states=True)
    assert off(out.logits, golden.expected["image_logits_zero_edit"]) < NEAR
    told = golden.draw_first(out)
    assert off(told, golden.expected["image_mapper_out_zero_edit"]) < NEAR
    assert off(told, golden.expected["image_mapper_out"]) > 100 * NEAR
    assert not our_hooks(golden.module)


# --- drawing


def test_a_drawing_is_what_the_pipeline_makes_of_what_it_is_told(golden: Golden, diffusion: Path) -> None:
    model = replace(golden.model, painter=Painter(diffusion, steps=2, device="cpu"))
    drawings = model.draw(golden.meta["gen_texts"], seed=3)
    pipeline: Any = text_to_image(768, 77)
    for number, drawing in enumerate(drawings):
        assert drawing.prompt == golden.meta["gen_texts"][number]
        told = golden.expected["gen_forward_mapper_out"][number]
        assert off(drawing.conditioning, told) < NEAR
        assert off(drawing.states, golden.expected["gen_forward_img_hidden"][number]) < NEAR
        expected = pipeline(
            prompt_embeds=told[None], generator=torch.Generator().manual_seed(3), num_inference_steps=2,
            guidance_scale=7.5,
        ).images[0]  # fmt: skip
        assert np.abs(np.asarray(drawing.picture, int) - np.asarray(expected, int)).max() <= 1
    other = model.draw(golden.meta["gen_texts"][0], seed=4)[0]
    assert np.abs(np.asarray(other.picture, int) - np.asarray(drawings[0].picture, int)).max() > 10


def test_an_edit_changes_the_drawing_and_a_picture_can_be_drawn_on_from(golden: Golden, diffusion: Path) -> None:
    model = replace(golden.model, painter=Painter(diffusion, steps=1, device="cpu"))
    asked = [Prompt("the dog"), Prompt("the dog", golden.images[0])]
    everything = NeuronSet(tuple(NeuronId(layer, index) for layer in range(3) for index in range(96)))
    plain = model.draw(asked)
    with Edit(everything, Zero()).applied(model):
        edited = model.draw(asked)
    again = model.draw(asked)
    for before, during, after in zip(plain, edited, again, strict=True):
        assert off(during.conditioning, before.conditioning) > 1e-3
        assert torch.equal(after.conditioning, before.conditioning)
        assert np.array_equal(np.asarray(after.picture), np.asarray(before.picture))
    assert off(plain[0].states, plain[1].states) > 1e-3


def test_what_cannot_be_drawn_with_is_said_in_a_line(golden: Golden, tmp_path: Path) -> None:
    with pytest.raises(PainterError, match=r"^`gill` has nothing to draw with: .*`model.diffusion=FOLDER`$"):
        golden.model.draw("a dog")
    with pytest.raises(FileNotFoundError, match=r"is no pipeline of diffusers: it has no `model_index.json`"):
        load(FOLDER, **PARTS, diffusion="nowhere")
    text_to_image().save_pretrained(tmp_path / "narrow")
    told = torch.zeros(77, 768)
    with pytest.raises(PainterError, match=r"GILL tells 768 features, and the UNet of .* reads 16"):
        Painter(tmp_path / "narrow", device="cpu").paint(told, 0)
    index = tmp_path / "narrow" / "model_index.json"
    named = json.loads(index.read_text())
    index.write_text(json.dumps(named | {"unet": ["my_code", "UNet"]}))
    with pytest.raises(PainterError, match=r"the part `unet` of .* is of `my_code`, whose code is not run"):
        Painter(tmp_path / "narrow", device="cpu").paint(told, 0)
    index.write_text(json.dumps(named | {"_class_name": "StableDiffusionInpaintPipeline"}))
    with pytest.raises(PainterError, match="is a `StableDiffusionInpaintPipeline`, which does not paint"):
        Painter(tmp_path / "narrow", device="cpu").paint(told, 0)


def test_a_picture_that_the_safety_checker_withholds_is_told_of(tmp_path: Path) -> None:
    text_to_image(16, 8, checked=True).save_pretrained(tmp_path)
    with pytest.raises(PainterError, match=r"the safety checker of .* withheld the picture"):
        Painter(tmp_path, steps=1, device="cpu").paint(torch.zeros(8, 16), 0)


# --- what kedit needs of a model


def test_image_and_img_positions_are_told(golden: Golden) -> None:
    batch = golden.model.read_drawing([Prompt("the dog", golden.images[0])])
    assert (batch.token_types == IMAGE)[0].tolist() == [True] * 4 + [False] * (batch.token_types.shape[1] - 4)
    assert (batch.modalities[0, -8:] == MODALITIES.index("special")).all()
    assert not batch.prompt[0, -8:].any()
    with pytest.raises(ValueError, match=r"a row draws at 8 \[IMG\] tokens, got rows with \[0\] of them"):
        golden.model.img_states(golden.model.read([Prompt("the dog")], [()]))
    with pytest.raises(ValueError, match="1 pictures fill 4 positions, and the prompts have 8 image tokens"):
        golden.module(input_ids=golden.dialog["input_ids"], pixel_values=golden.dialog["pixel_values"][:1])


def test_a_picture_is_one_vector_so_there_is_no_map_of_it(golden: Golden) -> None:
    with pytest.raises(NoGridError, match="GILL makes a picture one vector"):
        picture_grids(golden.model, golden.images)


def test_two_stage_filtering_scores_its_neurons(golden: Golden) -> None:
    region = np.zeros((70, 91), bool)
    region[10:40, 20:60] = True
    concept = Concept("dog")
    samples = [Sample(str(n), one, regions={"dog": region}) for n, one in enumerate(golden.images)]
    pairs = [MeanFill()(one, concept) for one in samples]
    ids = golden.model.tokenizer("the dog", add_special_tokens=False).input_ids
    captions = [Generated("the dog", tuple(ids))] * len(pairs)
    scores = two_stage().score(golden.model, pairs, captions=captions)
    assert {stage: tuple(one.values.shape) for stage, one in scores.items()} == dict.fromkeys(scores, (3, 96))
    assert all(bool(one.values.isfinite().all()) and one.values.unique().numel() > 9 for one in scores.values())


def test_the_converted_model_can_be_saved_and_read(golden: Golden, tmp_path: Path) -> None:
    golden.module.save_pretrained(tmp_path)
    again: Any = GILL.from_pretrained(tmp_path, local_files_only=True).eval()
    assert same(replace(golden.model, module=again), golden.model)
    batch = golden.model.read_drawing([Prompt("the dog", golden.images[0])])
    with torch.no_grad():
        states, logits = again.img_states(**batch.inputs), again(**batch.inputs).logits
        assert off(states, golden.module.img_states(**batch.inputs)) < NEAR
        assert off(logits, golden.module(**batch.inputs).logits) < NEAR


def test_half_precision_captions_and_maps(golden: Golden) -> None:
    model = load(FOLDER, **PARTS, dtype="bfloat16", max_new_tokens=4)
    assert {one.dtype for one in model.module.parameters()} == {torch.bfloat16}
    assert len(model.caption(golden.images)) == 2
    told = model.map_states(model.img_states(model.read_drawing([Prompt("the dog")])))
    assert off(told.float()[0].detach(), golden.expected["gen_forward_mapper_out"][0]) < 0.2


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("a dog. A cat", "a dog."),
        ("a dog. A cat\nand more", "a dog. A cat"),
        ("\na dog\n", "a dog"),
        ("a dog", "a dog"),
        ("\n\n", ""),
    ],
)
def test_an_answer_is_its_first_line_or_sentence(golden: Golden, written: str, kept: str) -> None:
    tokenizer = golden.model.tokenizer
    tokens = torch.tensor(tokenizer(written, add_special_tokens=False).input_ids)
    trimmed = FirstLine(tokenizer).trimmed(tokens)
    assert trimmed.shape == tokens.shape
    assert tokenizer.decode(trimmed.tolist(), skip_special_tokens=True).strip() == kept
    ended = FirstLine(tokenizer).criterion(0)(tokens[None], None)
    assert ended.tolist() == ["\n" in written.lstrip("\n")]


def test_doctor_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"model.{key}={value}" for key, value in PARTS.items()]
    checks = "checks=[sites,column,padding,media,positions,chat,cache,beams,last,lens,gradients,restored]"
    assert cli.main(["doctor", "model=gill", f"model.path={FOLDER}", *words, checks, "hydra.run.dir=out"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("SUPPORTED") == 11
    assert "not applicable: chat" in printed


# --- the files


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[], Path]:
    """Return a copy of the original files, to break."""
    return lambda: Path(shutil.copytree(FOLDER, tmp_path / "gill"))


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(GILLFileError) as caught:
        load(path, **(PARTS | options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(one: GILLModel, other: GILLModel) -> bool:
    held, wanted = one.module.state_dict(), other.module.state_dict()
    return held.keys() == wanted.keys() and all(torch.equal(held[key], wanted[key]) for key in held)


def test_a_checkpoint_may_be_safetensors_unpruned_and_from_several_gpus(
    golden: Golden, folder: Callable[[], Path]
) -> None:
    path = folder()
    old = path / "gill_opt" / "pretrained_ckpt.pth.tar"
    held = torch.load(old, weights_only=True)["state_dict"]
    rows = held["model.input_embeddings.weight"]
    held["model.input_embeddings.weight"] = torch.cat([torch.zeros(273, rows.shape[1]), rows])
    held["model.lm.lm_head.weight"] = torch.zeros(2)
    held = {f"module.{key}": one for key, one in held.items()}
    save_file(held, path / "gill_opt" / "pretrained_ckpt.safetensors")
    old.unlink()
    assert same(load(path, **PARTS), golden.model)
    by_file = load(path, **PARTS, checkpoint="gill_opt/pretrained_ckpt.safetensors")
    assert same(by_file, golden.model)


def test_a_missing_file_lists_what_is_expected_where(folder: Callable[[], Path]) -> None:
    path = folder()
    (path / "gill_opt" / "pretrained_ckpt.pth.tar").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        load(path, **(PARTS | {"vision": "clip"}))
    message = str(caught.value)
    assert "read from 3 places, and 2 are not there" in message
    assert f"`{path / 'facebook' / 'opt-tiny'}`: found" in message
    assert f"`{path / 'clip'}`: MISSING" in message
    assert f"`{path / 'gill_opt' / 'pretrained_ckpt.pth.tar'}`: MISSING" in message


class Code:
    """What a pickle may run when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_a_pickle_that_runs_code_is_not_loaded(folder: Callable[[], Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = folder()
    torch.save({"state_dict": {}, "code": Code()}, path / "gill_opt" / "pretrained_ckpt.pth.tar")
    assert "is not a file of weights that can be read safely" in refused(path)
    assert "run" not in capsys.readouterr().out


def test_a_file_of_another_kind_or_size_is_said_at_once(folder: Callable[[], Path]) -> None:
    path = folder()
    home = path / "gill_opt" / "pretrained_ckpt.pth.tar"
    held = torch.load(home, weights_only=True)["state_dict"]
    torch.save({"state_dict": held | {"model.visual_fc.bias": torch.zeros(9)}}, home)
    assert "does not fit: `retrieval_picture.bias` is [9], expected [24]" in refused(path)
    torch.save({"state_dict": held | {"model.gen_text_hidden_fcs.0.fc.weight": torch.zeros(32, 64)}}, home)
    assert "was trained with an OPT 64 wide, and `language` is 48 wide" in refused(path)
    torch.save({"state_dict": {key: one for key, one in held.items() if "query_embs" not in key}}, home)
    assert "is not GILL's own weights: it has no `mapper.query_embs`" in refused(path)
    torch.save({"state_dict": {key: one for key, one in held.items() if "logit_scale" not in key}}, home)
    assert "no `logit_scale` []" in refused(path)
    settings = path / "gill_opt" / "model_args.json"
    settings.write_text(json.dumps({"text_fc_mode": "linear"}))
    assert "says `text_fc_mode` is 'linear'; kedit reads GILL with 'gill_mapper'" in refused(path)
    settings.unlink()
    (path / "openai" / "clip-vit-tiny" / "model.safetensors").write_bytes(b"cut short")
    assert "`vision`" in (message := refused(path)) and "is no complete CLIP of transformers" in message
    (path / "facebook" / "opt-tiny" / "vocab.json").unlink()
    assert "has no tokenizer that can be read" in refused(path)
