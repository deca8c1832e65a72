"""Train the eye of `smollm2_scenes` in three stages, examine it, and write it with its card."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import use_threads
from kedit.cli.jobs import guarded, reported
from kedit.data.scenes import FIRST_TRAINING_SEED

STAGES = ("codes", "pairs", "captions")
FIRST_SEED = {name: number * FIRST_TRAINING_SEED for name, number in zip(STAGES, (3, 5, 4), strict=True)}
"""The first scene of each stage: none is in two of them, or in an evaluation."""


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def train_smollm2(cfg: DictConfig) -> None:
    """Train, examine and write the eye."""
    import torch
    from safetensors.torch import save_file

    from experiments.training.smollm2.card import card
    from kedit.models.smollm2.language import language_folder
    from kedit.models.smollm2.scenes import assemble, eye_of

    use_threads(cfg.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(cfg.seed)
    module, processor = assemble(Path(cfg.language) if cfg.language else language_folder())
    module = module.float().requires_grad_(False)
    before = {name: value.clone() for name, value in module.model.language_model.state_dict().items()}
    folder, out = Path(cfg.folder), Path(cfg.export)
    learn(module, processor, cfg, folder)
    for name, value in module.model.language_model.state_dict().items():
        assert torch.equal(value, before[name]), f"the language model changed in {name}"

    out.mkdir(parents=True, exist_ok=True)
    save_file(eye_of(module), out / "eye.safetensors")
    scores = examined(module, processor, cfg.exam.scenes)
    (out / "README.md").write_text(card(scores, {name: dict(cfg[name]) for name in FIRST_SEED}, _curve(folder)))
    print({colors: {name: str(score) for name, score in one.items()} for colors, one in scores.items()})
    print(f"files: {out}")


def learn(module: Any, processor: Any, cfg: DictConfig, folder: Path) -> None:
    """Train tower and projector of `module` in place; the language model is read and never changed."""
    from experiments.training.scenes.loop import Schedule, train
    from experiments.training.smollm2 import captions, codes
    from kedit.models.smollm2.scenes import PROMPT

    eye = codes.Eye(module.model.vision_tower, module.model.multi_modal_projector).requires_grad_(True)
    words = codes.Codes(module.get_input_embeddings().weight.detach(), processor.tokenizer)
    for name in ("codes", "pairs"):
        pictures = partial(codes.batch, FIRST_SEED[name], cfg[name].batch, paired=name == "pairs")
        schedule = Schedule(cfg[name].steps, cfg[name].peak)
        for _ in train(name, eye, schedule, lambda step, of=pictures: codes.losses(eye, words, of(step)), folder):
            pass
    losses = captions.objective(
        eye, module.model.language_model, processor, PROMPT, FIRST_SEED["captions"], cfg.captions.batch
    )
    schedule = Schedule(cfg.captions.steps, cfg.captions.peak, warmup=20, weight_decay=0.0)
    for _ in train("captions", eye, schedule, losses, folder, save_every=20):
        pass


def examined(module: Any, processor: Any, n_scenes: int) -> dict[str, Any]:
    """Return the accuracies of captions on scenes that no training saw, by how colours are drawn."""
    from experiments.training.scenes.evaluation import caption_scores
    from kedit.data.scene import scene
    from kedit.models.loading import wrap
    from kedit.models.smollm2.scenes import PROMPT

    model = wrap(module, processor, name="smollm2_scenes", prompt=PROMPT, batch_size=32, max_new_tokens=28)
    return {
        colors: caption_scores(model, [scene(seed, colors=colors) for seed in range(n_scenes)])
        for colors in ("distinct", "free")
    }


def _curve(folder: Path) -> list[dict[str, Any]]:
    """Return the last row of each stage's curve."""
    return [
        {"stage": name, **json.loads((folder / f"{name}.jsonl").read_text().splitlines()[-1])} for name in FIRST_SEED
    ]


def main() -> int:
    """Run the command line."""
    return guarded(train_smollm2)


if __name__ == "__main__":
    sys.exit(main())
