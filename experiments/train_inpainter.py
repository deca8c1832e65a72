"""Train the inpainting pipeline that ships with kedit, from nothing, on one CPU core.

kedit train-inpainter
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import guarded, reported, use_threads
from kedit.data.scenes import FIRST_TRAINING_SEED
from kedit.paths import conf_dir

FIRST_AUTOENCODER_SEED, FIRST_DENOISER_SEED = 3 * FIRST_TRAINING_SEED, 4 * FIRST_TRAINING_SEED


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train_inpainter")
@reported
def train_inpainter(cfg: DictConfig) -> None:
    """Train the autoencoder, then the denoiser, examine the pipeline and write the folder."""
    import torch

    from experiments.inpainter_training import denoiser, export

    use_threads(cfg.threads)
    torch.set_flush_denormal(True)
    folder, out = Path(cfg.folder), Path(cfg.export)
    autoencoder = trained_autoencoder(cfg, folder)
    pool = denoiser.pool(autoencoder, FIRST_DENOISER_SEED, cfg.denoiser.pool, folder / "latents.safetensors")
    network = trained_denoiser(cfg, pool, folder)
    size = export.save(export.pipeline(autoencoder, network, pool.scale), out)
    print(f"files: {out} ({size / 1e6:.1f} MB)")


def trained_autoencoder(cfg: DictConfig, folder: Path) -> Any:
    """Return the autoencoder, trained on pictures with a hole and pictures without a thing."""
    import torch

    from experiments.inpainter_training.autoencoder import autoencoder, losses
    from experiments.scenes_training.loop import Schedule, train

    torch.manual_seed(cfg.seed)
    model, settings = autoencoder(), cfg.autoencoder
    objective = partial(losses, model, FIRST_AUTOENCODER_SEED, settings.batch)
    for _ in train("autoencoder", model, Schedule(settings.steps, settings.peak), objective, folder):
        pass
    return model.eval().requires_grad_(False)


def trained_denoiser(cfg: DictConfig, pool: Any, folder: Path) -> Any:
    """Return the denoiser, trained on the latents of `pool`."""
    import torch

    from experiments.inpainter_training.denoiser import denoiser, losses, scheduler
    from experiments.scenes_training.loop import Schedule, train

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
