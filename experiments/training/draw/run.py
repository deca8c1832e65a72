"""Train the drawing model that ships with kedit on one CPU core, from the captioning model `scenes_plain`.

python -m experiments.training.draw.run
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

FIRST_PARTS_SEED, FIRST_SCENE_SEED, FIRST_EYE_SEED = (n * FIRST_TRAINING_SEED for n in (5, 6, 7))
FIRST_DECODER_SEED = FIRST_PARTS_SEED + 10_000
FIRST_SKETCH_SEED, FIRST_ENCODER_SEED = FIRST_PARTS_SEED + 100_000, 8 * FIRST_TRAINING_SEED
FIRST_EVALUATION_SEED = 0
N_SCALED = 64
"""Pictures on which the eye's first scale is measured."""


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def train_draw(cfg: DictConfig) -> None:
    """Train the picture tokenizer, the eye and the language model, write the folder and examine what is in it."""
    import torch

    from experiments.training.draw import export, model
    from kedit.models.loading import load

    use_threads(cfg.threads)
    torch.set_flush_denormal(True)
    folder, out = Path(cfg.folder), Path(cfg.export)
    captioner: Any = load(cfg.captioner).module
    centers = parts(cfg, folder)
    codec = trained_tokenizer(cfg, folder, centers)
    processor = model.processor()
    drawing = untrained(cfg, captioner, processor, centers)
    train_eye(cfg, folder, drawing, captioner)
    train_language(cfg, folder, drawing, captioner, processor, centers)
    drawing.model.vqmodel.load_state_dict(codec.state_dict())
    drawing.generation_config.guidance_scale = cfg.exam.guidance
    export.save(drawing, processor, out)
    (out / "README.md").write_text(examined(cfg, folder, out, centers))
    print(f"files: {out} ({export.size(out) / 1e6:.1f} MB)")


def parts(cfg: DictConfig, folder: Path) -> Any:
    """Return the centers of the parts that cells may show, from `folder` when an earlier run left them there."""
    from safetensors.torch import load_file, save_file

    from experiments.training.draw.codes import fit_parts
    from kedit.data.scene import scene

    file = folder / "parts.safetensors"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        seeds = range(FIRST_PARTS_SEED, FIRST_PARTS_SEED + cfg.parts.scenes)
        save_file({"centers": fit_parts([scene(seed) for seed in seeds], seed=cfg.seed)}, file)
    return load_file(file)["centers"]


def trained_tokenizer(cfg: DictConfig, folder: Path, centers: Any) -> Any:
    """Return the picture tokenizer: its decoder is trained, sketching first, and then its encoder."""
    import torch

    from experiments.training.draw import tokenizer
    from experiments.training.draw.codes import codebook
    from experiments.training.draw.model import WIDTH
    from experiments.training.scenes.loop import Schedule, train

    torch.manual_seed(cfg.seed)
    whole = tokenizer.tokenizer(codebook(centers, tokenizer.EMBEDDING), WIDTH)
    sketch = tokenizer.Sketch(whole)
    losses = partial(tokenizer.sketch_losses, sketch, centers, FIRST_SKETCH_SEED, cfg.sketch.batch)
    for _ in train("sketch", sketch, Schedule(cfg.sketch.steps, cfg.sketch.peak, warmup=50), losses, folder):
        pass
    losses = partial(tokenizer.decoder_losses, sketch.back, centers, FIRST_DECODER_SEED, cfg.decoder.batch)
    for _ in train("decoder", sketch.back, Schedule(cfg.decoder.steps, cfg.decoder.peak, warmup=50), losses, folder):
        pass
    tokenizer.settle(whole)
    there = tokenizer.Encoder(whole)
    losses = partial(tokenizer.encoder_losses, there, centers, FIRST_ENCODER_SEED, cfg.encoder.batch)
    for _ in train("encoder", there, Schedule(cfg.encoder.steps, cfg.encoder.peak), losses, folder):
        pass
    return whole.eval()


