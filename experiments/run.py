"""The main job: locate a concept's neurons, edit them, and measure what the edit did.

kedit run concept=star locate=two_stage edit=zero
"""

import math
import sys
import time
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, guarded, misuse, plain, reported, run_folder, use_threads
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
    from hydra.types import RunMode

    from experiments import show
    from experiments.sweeping import telling

    began, running = time.perf_counter(), HydraConfig.get()
    with run_folder(cfg, LEAST) as (kept, tracker):
        report = job(cfg, kept, tracker, locator_name=running.runtime.choices["locate"])
        if running.mode == RunMode.MULTIRUN:
            telling.tell(running, report, time.perf_counter() - began)
        else:
            show.terminal(report, kept)
    values = report["suppression"]["mention_drop"]["value"], report["retention"]["overall"]["value"]
    return tuple(math.nan if value is None else value for value in values)  # type: ignore[return-value]


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> dict[str, Any]:
    """Locate, edit, measure and report; return the report."""
    from experiments import show
    from experiments.interviews import interview, measured
    from experiments.pairs import inpainter
    from experiments.recall import Recall
    from experiments.steps import locate, neuron_part, questioned, without_seconds
    from kedit.edit.plan import check_plan
    from kedit.evaluation.metrics import Similarity
    from kedit.models.encoder import OwnLayers
    from kedit.models.sequences import refuse_two_sequences
    from kedit.neurons import save_scores

    began = time.perf_counter()
    use_threads(cfg.threads)
    # Whatever can be wrong is found before the model is loaded, which is slow.
    locator, plan = build(cfg.locate), build(cfg.edit)
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    scope = getattr(locator, "scope", "language")
    with misuse():
        check_plan(plan, locator.site, scope)
        asked = {key: value for key, value in plain(cfg).items() if key in ASKED}
        exam, pairs, skipped = shared(
            "questions", asked, lambda: questioned(build(cfg.data), inpainter(cfg), cfg.concept, cfg.evaluate, cfg.seed)
        )
    with unchanged(cfg.model) as found:
        model, recall = found.model, Recall.at(cfg.store, found.identity)
        with misuse():
            model.require("image")
            refuse_two_sequences(model.module, model.name)
            site = model.site(locator.site, scope)

        located = locate(model, locator, pairs, bar, recall)
        located_after = time.perf_counter() - began
        kept.save_file("scores.safetensors", lambda path: save_scores(without_seconds(located.scores), path))
        kept.save_json("neurons.json", located.neurons.to_json())

        operator = plan.operator_for(model, located.pairs, progress=bar)
        controls = [located.neurons.layer_matched(site.widths, cfg.seed + n) for n in range(cfg.evaluate.controls)]
        told = interview(model, exam, plan, operator, located.neurons, controls, bar, recall)
        similarity = Similarity(encoder or OwnLayers(model))
        report = {
            "kedit": __version__,
            "concept": exam.concept.name,
            "model": model.name,
            "locator": locator_name,
            "operator": repr(operator),
            "positions": plan.positions,
            "neurons": neuron_part(located.neurons, site.n_neurons),
            **measured(exam, told, similarity, len(located.neurons), cfg.seed, recall),
            "samples": {
                **located.sample_counts,
                "skipped": located.skipped | skipped,
                "target": len(exam.target),
                "retention": len(exam.retention),
            },
            "cost": located.cost,
            "heat_maps": show.heat_maps(model, site, located, kept, figures=cfg.figures, recall=recall),
        }
    show.everything(report, located, exam, told, site, kept, tracker, figures=cfg.figures)
    seconds = {"seconds": time.perf_counter() - began, "locate_seconds": located_after}
    kept.save_json("timing.json", {name: round(value, 3) for name, value in seconds.items()})
    return report


def main() -> int:
    """Run the command line."""
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
