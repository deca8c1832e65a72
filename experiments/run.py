"""The main job: locate a concept's neurons, edit them, and measure what the edit did.

kedit run concept=star locate=two_stage edit=zero
"""

import sys
import time
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, guarded, loaded, misuse, reported, run_folder, use_threads
from kedit import __version__
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "evaluate.target": 1, "evaluate.retention": 0,
         "evaluate.controls": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")
@reported
def run(cfg: DictConfig) -> None:
    """Run one job in its Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    with run_folder(cfg, LEAST) as (kept, tracker):
        job(cfg, kept, tracker, locator_name=HydraConfig.get().runtime.choices["locate"])


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> None:
    """Locate, edit, measure and report."""
    from experiments import show
    from experiments.steps import Parts, corpus_part, interview, locate, neuron_part, questioned
    from kedit.edit.plan import check_plan
    from kedit.evaluation.measure import measure
    from kedit.evaluation.metrics import Similarity
    from kedit.models.encoder import OwnLayers
    from kedit.neurons import save_scores

    began = time.perf_counter()
    use_threads(cfg.threads)
    # Whatever can be wrong is found before the model is loaded, which is slow.
    parts = Parts(*(build(cfg[group]) for group in ("data", "inpaint", "locate", "edit")))
    encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
    scope = getattr(parts.locator, "scope", "language")
    with misuse():
        check_plan(parts.plan, parts.locator.site, scope)
        exam, pairs, skipped = questioned(parts, cfg.concept, cfg.evaluate, cfg.seed)
    model = loaded(cfg.model)
    with misuse():
        site = model.site(parts.locator.site, scope)

    located = locate(model, parts.locator, pairs, bar)
    kept.save_file("scores.safetensors", lambda path: save_scores(located.scores, path))
    kept.save_json("neurons.json", located.neurons.to_json())

    operator = parts.plan.operator_for(model, located.pairs, progress=bar)
    controls = [located.neurons.layer_matched(site.widths, cfg.seed + n) for n in range(cfg.evaluate.controls)]
    told = interview(model, exam, parts.plan, operator, located.neurons, controls, bar)

    similarity = Similarity(encoder or OwnLayers(model))
    result = measure(exam, *told, similarity, neurons=len(located.neurons), seed=cfg.seed)
    report = {
        "kedit": __version__,
        "concept": exam.concept.name,
        "model": model.name,
        "locator": locator_name,
        "operator": repr(operator),
        "positions": parts.plan.positions,
        "neurons": neuron_part(located.neurons, site.n_neurons),
        **result.to_json(),
        "corpus": corpus_part(told, similarity.encoder),
        "samples": {
            **located.sample_counts,
            "skipped": located.skipped | skipped,
            "target": len(exam.target),
            "retention": len(exam.retention),
        },
        "cost": located.cost | {"seconds": round(time.perf_counter() - began, 2)},
    }
    show.everything(report, located, exam, told, model, site, kept, tracker)


def main() -> int:
    """Run the command line."""
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