def untrained(cfg: DictConfig, captioner: Any, processor: Any, centers: Any) -> Any:
    """Return the model as its training begins."""
    import torch

    from experiments.training.draw import model
    from experiments.training.draw.codes import codebook
    from experiments.training.draw.tokenizer import EMBEDDING
    from experiments.training.scenes.tower import pixel_values
    from kedit.data.scene import scene

    torch.manual_seed(cfg.seed)
    drawing = model.janus(processor.tokenizer)
    seen = [scene(seed) for seed in range(FIRST_SCENE_SEED, FIRST_SCENE_SEED + N_SCALED)]
    model.take_over(drawing, captioner, pixel_values(seen))
    model.start_codes(drawing, codebook(centers, EMBEDDING))
    return drawing


def train_eye(cfg: DictConfig, folder: Path, drawing: Any, captioner: Any) -> None:
    """Let the eye learn to write what that of the captioning model writes."""
    from experiments.training.draw import eye
    from experiments.training.scenes.loop import Schedule, train

    own = eye.Eye(drawing.model)
    losses = partial(eye.losses, own, captioner, FIRST_EYE_SEED, cfg.eye.batch)
    for _ in train("eye", own, Schedule(cfg.eye.steps, cfg.eye.peak, warmup=50), losses, folder, save_every=50):
        pass


def train_language(cfg: DictConfig, folder: Path, drawing: Any, captioner: Any, processor: Any, centers: Any) -> None:
    """Let the language model learn to draw, and go on saying what the captioning model's eye sees."""
    from experiments.training.draw.codes import stamps
    from experiments.training.draw.eye import taught
    from experiments.training.draw.objective import Language, Steady, objective
    from experiments.training.draw.rows import RowMaker
    from experiments.training.scenes.loop import train
    from kedit.data.scene import scene

    how = cfg.language
    seeds = range(FIRST_SCENE_SEED, FIRST_SCENE_SEED + how.pool)
    maker = RowMaker(processor.tokenizer.get_vocab())
    shown = [scene(seed) for seed in seeds]
    losses = objective(drawing, maker, shown, stamps(centers), how.batch, lambda pixels: taught(captioner, pixels))
    schedule = Steady(how.steps, how.peak, falls_from=how.falls_from)
    for _ in train("language", Language(drawing), schedule, losses, folder, save_every=how.save_every):
        pass


def examined(cfg: DictConfig, folder: Path, out: Path, centers: Any) -> str:
    """Return the card of the model in `out`, and draw some of its drawings beside it."""
    from experiments.training.draw import evaluation
    from experiments.training.draw.card import Verdicts, card, show
    from experiments.training.scenes.evaluation import caption_scores
    from kedit.data.grammar import CAPTION_PROMPT
    from kedit.data.scene import scene
    from kedit.models.drawing import drawer
    from kedit.models.loading import load

    model = load(out, name="scenes_draw", prompt=CAPTION_PROMPT, batch_size=128, max_new_tokens=28)
    judge = load("scenes", prompt=CAPTION_PROMPT, batch_size=128, max_new_tokens=28)
    scenes = [scene(seed) for seed in range(FIRST_EVALUATION_SEED, FIRST_EVALUATION_SEED + cfg.exam.scenes)]
    draws = drawer(model)
    how = {"temperature": cfg.exam.temperature, "guidance": cfg.exam.guidance}
    drawn = draws.draw([one.captions()[0] for one in scenes], seed=cfg.seed, **how).images
    verdicts = Verdicts(
        found=evaluation.found_scores(drawn, scenes), captioned=evaluation.captioned_scores(judge, drawn, scenes),
        real=evaluation.captioned_scores(judge, [one.image() for one in scenes], scenes),
        codec=evaluation.tokenizer_scores(draws, centers, scenes[: cfg.exam.codec]),
        captions=caption_scores(model, scenes),
    )  # fmt: skip
    show(drawn, out / "drawings.png")
    stages = ("sketch", "decoder", "encoder", "eye", "language")
    return card(verdicts, model.module, {stage: dict(cfg[stage]) for stage in stages}, folder, how)


def main() -> int:
    """Run the command line."""
    return guarded(train_draw)


if __name__ == "__main__":
    sys.exit(main())
