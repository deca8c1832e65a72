"""Drawing: locate the neurons that write a concept into drawn pictures, edit them, measure what is drawn and said.

kedit draw concept=star
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sharing import check_at_hand, unchanged
from kedit.paths import conf_dir
from kedit.progress import show_progress

LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "evaluate.target": 1, "evaluate.retention": 0,
         "evaluate.controls": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="draw")
@reported
def draw(cfg: DictConfig) -> None:
    """Draw in one Hydra folder."""
    from kedit.cli import show

    with run_folder(cfg, LEAST) as (kept, tracker):
        result = job(cfg)
        result.save_in(kept, figures=figure_style(cfg), page=cfg.page)
        show.mirror_drawings(result, tracker, kept)
        show.terminal(result, kept)


def job(cfg: DictConfig) -> Any:
    """Build what the configuration names and return what `kedit.draw` makes of it."""
    from kedit.cli.pairs import inpainter, prepared
    from kedit.locate.drawn import check_drawable
    from kedit.models.drawing import drawer
    from kedit.pipelines.draw import check, draw_prepared
    from kedit.pipelines.given import as_locator
    from kedit.pipelines.seers import seer_of

    use_threads(cfg.threads)
    data, locator, plan = build(cfg.data), build(cfg.locate), build(cfg.edit)
    segment = None if (node := OmegaConf.select(cfg, "segment")) is None else build(node)
    with misuse():
        check_drawable(locator)
        check(plan)
        seer, words = seer_of(data, segment), None if cfg.words is None else as_locator(cfg.words)
        check_at_hand(cfg.model)
        pictures = prepared(data, cfg.concept, inpainter(cfg), {**cfg.evaluate, "text": False}, cfg.seed)
    with unchanged(cfg.model) as found:
        with misuse():
            drawer(found.model).check_ready()
        return draw_prepared(
            found.model, pictures, locator, words, plan, seer, controls=cfg.evaluate.controls,
            temperature=cfg.drawing.temperature, guidance=cfg.drawing.guidance, seed=cfg.seed, progress=show_progress,
        )  # fmt: skip


def main() -> int:
    """Run the command line."""
    return guarded(draw)


if __name__ == "__main__":
    sys.exit(main())
