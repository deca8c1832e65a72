"""How the inpainter of the picture world is trained: its examples, its latents, its pipeline, its evaluation."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForInpainting
from hydra import compose, initialize_config_dir
from PIL import Image

from experiments.training.inpainter import autoencoder, denoiser, export
from experiments.training.inpainter import run as train_inpainter
from experiments.training.inpainter.card import seconds_of
from experiments.training.inpainter.evaluation import held_out, verdict
from experiments.training.inpainter.examples import BOX_SHARE, examples
from kedit.cli.configuration import build
from kedit.data.grammar import CAPTION_PROMPT
from kedit.data.inpaint import Exact
from kedit.data.inpaint_pipeline import HERE
from kedit.data.scene import scene
from kedit.data.scenes import evaluation_seeds
from kedit.models.loading import load
from kedit.paths import conf_dir
from kedit.samples import Concept, Counterfactual, Sample

SHIPPED = HERE / "scenes_inpainter"
SEEDS = range(40_000_000, 40_000_040)


# Examples


def test_outside_its_hole_an_example_is_its_target_and_inside_it_is_blank() -> None:
    some = examples(SEEDS)
    outside = 1 - some.holes
    assert torch.equal(some.masked * outside, some.targets * outside)
    assert (some.masked * some.holes).abs().max() == 0
    assert some.holes.flatten(1).sum(1).min() > 50


def test_a_target_is_the_scene_without_one_category() -> None:
    some = examples(SEEDS[:8])
    for seed, target in zip(SEEDS[:8], some.targets, strict=True):
        one = scene(seed, colors="free")
        drawn = torch.round((target + 1) * 127.5).permute(1, 2, 0).numpy().astype(np.uint8)
        assert sum(np.array_equal(drawn, one.without(category).pixels()) for category in one.categories) == 1


def test_a_seed_always_gives_the_same_example_and_some_holes_are_boxes() -> None:
    some, again = examples(SEEDS), examples(SEEDS[5:9])
    assert torch.equal(some.masked[5:9], again.masked)
    assert torch.equal(some.holes[5:9], again.holes)
    boxes = 0
    for hole in some.holes[:, 0].bool().numpy():
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        boxes += bool(hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())
    # A square, or two boxes of a pair, can be counted wrongly.
    assert 0 < boxes < 2.5 * BOX_SHARE * len(SEEDS)


def test_no_training_scene_is_one_that_a_run_evaluates_on() -> None:
    first = (train_inpainter.FIRST_AUTOENCODER_SEED, train_inpainter.FIRST_DENOISER_SEED)
    assert all(seed not in evaluation_seeds(split) for seed in first for split in (0, train_inpainter.EVALUATION_SEED))


# Latents and noise


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> denoiser.Pool:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("pool") / "latents.safetensors"
    made = denoiser.pool(autoencoder.autoencoder().eval(), SEEDS[0], 20, file)
    assert torch.equal(denoiser.pool(autoencoder.autoencoder(), SEEDS[0], 20, file).masked, made.masked), "read again"
    return made


def test_a_pass_visits_each_example_once_and_the_next_in_another_order(pool: denoiser.Pool) -> None:
    passes = [[pool.batch(step, 5)[2] for step in steps] for steps in (range(4), range(4, 8))]
    whole = [torch.cat(one).flatten(1).sum(1).sort().values for one in passes]
    assert torch.equal(whole[0], whole[1])
    assert not torch.equal(passes[0][0], passes[1][0])


def test_holes_are_shrunk_as_the_pipeline_does(pool: denoiser.Pool) -> None:
    holes = examples(range(SEEDS[0], SEEDS[0] + 20)).holes
    assert torch.equal(pool.holes.float(), holes[:, :, ::4, ::4])


def test_sampling_starts_from_noise_alone() -> None:
    noising = denoiser.scheduler()
    latents, noise = torch.ones(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    last = torch.tensor([denoiser.TRAINED_TIMES - 1])
    torch.testing.assert_close(noising.add_noise(latents, noise, last), noise, atol=1e-3, rtol=0)
    noising.set_timesteps(10)
    assert noising.timesteps[0] == last


def test_an_error_in_the_hole_counts_more_than_one_outside(pool: denoiser.Pool) -> None:
    class Still(torch.nn.Module):
        """Returns the latents of the targets, off by 1 inside or outside the holes."""

        def __init__(self, inside: bool) -> None:
            super().__init__()
            self.inside = inside

        def forward(self, latents: torch.Tensor, times: torch.Tensor, encoder_hidden_states: torch.Tensor) -> object:
            _, holes, targets = pool.batch(0, 20)
            near = torch.nn.functional.max_pool2d(holes, 3, 1, 1)
            return Sampled(targets * pool.scale + (near if self.inside else 1 - near))

    @dataclass
    class Sampled:
        sample: torch.Tensor

    inside, outside = (
        denoiser.losses(Still(where), denoiser.scheduler(), pool, 20, 0)["latents"].item() for where in (True, False)
    )
    assert inside + outside == pytest.approx(1, abs=0.02)
    share = torch.nn.functional.max_pool2d(pool.holes.float(), 3, 1, 1).mean().item()
    assert inside / outside == pytest.approx(share / (1 - share) / denoiser.OUTSIDE, rel=0.02)


# The pipeline


def test_an_exported_pipeline_is_small_loads_as_it_was_and_reads_no_prompt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae, unet = autoencoder.autoencoder().eval(), denoiser.denoiser().eval()
    size = export.save(export.pipeline(vae, unet, 0.5), tmp_path)
    assert size == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 8e6
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}
    assert next(unet.parameters()).dtype == torch.float32
    again = AutoPipelineForInpainting.from_pretrained(tmp_path, local_files_only=True)
    again.set_progress_bar_config(disable=True)
    assert again.vae.config.scaling_factor == 0.5
    for old, new in ((vae, again.vae), (unet, again.unet)):
        for name, weight in old.state_dict().items():
            assert torch.equal(weight.half(), new.state_dict()[name].half()), name
    one = scene(3)
    hole = Image.fromarray(one.region(sorted(one.categories)[0]).astype("u1") * 255)
    made = [
        np.asarray(
            again(prompt, one.image(), hole, num_inference_steps=2, guidance_scale=guidance,
                  generator=torch.Generator().manual_seed(1)).images[0]
        )
        for prompt, guidance in (("", 1.0), ("a red star", 1.0), ("a red star", 7.5))
    ]  # fmt: skip
    assert made[0].shape == (64, 64, 3)
    assert np.array_equal(made[0], made[1])
    assert np.abs(made[0].astype(int) - made[2]).max() <= 1


# The evaluation


@dataclass(frozen=True)
class Lazy:
    """Paints nothing over."""

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        return Counterfactual(sample, concept, sample.image)


def test_the_evaluation_set_tells_a_perfect_inpainter_from_one_that_paints_nothing() -> None:
    model = load("scenes", prompt=CAPTION_PROMPT, batch_size=32, max_new_tokens=28)
    pictures = dict(list(held_out(2, seed=7).items())[:4])
    perfect, lazy = (verdict(inpaint, model, pictures) for inpaint in (Exact(), Lazy()))
    assert (perfect.removed.value, lazy.removed.value) == (1, 0)
    assert perfect.removed.n == 8
    assert set(perfect.by_concept) == {concept.name for concept in pictures}
    assert perfect.invented.value == lazy.invented.value == 0
    assert (perfect.psnr.value or 0) > 60 > 20 > (lazy.psnr.value or 0)


def test_the_seconds_of_a_training_that_was_resumed_are_those_of_all_its_parts(tmp_path: Path) -> None:
    rows = [{"step": step, "seconds": seconds} for step, seconds in ((1, 10.0), (2, 20.0), (3, 5.0), (4, 9.0))]
    (tmp_path / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert seconds_of(tmp_path / "one.jsonl") == 29


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_leaves_a_pipeline_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("autoencoder.steps=2", "autoencoder.batch=4", "denoiser.steps=2", "denoiser.batch=4", "denoiser.pool=8")
    few = ("exam.samples=1", "exam.steps=2")
    monkeypatch.setattr(sys, "argv", ["run.py", f"folder={tmp_path}", *small, *few])
    assert train_inpainter.main() == 0
    out = tmp_path / "scenes_inpainter"
    card = (out / "README.md").read_text()
    for part in ("# scenes_inpainter", "| mean | 1.00", "denoiser.steps=2", "Removed by concept: circle"):
        assert part in card
    with Image.open(out / "pictures.png") as drawn:
        assert drawn.size == (2 * 12 * 64, 2 * 3 * 64)


# What ships


def test_the_shipped_inpainter_is_small_and_has_a_card() -> None:
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md", ".png"}
    assert "# scenes_inpainter" in (SHIPPED / "README.md").read_text()


@pytest.mark.slow
def test_the_shipped_inpainter_removes_things_and_invents_none() -> None:
    model = load("scenes", prompt=CAPTION_PROMPT, batch_size=32, max_new_tokens=28)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        own = build(compose("run", ["inpaint=scenes_diffusion", "inpaint.cache=null"]).inpaint)
    made = verdict(own, model, held_out(2, seed=11))
    assert made.removed.n >= 23
    assert (made.removed.value or 0) >= 0.95
    assert made.invented.value == 0
