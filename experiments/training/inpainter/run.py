"""Train the inpainting pipeline that ships with kedit, from nothing, on one CPU core.

python -m experiments.training.inpainter.run
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import use_threads
from kedit.cli.jobs import guarded, reported
from kedit.data.scenes import FIRST_TRAINING_SEED

FIRST_AUTOENCODER_SEED, FIRST_DENOISER_SEED = 3 * FIRST_TRAINING_SEED, 4 * FIRST_TRAINING_SEED
EVALUATION_SEED = 7
"""Of the split that the evaluation's pictures come from: another one than a run's default."""
DILATION = 2
"""By how many pixels holes are grown in the evaluation."""


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def train_inpainter(cfg: DictConfig) -> None:
    """Train the autoencoder, then the denoiser, write the folder and examine what is in it."""
    import torch

    from experiments.training.inpainter import denoiser, export

    use_threads(cfg.threads)
    torch.set_flush_denormal(True)
    folder, out = Path(cfg.folder), Path(cfg.export)
    autoencoder = trained_autoencoder(cfg, folder)
    pool = denoiser.pool(autoencoder, FIRST_DENOISER_SEED, cfg.denoiser.pool, folder / "latents.safetensors")
    pipeline = export.pipeline(autoencoder, trained_denoiser(cfg, pool, folder), pool.scale)
    size = export.save(pipeline, out)
    n_weights = {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in ("vae", "unet")}
    (out / "README.md").write_text(examined(cfg, folder, out, n_weights, size))
    print(f"files: {out} ({size / 1e6:.1f} MB)")


def examined(cfg: DictConfig, folder: Path, out: Path, n_weights: dict[str, int], size: int) -> str:
    """Return the card of the pipeline in `out`, and draw some of what it paints beside it."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.training.inpainter.card import card, seconds_of
    from experiments.training.inpainter.evaluation import draw, held_out, verdict
    from kedit.data.grammar import CAPTION_PROMPT
    from kedit.data.inpaint import Exact, MeanFill
    from kedit.data.inpaint_diffusers import DiffusersFill
    from kedit.models.loading import load

    model = load("scenes", prompt=CAPTION_PROMPT, batch_size=32, max_new_tokens=28)
    pictures = held_out(cfg.exam.samples, EVALUATION_SEED)
    own = DiffusersFill(str(out), steps=cfg.exam.steps, guidance=1.0, dilation=DILATION, cache=None)
    verdicts = {
        name: verdict(one, model, pictures)
        for name, one in {"scenes_inpainter": own, "mean": MeanFill(DILATION), "exact": Exact()}.items()
    }
    draw(own, pictures, out / "pictures.png")
    for name, one in verdicts.items():
        print(f"{name}: removed {one.removed} (n = {one.removed.n}), invented {one.invented}, PSNR {one.psnr} dB")
    training = {
        stage: {**cfg[stage], "seconds": round(seconds_of(folder / f"{stage}.jsonl"))}
        for stage in ("autoencoder", "denoiser")
    }
    asked = [one for one in HydraConfig.get().overrides.task if not one.startswith(("folder=", "export="))]
    command = " ".join(["python -m experiments.training.inpainter.run", *asked])
    return card(verdicts, n_weights, size, training, command, cfg.exam.steps)


def trained_autoencoder(cfg: DictConfig, folder: Path) -> Any:
    """Return the autoencoder, trained on pictures with a hole and pictures without a thing."""
    import torch

    from experiments.training.inpainter.autoencoder import autoencoder, losses
    from experiments.training.scenes.loop import Schedule, train

    torch.manual_seed(cfg.seed)
    model, settings = autoencoder(), cfg.autoencoder
    objective = partial(losses, model, FIRST_AUTOENCODER_SEED, settings.batch)
    for _ in train("autoencoder", model, Schedule(settings.steps, settings.peak), objective, folder):
        pass
    return model.eval().requires_grad_(False)


def trained_denoiser(cfg: DictConfig, pool: Any, folder: Path) -> Any:
    """Return the denoiser, trained on the latents of `pool`."""
    import torch

    from experiments.training.inpainter.denoiser import denoiser, losses, scheduler
    from experiments.training.scenes.loop import Schedule, train

    torch.manual_seed(cfg.seed)
    model, settings = denoiser(), cfg.denoiser
    objective = partial(losses, model, scheduler(), pool, settings.batch)
    for _ in train("denoiser", model, Schedule(settings.steps, settings.peak), objective, folder):
        pass
    return model.eval()


def main() -> int:
    """Run the command line."""
    return guarded(train_inpainter)


if __name__ == "__main__":
    sys.exit(main())
