"""The main job: locate a concept's neurons, edit them, and measure what the edit did.

kedit run concept=star locate=two_stage edit=zero
"""

import math
import sys
import time
from typing import Any, NamedTuple

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.app import bar, build, misuse, plain, sweep_folder, use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.sharing import shared, unchanged
from kedit import __version__
from kedit.paths import conf_dir

ASKED = ("data", "inpaint", "segment", "concept", "evaluate", "seed")
"""The settings that decide the pictures and the questions."""
LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "evaluate.target": 1, "evaluate.retention": 0,
         "evaluate.controls": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")
@reported
def run(cfg: DictConfig) -> tuple[float, float]:
    """Run one job in its Hydra folder and return suppression and retention, which a sweeper may maximize."""
    from hydra.core.hydra_config import HydraConfig

    from experiments import show
    from experiments.sweeping import telling

    began, running = time.perf_counter(), HydraConfig.get()
    with run_folder(cfg, LEAST) as (kept, tracker):
        report = job(cfg, kept, tracker, locator_name=running.runtime.choices["locate"])
        if sweep_folder() is not None:
            telling.tell(running, report, time.perf_counter() - began)
        else:
            show.terminal(report, kept)
    values = report["suppression"]["mention_drop"]["value"], report["retention"]["overall"]["value"]
    return tuple(math.nan if value is None else value for value in values)  # type: ignore[return-value]


class Chosen(NamedTuple):
    """What the configuration chose, and the pictures and questions that it asks for."""

    locator: Any
    select: Any
    plan: Any
    encoder: Any
    scores: Any
    asked: Any


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> dict[str, Any]:
    """Locate, edit, measure and report; return the report."""
    from experiments import show
    from experiments.interviews import interview
    from experiments.recall import Recall
    from experiments.steps import leave, locate
    from kedit.models.sequences import refuse_two_sequences

    began = time.perf_counter()
    use_threads(cfg.threads)
    # Whatever can be wrong is found before the model is loaded, which is slow.
    chosen = _chosen(cfg)
    exam, pairs, skipped = chosen.asked
    with unchanged(cfg.model) as found:
        model, recall = found.model, Recall.at(cfg.store, found.identity)
        with misuse():
            model.require("image")
            refuse_two_sequences(model.module, model.name)
            site = model.site(chosen.locator.site, getattr(chosen.locator, "scope", "language"))
        located = locate(model, chosen.locator, pairs, bar, recall, chosen.select, exam.vocabulary, chosen.scores)
        seconds = {"locate_seconds": time.perf_counter() - began}
        leave(located, kept)
        operator = chosen.plan.operator_for(model, located.pairs, progress=bar)
        controls = [located.neurons.layer_matched(site.widths, cfg.seed + n) for n in range(cfg.evaluate.controls)]
        told = interview(model, exam, chosen.plan, operator, located.neurons, controls, bar, recall)
        about = {"locator": locator_name, "operator": repr(operator), "positions": chosen.plan.positions}
        report = _report(cfg, chosen, found, site, located, told, about, skipped, recall)
        report["heat_maps"] = show.heat_maps(model, site, located, kept, figures=cfg.figures, recall=recall)
    show.everything(report, located, exam, told, site, kept, tracker, figures=cfg.figures)
    seconds["seconds"] = time.perf_counter() - began
    kept.save_json("timing.json", {name: round(value, 3) for name, value in seconds.items()})
    return report


def _chosen(cfg: DictConfig) -> Chosen:
    from experiments.pairs import inpainter
    from experiments.steps import questioned
    from kedit.edit.plan import check_plan
    from kedit.locate.choosing import check_choice, check_pairs
    from kedit.neurons import load_scores

    locator, plan = build(cfg.locate), build(cfg.edit)
    select = None if (node := OmegaConf.select(cfg, "select")) is None else build(node)
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    with misuse():
        scores = load_scores(cfg.scores) if cfg.scores is not None else None
        check_choice(select, locator)
        check_plan(plan, locator.site, getattr(locator, "scope", "language"))
        settings = {key: value for key, value in plain(cfg).items() if key in ASKED}
        asked = shared(
            "questions",
            settings,
            lambda: questioned(build(cfg.data), inpainter(cfg), cfg.concept, cfg.evaluate, cfg.seed),
        )
        check_pairs(select, locator, asked.pairs)
    return Chosen(locator, select, plan, encoder, scores, asked)


def _report(
    cfg: DictConfig,
    chosen: Chosen,
    found: Any,
    site: Any,
    located: Any,
    told: Any,
    about: dict[str, Any],
    skipped: dict[str, int],
    recall: Any,
) -> dict[str, Any]:
    from experiments.interviews import measured
    from experiments.steps import neuron_part
    from kedit.evaluation.metrics import Similarity

    exam = chosen.asked.exam
    similarity = Similarity(chosen.encoder or found.encoder)
    return {
        "kedit": __version__,
        "concept": exam.concept.name,
        "model": found.model.name,
        **about,
        "neurons": neuron_part(located.neurons, site.n_neurons),
        **measured(exam, told, similarity, len(located.neurons), cfg.seed, recall),
        "samples": {
            **located.sample_counts,
            "skipped": located.skipped | skipped,
            "target": len(exam.target),
            "retention": len(exam.retention),
        },
        "cost": located.cost,
    }


def main() -> int:
    """Run the command line."""
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
