"""The main job: locate a concept's neurons, edit them, and measure what the edit did.

kedit run concept=star locate=two_stage edit=zero
"""

import math
import sys
import time
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, figure_style, misuse, plain, sweep_folder, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import for_texts, guarded, reported, run_folder
from kedit.cli.sharing import check_at_hand, shared, unchanged
from kedit.paths import conf_dir
from kedit.progress import show_progress

ASKED = ("data", "inpaint", "segment", "concept", "evaluate", "seed")
"""The settings that decide the pictures and the questions."""
NEEDED = {"synonyms": "chair", "pope_question": "pope", "pope_files": "pope"}
"""Settings of `evaluate`, and the switch without which they mean nothing."""
LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "evaluate.target": 1, "evaluate.retention": 0,
         "evaluate.controls": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")
@reported
def run(cfg: DictConfig) -> tuple[float, float]:
    """Run one job in its Hydra folder and return suppression and retention, which a sweeper may maximize."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.cli import show
    from kedit.cli.sweeping import telling

    began = time.perf_counter()
    running: Any = HydraConfig.get()
    with run_folder(cfg, LEAST) as (kept, tracker):
        result = job(cfg, running.runtime.choices["locate"], kept)
        result.save_in(kept, figures=figure_style(cfg), page=cfg.page)
        show.mirror(result, tracker, kept)
        if sweep_folder() is not None:
            telling.tell(running, result.to_json(), time.perf_counter() - began)
        else:
            show.terminal(result, kept)
    values = result.report.suppression["mention_drop"].value, result.report.retention["overall"].value
    return tuple(math.nan if value is None else value for value in values)  # type: ignore[return-value]


def job(cfg: DictConfig, name: str, kept: Any) -> Any:
    """Build what the configuration names and return what `kedit.run` makes of it.

    Args:
        cfg: The configuration.
        name: The locator's.
        kept: The run's folder, which has the scores and the neurons as soon as they are known.
    """
    from kedit.edit.plan import NoEdit
    from kedit.evaluation.chair import object_words
    from kedit.locate.choosing import check_pairs
    from kedit.neurons import load_scores
    from kedit.pipelines import run as pipeline
    from kedit.pipelines.locate import check_model, leave
    from kedit.results.cache import Cache

    use_threads(cfg.threads)
    # Whatever can be wrong is found before the model is loaded, which is slow.
    locator, plan = build(cfg.locate), build(cfg.edit)
    if isinstance(plan, NoEdit):
        return evaluation(cfg)
    select = None if (node := OmegaConf.select(cfg, "select")) is None else build(node)
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    with misuse():
        scores = load_scores(cfg.scores) if cfg.scores is not None else None
        pipeline.check(locator, plan, select)
        check_at_hand(cfg.model)
        prepared = prepared_for(cfg)
        check_pairs(select, locator, prepared.pairs)
        words = object_words(chair_of(cfg.evaluate), prepared.evaluation_set.vocabulary)
    with unchanged(cfg.model) as found:
        with misuse():
            check_model(found.model, locator, prepared.medium)
        return pipeline.run_prepared(
            found.model, prepared, locator, plan, select=select, encoder=encoder or found.encoder_for(prepared.medium),
            controls=cfg.evaluate.controls, scores=scores, words=words, seed=cfg.seed,
            cache=Cache.at(cfg.store, found.identity, found.weights), name=name,
            keep=lambda located: leave(located, kept), progress=show_progress,
        )  # fmt: skip


def evaluation(cfg: DictConfig) -> Any:
    """Return what `kedit.evaluate` finds of `model.adapter`, where nothing is to be edited."""
    from kedit.cli.pairs import counts_of
    from kedit.pipelines.evaluate import evaluate

    adapter = OmegaConf.select(cfg, "model.adapter")
    if adapter is None:
        raise ConfigurationError(
            "`edit=none` measures what an adapter does: give it as `model.adapter=FOLDER`, or choose another `edit`"
        )
    with misuse():
        data, counts, pope = build(cfg.data), counts_of(cfg.evaluate), pope_of(cfg.evaluate)
        encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    with unchanged(OmegaConf.merge(cfg.model, {"adapter": None})) as found, misuse():  # type: ignore[arg-type]
        return evaluate(
            found.model, data, str(cfg.concept), edit=adapter, encoder=encoder or found.encoder, counts=counts,
            chair=chair_of(cfg.evaluate), pope=pope or False, seed=cfg.seed, store=cfg.store, progress=show_progress,
        )  # fmt: skip


def prepared_for(cfg: DictConfig) -> Any:
    """Return the pictures and questions that the configuration asks for, once for all jobs that ask for the same."""
    from kedit.cli.pairs import inpainter, prepared

    return shared(
        "questions",
        {key: value for key, value in plain(cfg).items() if key in ASKED},
        lambda: prepared(
            build(cfg.data), cfg.concept, inpainter(cfg), cfg.evaluate, cfg.seed, pope=pope_of(cfg.evaluate)
        ),
    )


def chair_of(settings: DictConfig) -> bool | str:
    """Return by which words CHAIR is taken: a file of synonyms, or true for kedit's own; false where it is not."""
    return settings.chair and (settings.synonyms or True)


def pope_of(settings: DictConfig) -> Any:
    """Return how POPE asks, as the group `evaluate` says; None where it is not asked."""
    from kedit.data.pope import Pope

    for key, switch in NEEDED.items():
        if settings[key] is not None and not settings[switch]:
            raise ConfigurationError(f"`evaluate.{key}` is of use with `evaluate.{switch}=true` only")

    return Pope(settings.pope_question, settings.pope_files or ()) if settings.pope else None


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = for_texts(sys.argv[1:])
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
