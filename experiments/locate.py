"""Locating alone: score the neurons of a concept, of all samples or of a share of them, and keep the best.

kedit locate concept=star
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, misuse, use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.sharing import loaded
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "samples": 1, "shard.index": 0, "shard.count": 1}
SCORES, SHARD = "scores.safetensors", "shard.json"


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="locate")
@reported
def locate(cfg: DictConfig) -> None:
    """Locate in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    with run_folder(cfg, LEAST) as (kept, tracker):
        began, name = time.perf_counter(), HydraConfig.get().runtime.choices["locate"]
        locator = build(cfg.locate)
        scores, about = scored(cfg, locator) if cfg.merge is None else merged(cfg.merge, locator)
        if cfg.merge is None and cfg.shard.count > 1:
            from kedit.neurons import save_scores
            from kedit.pipelines.locate import without_seconds

            kept.save_file(SCORES, lambda path: save_scores(without_seconds(scores), path))
            kept.save_json(SHARD, about)
            print(f"shard {about['index']} of {about['count']}: {about['samples']['located']} samples scored")
        else:
            from experiments.located import leave

            leave(locator, name, scores, about, kept, tracker, began)


def scored(cfg: DictConfig, locator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores of the samples of the shard, and what else is known of them.

    Its samples are chosen before anything is painted or captioned; of several shards, one may have no usable sample,
    and so no scores.
    """
    import torch

    from experiments.pairs import inpainter, paired
    from kedit.locate.shards import check_shareable, share
    from kedit.pipelines.locate import usable
    from kedit.samples import find_concept
    from kedit.weights import signature

    use_threads(cfg.threads)
    data, inpaint, shard = build(cfg.data), inpainter(cfg), cfg.shard
    alone = shard.count == 1
    with misuse():
        if not alone:
            check_shareable(locator)
        concept = find_concept(data.concepts, str(cfg.concept))
        split = data.split(concept, locate=cfg.samples, target=1, retention=0, seed=cfg.seed)
        pairs = paired(inpaint, share(split.locate, shard.index, shard.count), concept, needed=alone)
    model = loaded(cfg.model)
    with misuse():
        model.require("image")
    used = usable(model, pairs.made, bar, needed=alone)
    inner = getattr(locator, "locator", locator)
    if alone:
        scores = locator.score(model, used.pairs, captions=used.captions, progress=bar)
    elif any(inner.mentions(model, used.pairs, used.captions)):
        scores = inner.score(model, used.pairs, captions=used.captions, progress=bar, dtype=torch.float64)
    else:
        scores = {}
    ids = next(iter(scores.values())).provenance["samples"].split(",") if scores else []
    # What the data set passed over, it passed over for all shards.
    skipped = {**(split.skipped if shard.index == 0 else {}), **pairs.skipped}
    skipped |= {"counterfactual_names_it": used.still_named, "caption_does_not_name_it": len(used.pairs) - len(ids)}
    return scores, {
        "index": shard.index,
        "count": shard.count,
        "weights": signature(model.module),
        "widths": dict(model.site(locator.site, getattr(locator, "scope", "language")).widths),
        "samples": {"located": len(ids), "skipped": skipped, "ids": ids},
    }


def merged(folders: Any, locator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what one job would have found, from the folders of all shards or from the one folder that they are in."""
    from kedit.locate.shards import merge
    from kedit.neurons import load_scores
    from kedit.pipelines.locate import check_scorers

    within = [one.parent for one in Path(folders).glob(f"*/{SHARD}")] if isinstance(folders, str) else folders
    with misuse():
        about = {place: json.loads((Path(place) / SHARD).read_text(encoding="utf-8")) for place in within}
        order = sorted(about, key=lambda place: about[place]["index"])
        told = [about[place] for place in order]
        if not told or [one["index"] for one in told] != list(range(told[0]["count"])):
            there = ", ".join(f"{one['index']} of {one['count']}" for one in told) or "none"
            raise ValueError(f"each shard is needed once to merge `{folders}`; there is {there}")
        if len({one["weights"] for one in told}) > 1:
            raise ValueError(f"the shards in `{folders}` are of models with other weights")
        scores = merge([load_scores(Path(place) / SCORES) for place in order])
    check_scorers(scores, getattr(locator, "locator", locator))
    each = [one["samples"] for one in told]
    reasons = dict.fromkeys(reason for one in each for reason in one["skipped"])
    samples = {
        "located": sum(one["located"] for one in each),
        "skipped": {reason: sum(one["skipped"].get(reason, 0) for one in each) for reason in reasons},
        "ids": [name for one in each for name in one["ids"]],
    }
    # A shard that no caption of which names the concept has no scores to say so.
    unnamed = {"skipped": str(samples["skipped"]["caption_does_not_name_it"])}
    scores = {name: replace(one, provenance={**one.provenance, **unnamed}) for name, one in scores.items()}
    return scores, told[0] | {"samples": samples}


def main() -> int:
    """Run the command line."""
    return guarded(locate)


if __name__ == "__main__":
    sys.exit(main())
