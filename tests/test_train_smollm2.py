"""The training of the eye of `smollm2_scenes`: what its stages teach, and that it is written with its card."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from test_smollm2 import stand_in

from experiments.training.scenes.tower import IGNORED, labels
from experiments.training.smollm2 import captions, codes
from experiments.training.smollm2.card import card
from experiments.training.smollm2.run import FIRST_SEED, examined, learn
from kedit.data.grammar import CATEGORIES, COLORS
from kedit.data.scene import scene
from kedit.models.smollm2.scenes import PROMPT, assemble, eye_of

SHORT = {"codes": (2, 4, 1e-3), "pairs": (2, 4, 1e-3), "captions": (2, 2, 1e-3)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    module, processor = assemble(stand_in(tmp_path_factory.mktemp("lm")))
    return module.float().requires_grad_(False), processor


def test_a_patch_of_a_thing_is_its_color_and_its_noun_and_of_a_pair_two_of_them(model: tuple[Any, Any]) -> None:
    module, processor = model
    embeddings = module.get_input_embeddings().weight

    def words(*some: str) -> torch.Tensor:
        ids = [number for word in some for number in processor.tokenizer(f" {word}").input_ids]
        return embeddings[ids].sum(0)

    shown = [scene(seed) for seed in range(40)]
    targets, counted = codes.Codes(embeddings, processor.tokenizer).targets(shown)
    truth = labels(shown)
    assert torch.equal(counted, truth.category != IGNORED)
    seen = set()
    for row, one in enumerate(shown):
        pairs = {category for category in CATEGORIES if sum(t.category == category for t in one.things) > 1}
        for patch in range(64):
            if truth.category[row, patch] == len(CATEGORIES):
                expected = words(one.background)
            elif counted[row, patch]:
                category, color = CATEGORIES[truth.category[row, patch]], COLORS[truth.color[row, patch]]
                named = ("two", color, f"{category}es" if category == "cross" else f"{category}s")
                expected = words(*named) if category in pairs else words(color, category)
                seen.add(category in pairs)
            else:
                continue
            torch.testing.assert_close(targets[row, patch], expected, rtol=1e-4, atol=1e-5)
    assert seen == {True, False}


def test_half_of_a_paired_batch_holds_a_pair_and_no_scene_comes_twice() -> None:
    plain = [codes.batch(FIRST_SEED["codes"], 8, step, paired=False) for step in range(3)]
    assert len({one.seed for batch in plain for one in batch}) == 24
    paired = [codes.batch(FIRST_SEED["pairs"], 8, step, paired=True) for step in range(3)]
    assert len({one.seed for batch in paired for one in batch}) == 24
    for batch in paired:
        assert sum(len(one.things) > len(one.categories) for one in batch) >= 4


def test_the_loss_of_captions_is_that_of_the_model_itself(model: tuple[Any, Any]) -> None:
    """By the whole model: the processor's own prompt, and the labels of transformers."""
    module, processor = model
    eye = codes.Eye(module.model.vision_tower, module.model.multi_modal_projector)
    losses = captions.objective(eye, module.model.language_model, processor, PROMPT, FIRST_SEED["captions"], 1)
    one = scene(FIRST_SEED["captions"])
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    said = one.captions()[0] + processor.tokenizer.eos_token
    inputs = processor(images=[one.image()], text=[prompt + said], return_tensors="pt")
    n_said = len(processor.tokenizer(said).input_ids)
    wanted = inputs["input_ids"].clone()
    wanted[:, :-n_said] = IGNORED
    torch.testing.assert_close(losses(0)["words"], module(**inputs, labels=wanted).loss, rtol=1e-3, atol=1e-4)


def test_it_learns_and_resumes_and_leaves_the_language_model_alone(model: tuple[Any, Any], tmp_path: Path) -> None:
    module, processor = model
    before = {name: value.clone() for name, value in module.state_dict().items()}
    stages = {name: {"steps": steps, "batch": batch, "peak": peak} for name, (steps, batch, peak) in SHORT.items()}
    learn(module, processor, OmegaConf.create(stages), tmp_path)
    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= set(eye_of(module))
    trained = eye_of(module)
    learn(module, processor, OmegaConf.create(stages), tmp_path)
    for name, value in eye_of(module).items():
        assert torch.equal(value, trained[name])


def test_the_card_has_every_accuracy_with_its_interval(model: tuple[Any, Any]) -> None:
    scores = examined(*model, 3)
    stages = {name: {"steps": steps} for name, (steps, *_) in SHORT.items()}
    text = card(scores, stages, [{"stage": name, "step": 2} for name in SHORT])
    for name in ("objects", "colors", "valid"):
        assert f"| {name} | 0.00 [" in text
    assert "python -m experiments.training.smollm2.run" in text


def test_the_shipped_eye_fits_the_published_language_model() -> None:
    from kedit.models.smollm2.scenes import EYE

    eye = load_file(EYE)
    assert eye["model.multi_modal_projector.linear_2.weight"].shape == (576, 576)
    assert all(value.dtype == torch.bfloat16 and value.isfinite().all() for value in eye.values())
    assert EYE.stat().st_size < 3_000_000
