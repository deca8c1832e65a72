"""Locating methods side by side: what editing each one's neurons does, with equal budgets and the same samples.

kedit compare concept=star
"""

import sys
from collections.abc import Iterator
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.comparison.choices import chosen, several, understood
from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sharing import check_at_hand, unchanged
from kedit.paths import conf_dir
from kedit.progress import show_progress

LEAST = {"seed": 0, "threads": 1, "random_seeds": 1, "evaluate.locate": 1, "evaluate.target": 1,
         "evaluate.retention": 0, "matrix.target": 1}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="compare")
@reported
def compare(cfg: DictConfig) -> None:
    """Run one comparison in its Hydra folder; what an earlier one has in the store is not computed again."""
    least = {key: one for key, one in LEAST.items() if cfg.matrix or not key.startswith("matrix")}
    if asked := [f"`evaluate.{key}`" for key in ("chair", "pope") if cfg.evaluate[key]]:
        raise ConfigurationError(f"a comparison does not take {' and '.join(asked)}, which `kedit run` does")
    with run_folder(cfg, least, ["concept"]) as (kept, tracker):
        use_threads(cfg.threads)
        style = figure_style(cfg)
        if cfg.against == "truth":
            from kedit.cli.comparison.truth import truth

            truth(cfg, kept, tracker, style)
        elif cfg.against == "effect":
            # An interrupted comparison leaves what there is, too.
            done = effect(cfg, lambda partial: leave(partial, kept, tracker, style, page=cfg.page))
            leave(done, kept, tracker, style, page=cfg.page)
        else:
            raise ConfigurationError(f"`against` is effect or truth; got {cfg.against}")


def effect(cfg: DictConfig, keep: Any) -> Any:
    """Build what the configuration names and return what `kedit.compare` makes of it."""
    from kedit.pipelines.compare import compare_prepared, of_matrix
    from kedit.pipelines.locate import check_model
    from kedit.results.cache import Cache

    # Whatever can be wrong is found before the model is loaded, which is slow.
    choices, data, plan = chosen(cfg), build(cfg.data), build(cfg.edit)
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    with misuse():
        check_at_hand(cfg.model)
        asked = prepared_for(cfg, data, several(cfg.concept, "concept"), choices.counts)
        shown, method = [], (cfg.matrix or {}).get("method") or choices.reference
        if cfg.matrix and has_matrix(cfg.matrix.concepts, asked[0].medium):
            choices.method(str(method), "matrix.method")
            names = cfg.matrix.concepts or [concept.name for concept in data.concepts]
            shown = prepared_for(cfg, data, names, of_matrix(choices.counts, cfg.matrix.target))
    with unchanged(cfg.model) as found:
        with misuse():
            check_model(found.model, choices.method(choices.reference).locator, asked[0].medium)
        return compare_prepared(
            found.model, choices, asked, plan, matrix=shown, matrix_method=str(method),
            encoder=encoder or found.encoder_for(asked[0].medium), share=bool(cfg.share_passes),
            cache=Cache.at(cfg.store, found.identity, found.weights), keep=keep, progress=show_progress,
        )  # fmt: skip


def has_matrix(concepts: Any, medium: str) -> bool:
    """Return whether there is a matrix: of the concepts that are named, or of all of a data set of pictures."""
    return medium == "image" if concepts is None else len(concepts) > 0


def prepared_for(cfg: DictConfig, data: Any, names: Any, counts: Any) -> list[Any]:
    """Return the pictures and questions of each concept."""
    from kedit.cli.pairs import inpainter, prepared

    inpaint = inpainter(cfg)
    return [prepared(data, name, inpaint, vars(counts), cfg.seed) for name in names]


def leave(comparison: Any, kept: Any, tracker: Any, style: Any, *, page: bool) -> None:
    """Write the files of a comparison, tell the tracker, and print it."""
    from kedit.cli.show import tell_figures, terminal

    comparison.save_in(kept, figures=style, page=page)
    tracker.log(dict(metrics(comparison)))
    tracker.table("compare", *comparison.table().flat())
    tell_figures(tracker, kept)
    terminal(comparison, kept)


def metrics(comparison: Any) -> Iterator[tuple[str, float]]:
    """Yield each figure of the last ranking under `method/figure`, and the specificity."""
    from kedit.pipelines.comparison.effects import FIGURES

    for row in comparison.shown[-1].rows:
        for name in FIGURES:
            if (value := row.figure(name).value) is not None:
                yield f"{row.method}/{name}", value
    if comparison.matrix and comparison.matrix.specificity.value is not None:
        yield "specificity", comparison.matrix.specificity.value


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = understood(sys.argv[1:])
    return guarded(compare)


if __name__ == "__main__":
    sys.exit(main())
