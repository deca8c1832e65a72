"""Train the models that ship with kedit, from nothing, on two CPU cores.

python -m experiments.training.scenes.run variant=scenes
"""

import json
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported
from kedit.data.scenes import FIRST_TRAINING_SEED

FIRST_TOWER_SEED, FIRST_SCENE_SEED, FIRST_EVALUATION_SEED = FIRST_TRAINING_SEED, 2 * FIRST_TRAINING_SEED, 0
N_STANDARD = 256
"""Training pictures on which the sign of each neuron is fixed."""


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def train_scenes(cfg: DictConfig) -> None:
    """Train the tower, then the language model, examine it and write the folder."""
    import torch

    from experiments.training.scenes import export, language, objective, rows
    from experiments.training.scenes.loop import Schedule, train
    from experiments.training.scenes.recipes import RECIPES
    from kedit.data.grammar import CATEGORIES
    from kedit.data.scene import scene

    if cfg.variant not in RECIPES:
        raise ConfigurationError(f"`variant` is one of {', '.join(RECIPES)}, got `{cfg.variant}`")
    if cfg.without not in (None, *CATEGORIES):
        raise ConfigurationError(f"`without` is one of {', '.join(CATEGORIES)}, or null; got `{cfg.without}`")
    use_threads(cfg.threads)
    torch.set_flush_denormal(True)
    folder, recipe = Path(cfg.folder), RECIPES[cfg.variant]
    tower = trained_tower(cfg, folder)

    torch.manual_seed(cfg.seed)
    processor = language.processor()
    model = language.llava(processor.tokenizer)
    if recipe.partition:
        language.partition(model)
    model.model.vision_tower.load_state_dict(tower.tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    pool = objective.pool(tower, FIRST_SCENE_SEED, cfg.language.pool, folder / "features.safetensors", cfg.without)
    maker = rows.RowMaker(processor.tokenizer.get_vocab(), recipe, cfg.without)
    losses = objective.objective(model, maker, pool, cfg.language.batch, bfloat16=cfg.language.bfloat16)
    schedule = Schedule(cfg.language.steps, cfg.language.peak)
    for _ in train(cfg.variant, model, schedule, losses, folder, save_every=cfg.language.save_every):
        pass

    out = Path(cfg.export)
    seen = [scene(seed).image() for seed in range(FIRST_SCENE_SEED, FIRST_SCENE_SEED + N_STANDARD)]
    if recipe.standardized:
        export.standardize(model, processor, seen)
    order = export.shuffle_first_layer(model, cfg.seed) if recipe.partition else None
    export.save(model, processor, out)
    if order is not None:
        (out / "banks.json").write_text(json.dumps(export.banks(order)) + "\n")
    curve = [json.loads(line) for line in (folder / f"{cfg.variant}.jsonl").read_text().splitlines()]
    (out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve))
    export.draw_curve(curve).save(out / "curve.png")

    examine(cfg, out, curve)


def examine(cfg: DictConfig, out: Path, curve: list[dict[str, Any]]) -> None:
    """Ask the model in `out` about held-out scenes, and write its card there."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.training.scenes import evaluation, export
    from kedit.data.grammar import CAPTION_PROMPT
    from kedit.data.scene import scene
    from kedit.models.loading import load

    shipped = load(out, name=cfg.variant, prompt=CAPTION_PROMPT, batch_size=64, max_new_tokens=28)
    seeds = range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + cfg.exam.scenes)
    accuracies = {
        colors: evaluation.evaluate(shipped, [scene(seed, colors=colors) for seed in seeds])
        for colors in ("distinct", "free")
    }
    layers = evaluation.layer_table(shipped, [scene(seed) for seed in seeds[: cfg.exam.layers]])
    training = OmegaConf.to_container(cfg.language) | {"minutes": round(sum(_spans(curve)) / 60)}  # type: ignore[operator]
    asked = [one for one in HydraConfig.get().overrides.task if not one.startswith(("folder=", "export="))]
    command = " ".join(["python -m experiments.training.scenes.run", *asked])
    (out / "README.md").write_text(export.card(cfg.variant, shipped.module, accuracies, layers, training, command))
    for colors, scores in accuracies.items():
        print(colors, {name: str(score) for name, score in scores.items()})
    print(f"files: {out}")


def trained_tower(cfg: DictConfig, folder: Path) -> Any:
    """Return the vision tower, trained on patch labels, or that of a model that is there."""
    import torch

    from experiments.training.scenes import tower
    from experiments.training.scenes.loop import Schedule, train
    from kedit.models.loading import load

    torch.manual_seed(cfg.seed)
    labeler = tower.PatchLabeler()
    if cfg.tower.of is not None:
        eye: Any = load(cfg.tower.of).module
        labeler.tower.load_state_dict(eye.model.vision_tower.state_dict())
        return labeler.eval()
    batches = tower.SceneBatches(cfg.tower.batch, FIRST_TOWER_SEED)
    schedule = Schedule(cfg.tower.steps, cfg.tower.peak)
    for _ in train("tower", labeler, schedule, lambda step: tower.losses(labeler, batches[step]), folder):
        pass
    return labeler.eval()


def _spans(curve: list[dict[str, float]]) -> list[float]:
    """Return the seconds of each uninterrupted part of the training."""
    following = [*curve[1:], {"seconds": 0.0}]
    return [row["seconds"] for row, after in zip(curve, following, strict=True) if after["seconds"] < row["seconds"]]


def main() -> int:
    """Run the command line."""
    return guarded(train_scenes)


if __name__ == "__main__":
    sys.exit(main())
