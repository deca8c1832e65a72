"""Locating alone: score the neurons of a concept, of all samples or of a shard of them, and keep the best.

kedit locate concept=star
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, misuse, use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.complaints import ConfigurationError
from experiments.sharing import loaded
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "samples": 1, "shard.index": 0, "shard.count": 1}
PART = "part.safetensors"


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="locate")
@reported
def locate(cfg: DictConfig) -> None:
    """Locate in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.merging import merge

    with run_folder(cfg, LEAST) as (kept, tracker):
        if cfg.merge is None:
            job(cfg, kept, tracker, locator_name=HydraConfig.get().runtime.choices["locate"])
        elif not Path(cfg.merge).is_dir():
            raise ConfigurationError(f"`merge` is the folder of a sweep whose parts are merged; got `{cfg.merge}`")
        else:
            with misuse():
                merge(Path(cfg.merge), tracker)


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> None:
    """Score the samples of the shard; leave the part or, if it is the only one, what it finds."""
    from experiments.located import leave
    from experiments.pairs import inpainter
    from kedit.locate.joining import refuse_sharing
    from kedit.locate.parts import Shard

    began = time.perf_counter()
    use_threads(cfg.threads)
    locator, data, inpaint = build(cfg.locate), build(cfg.data), inpainter(cfg)
    with misuse():
        shard = Shard(cfg.shard.index, cfg.shard.count)
        stages = getattr(getattr(locator, "locator", locator), "stages", {})
        refuse_sharing({name: one.scorer for name, one in stages.items()}, shard)
        drawn = draw(data, inpaint, str(cfg.concept), cfg.samples, cfg.seed, shard)
    model = loaded(cfg.model)
    with misuse():
        model.require("image")
    part = scored(model, locator, drawn, shard)
    if shard.count == 1:
        leave(locator, locator_name, [part], kept, tracker, time.perf_counter() - began)
        return
    kept.save_file(PART, part.save)
    print(f"shard {shard}: {len(part.samples)} samples of `{drawn.concept.name}` scored; {kept.folder / PART}")


class Drawn(NamedTuple):
    """The pairs of a shard and where each stands among the samples of all."""

    concept: Any
    pairs: list[Any]
    places: list[int]
    skipped: dict[str, int]
    """How many pictures cannot be used or not be painted, by the reason."""


def draw(data: Any, inpaint: Any, name: str, count: int, seed: int, shard: Any) -> Drawn:
    """Return the pairs of the shard; its samples are chosen before anything is painted or captioned."""
    from experiments.pairs import paired
    from kedit.samples import find_concept

    concept = find_concept(data.concepts, name)
    split = data.split(concept, locate=count, target=1, retention=0, seed=seed)
    samples = shard.of(split.locate)
    pairs = paired(inpaint, samples, concept, needed=shard.count == 1)
    place = {id(sample): shard.place(number) for number, sample in enumerate(samples)}
    # What the data set passed over, it passed over for all shards.
    skipped = {**(split.skipped if shard.index == 0 else {}), **pairs.skipped}
    return Drawn(concept, pairs.made, [place[id(pair.sample)] for pair in pairs.made], skipped)


def scored(model: Any, locator: Any, drawn: Drawn, shard: Any) -> Any:
    """Return the part of the pairs whose counterfactual the model's caption no longer names the concept in."""
    told = captions(model, [pair.sample.image for pair in drawn.pairs])
    painted = captions(model, [pair.image for pair in drawn.pairs])
    named = [drawn.concept.mentioned_in(one.text) for one in painted]
    kept = [number for number, still in enumerate(named) if not still]
    part = locator.part(
        model,
        [drawn.pairs[number] for number in kept],
        captions=[told[number] for number in kept],
        progress=bar,
        shard=shard,
        places=[drawn.places[number] for number in kept],
    )
    return replace(part, left_out={**drawn.skipped, "counterfactual_names_it": sum(named)}, concept=drawn.concept.name)


def captions(model: Any, images: Sequence[Any]) -> list[Any]:
    """Return the captions of the pictures, of which there may be none."""
    return model.caption(images, progress=bar) if images else []


def main() -> int:
    """Run the command line, or this process's share of it under torchrun."""
    from experiments.ranks import Rank

    rank = Rank.here()
    return guarded(locate) if rank is None else rank.run(locate)


if __name__ == "__main__":
    sys.exit(main())
