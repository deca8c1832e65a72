"""Locating alone: score the neurons of a concept, of all samples or of a share of them, and keep the best.

kedit locate concept=star
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.jobs import for_texts, guarded, renamed, reported, run_folder
from kedit.cli.sharing import check_at_hand, unchanged
from kedit.paths import conf_dir
from kedit.progress import show_progress

LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "shard.index": 0, "shard.count": 1}

FORMER = {"samples": "evaluate.locate"}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="locate")
@reported
def locate(cfg: DictConfig) -> None:
    """Locate in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.cli import show
    from kedit.pipelines.locate import LocateResult

    with run_folder(cfg, LEAST) as (kept, tracker):
        name = HydraConfig.get().runtime.choices["locate"]
        result = job(cfg, name) if cfg.merge is None else merged(cfg, name)
        if isinstance(result, LocateResult):
            result.save_in(kept, figures=figure_style(cfg), page=cfg.page)
            show.mirror_located(result, tracker, kept)
        else:
            result.save_in(kept)
        show.terminal(result, kept)


def job(cfg: DictConfig, name: str) -> Any:
    """Build what the configuration names and return what locating finds or, of several shards, the scores of one.

    Args:
        cfg: The configuration.
        name: The locator's.
    """
    from kedit.cli.pairs import inpainter, prepared
    from kedit.locate.shards import Shard, check_shareable
    from kedit.pipelines.locate import check_model, locate_prepared
    from kedit.pipelines.shards import score_shard
    from kedit.results.cache import Cache

    use_threads(cfg.threads)
    locator, data, counts = build(cfg.locate), build(cfg.data), {**cfg.evaluate, "target": 1, "retention": 0}
    with misuse():
        shard = Shard(cfg.shard.index, cfg.shard.count)
        if shard.count > 1:
            check_shareable(locator)
        check_at_hand(cfg.model)
        pairs = prepared(data, cfg.concept, inpainter(cfg), counts, cfg.seed, shard)
    with unchanged(cfg.model) as found:
        with misuse():
            check_model(found.model, locator, pairs.medium)
        cache = Cache.at(cfg.store, found.identity, found.weights)
        if shard.count > 1:
            return score_shard(found.model, pairs, locator, shard, cache=cache, progress=show_progress)
        return locate_prepared(found.model, pairs, locator, cache=cache, name=name, progress=show_progress)


def merged(cfg: DictConfig, name: str) -> Any:
    """Return what one job would have found, from the folders of all shards."""
    from kedit.pipelines.shards import merge_shards

    locator = build(cfg.locate)
    with misuse():
        return merge_shards([cfg.merge] if isinstance(cfg.merge, str) else list(cfg.merge), locator, name=name)


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = for_texts(renamed(sys.argv[1:], FORMER))
    return guarded(locate)


if __name__ == "__main__":
    sys.exit(main())
