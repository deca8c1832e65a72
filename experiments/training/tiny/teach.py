"""Teach a model of random weights what a data set's pictures show, so that there is something to locate in it.

python -m experiments.training.tiny.teach model.family=llava data.folder=outputs/blocks folder=outputs/taught/llava
"""

import sys
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import kedit
from kedit.cli.configuration import build, misuse, texts, use_threads, whole_numbers
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported
from kedit.progress import show_progress
from kedit.samples import Sample

LEAST = {"steps": 1, "batch": 1, "pictures": 1, "exam": 1, "seed": 0, "threads": 1}


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="teach")
@reported
def teach(cfg: DictConfig) -> None:
    """Teach, save the model as transformers does, read it again and examine it."""
    from experiments.training.tiny.lesson import Lesson, examined
    from kedit.models.loading import without_bars

    whole_numbers(cfg, LEAST, optional=["threads"])
    texts(cfg)
    use_threads(cfg.threads)
    folder, data = Path(cfg.folder), build(cfg.data)
    if (folder / "config.json").exists() and not cfg.overwrite:
        raise ConfigurationError(
            f"`folder` `{folder}` holds a model; name another, or replace it with `overwrite=true`"
        )
    with misuse():
        samples = _captioned(data, cfg.pictures + cfg.exam, cfg.seed)
    model = build(cfg.model)
    Lesson(cfg.steps, cfg.rate, cfg.batch, cfg.seed).give(model, samples[: cfg.pictures], show_progress)
    with without_bars():
        model.module.save_pretrained(folder)
        model.processor.save_pretrained(folder)
    taught = kedit.load(folder, prompt=model.prompt, batch_size=model.batch_size, max_new_tokens=model.max_new_tokens)
    print(f"captions right: {examined(taught, samples[cfg.pictures :], show_progress)} (n = {cfg.exam})")
    print(f"files: {folder}")


def _captioned(data: Any, count: int, seed: int) -> list[Sample]:
    """Return `count` pictures with captions, in the order of `seed`."""
    found = list(islice((one for one in data.pictures(seed=seed) if one.references), count))
    if len(found) < count:
        raise ConfigurationError(
            f"`pictures` and `exam` ask for {count} pictures with captions, and the data has {len(found)}"
        )
    return found


def main() -> int:
    """Run the command line."""
    return guarded(teach)


if __name__ == "__main__":
    sys.exit(main())
