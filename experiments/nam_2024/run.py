"""NAM's protocol on the pictures that a model draws.

python -m experiments.nam_2024.run
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.nam_2024 import tables
from kedit.cli.configuration import build, figure_style, use_threads
from kedit.cli.jobs import guarded, reported
from kedit.cli.sharing import loaded
from kedit.progress import show_progress

TABLES = ("layers", "words", "relevance", "specificity", "invariance", "edits", "turns")


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def study(cfg: DictConfig) -> None:
    """Locate each concept by every method, then measure; each table is left as soon as it is known."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.inspection.concepts import by_layer
    from kedit.pipelines.artist import Artist
    from kedit.pipelines.seers import seer_of
    from kedit.plots import draw_layers
    from kedit.results.run_folder import Run

    use_threads(cfg.threads)
    data, model = build(cfg.data), loaded(cfg.model)
    artist = Artist(model, seer_of(data, None), seed=cfg.seed, progress=show_progress)
    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        found = {name: located(cfg, artist, data, name) for name in cfg.turns}
        for name in TABLES:
            table = getattr(tables, name)(cfg, artist, found)
            kept.save_text(f"report_{name}.md", table.markdown() + "\n")
            kept.save_json(f"report_{name}.json", table.to_json())
            print(table)
        counts = by_layer({name: (one.scores["nam_image"], one.words) for name, one in found.items()}, max(cfg.sizes))
        sets = {kind: dict(enumerate(some)) for kind, some in counts.items()}
        kept.save_figures({"layers": draw_layers(sets, model.site("mid").widths)}, figure_style(cfg))
        print(f"files: {kept.folder}")


@dataclass(frozen=True)
class Found:
    """What was found of one concept."""

    prepared: Any
    shown: Any
    """Drawings that show it."""
    scores: Mapping[str, Any]
    """Of each method, on these drawings."""
    words: Any
    """Those of the T-neurons."""
    locators: Mapping[str, Any]
    """What scored, by method."""

    def sets(self, k: int) -> dict[str, Any]:
        """Return the best `k` neurons of each method."""
        from kedit.inspection.concepts import best

        return {method: best(one, k) for method, one in self.scores.items()}


def located(cfg: DictConfig, artist: Any, data: Any, name: str, missing: str = "skip") -> Found:
    """Return the scores of every method on drawings of a concept, and those of its word in captions.

    `missing` is what becomes of captions that do not name it, see `Target.on_missing`.
    """
    from kedit.cli.pairs import counts_of
    from kedit.locate.drawn import NAMImage, score_drawn
    from kedit.locate.locator import Locator, Stage
    from kedit.locate.selection import TopK
    from kedit.locate.shipped import shipped
    from kedit.pipelines.artist import caption_of
    from kedit.pipelines.locate import locate_prepared
    from kedit.pipelines.preparation import prepare

    prepared = prepare(data, name, build(cfg.inpaint), replace(counts_of(cfg.evaluate), text=False), seed=cfg.seed)
    shown = artist.depicted([caption_of(pair.sample) for pair in prepared.pairs], prepared.evaluation_set.concept)
    signed = Locator({"signed": Stage(NAMImage(normalise="none", activation=False), TopK(cfg.k))})
    locators = {method: signed if method == "signed" else shipped(method) for method in cfg.methods}
    scores = {
        method: next(iter(score_drawn(artist.model, one, shown, progress=show_progress).values()))
        for method, one in locators.items()
    }
    words = shipped("nam")
    words = replace(words, target=replace(words.target, on_missing=missing))
    worded = locate_prepared(artist.model, prepared, words, progress=show_progress)
    return Found(prepared, shown, scores, worded.scores["nam"], locators)


def main() -> int:
    """Run the command line."""
    return guarded(study)


if __name__ == "__main__":
    sys.exit(main())
