"""What the way of painting a concept out costs: agreement of the located neurons, and the edit in the end.

python -m experiments.counterfactual_sources.run
"""

import sys
import time
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.counterfactual_sources.painting import AGAIN
from kedit import __version__
from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.cli.sharing import unchanged
from kedit.progress import show_progress

LEAST = {"seed": 0, "threads": 1, "top": 1, "dilation": 0, "shown": 1, "budget": 1, "evaluate.locate": 1,
         "evaluate.target": 1, "evaluate.retention": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def counterfactuals(cfg: DictConfig) -> None:
    """Paint, locate and edit by every source; what an earlier job has in the store is not done again."""
    least = {key: one for key, one in LEAST.items() if key != "budget" or cfg.budget is not None}
    with run_folder(cfg, least) as (kept, tracker):
        use_threads(cfg.threads)
        job(cfg, kept, tracker)


def job(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Do the comparison and show it."""
    from experiments.counterfactual_sources.agreement import Examiner
    from experiments.counterfactual_sources.painting import Counts, Studio
    from experiments.counterfactual_sources.rows import row
    from kedit.results.cache import Cache

    began = time.perf_counter()
    # Of a source that `~inpaint@sources.<name>` leaves out, the settings of counterfactuals.yaml remain.
    made_by = [str(name) for name, node in cfg.sources.items() if "_target_" in node]
    if cfg.reference not in made_by:
        raise ConfigurationError(f"`reference` is one of {', '.join(made_by)}; got `{cfg.reference}`")
    data, plan, locator = build(cfg.data), build(cfg.edit), chosen_locator(cfg)
    counts = Counts(cfg.evaluate.locate, cfg.evaluate.target, cfg.evaluate.retention)
    studio = Studio(data, {name: build(cfg.sources[name]) for name in made_by}, cfg.reference, counts, cfg.seed)
    with misuse():
        splits = {concept: studio.split(concept) for concept in asked(cfg, data)}
        painted = {concept: studio.painted(concept, split) for concept, split in splits.items()}
        studio.close()
    found = {}
    for name, node in cfg.models.items():
        with unchanged(node) as loaded:
            cache = Cache.at(cfg.store, loaded.identity, loaded.weights)
            examiner = Examiner(loaded.model, locator, cache, show_progress)
            found[str(name)] = examined(examiner, data, plan, splits, painted, cfg.seed)
    about = {"kedit": __version__, **{key: cfg[key] for key in ("reference", "top", "dilation", "budget", "seed")}}
    about |= {"concepts": [concept.name for concept in splits], "samples": vars(counts)}
    about |= {"seconds": round(time.perf_counter() - began, 1)}
    rows = [
        row(model, same, cfg.reference, concepts, top=cfg.top, seed=cfg.seed)
        for model, concepts in found.items()
        for same in by_source(painted)
    ]
    show(rows, strips(painted, found, cfg.shown), about, kept, tracker, figure_style(cfg))


def by_source(painted: Any) -> list[list[Any]]:
    """Return what each source made of all concepts."""
    return [list(same) for same in zip(*painted.values(), strict=True)]


def chosen_locator(cfg: DictConfig) -> Any:
    """Return the locator, which selects `budget` neurons if that is set."""
    from kedit.locate.locator import Locator

    locator = build(cfg.locate)
    if not isinstance(locator, Locator):
        raise ConfigurationError("`locate` must score neurons by the pictures, in stages; take `locate=two_stage`")
    return locator if cfg.budget is None else locator.limited(cfg.budget)


def asked(cfg: DictConfig, data: Any) -> list[Any]:
    """Return the concepts that are asked for, all of the data's for null."""
    from kedit.samples import find_concept

    return [find_concept(data.concepts, str(name)) for name in cfg.concepts or [one.name for one in data.concepts]]


def examined(examiner: Any, data: Any, plan: Any, splits: Any, painted: Any, seed: int) -> dict[str, dict[str, Any]]:
    """Return what the examiner's model makes of every concept and source."""
    from kedit.evaluation.evaluation_set import EvaluationSet
    from kedit.evaluation.metrics import Similarity
    from kedit.models.encoder import OwnLayers
    from kedit.pipelines.comparison.effects import Trial

    model = examiner.model
    similarity, found = Similarity(OwnLayers(model)), {}
    for concept, split in show_progress(splits.items(), len(splits), model.name):
        evaluation_set = EvaluationSet(concept, data.concepts, split.target, split.near, split.far, data.questions)
        # An operator that needs a reference takes the same one whatever the source: the neurons alone differ.
        trial = Trial(
            model, evaluation_set, plan, painted[concept][0].pairs, similarity, examiner.cache, show_progress, seed
        )
        found[concept.name] = {each.source: examiner.found(each, trial) for each in painted[concept]}
    return found


def strips(painted: Any, found: Any, n_shown: int) -> dict[str, list[Any]]:
    """Return for each model the first picture of each of `n_shown` concepts, as every source paints it."""
    from kedit.plots import PictureRow

    made: dict[str, list[Any]] = {model: [] for model in found}
    for concept, several in list(painted.items())[:n_shown]:
        same = [one for one in several if not one.source.endswith(AGAIN)]
        sample = same[0].pairs[0].sample
        pictures = {"original": sample.image} | {one.source: one.pairs[0].image for one in same}
        for model, concepts in found.items():
            named = frozenset(one.source for one in same if sample.id in concepts[concept.name][one.source].left)
            made[model].append(PictureRow(concept.name, pictures, framed=named))
    return made


def show(rows: Any, drawn: Any, about: dict[str, Any], kept: Any, tracker: Any, style: Any) -> None:
    """Write report and figures, tell the tracker, and print the tables."""
    from experiments.counterfactual_sources import tables
    from experiments.counterfactual_sources.figures import draw_rows
    from kedit.cli.show import tell_figures
    from kedit.plots import draw_pictures

    for model, several in drawn.items():
        failed, total = (
            sum(map(len, part)) for part in zip(*((row.framed, row.pictures) for row in several), strict=True)
        )
        still = f"{model} still names it in {failed} of {total - len(several)} pictures (framed)"
        title = f"What each source paints over the object; {still}"
        kept.save_figures({f"pictures_{model}": draw_pictures(several, title=title)}, style)
    kept.save_figures({"sources": draw_rows(rows, tables.titles(about["top"]))}, style)
    kept.save_json("report.json", about | {"rows": [one.to_json() for one in rows]})
    page = tables.page(rows, about, kept.figures)
    kept.save_text("report.md", page)
    tracker.table("sources", ["model", *tables.header(about["top"])], [[one.model, *tables.cells(one)] for one in rows])
    tell_figures(tracker, kept)
    print(page.partition("`removed`:")[0].rstrip())
    print(f"files: {kept.folder}")


def main() -> int:
    """Run the command line."""
    return guarded(counterfactuals)


if __name__ == "__main__":
    sys.exit(main())
