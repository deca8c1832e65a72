"""The main job: locate a concept's neurons, edit them, and measure what the edit did.

kedit run concept=star locate=two_stage edit=zero
"""

import logging
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, guarded, misuse, plain, reported
from kedit import __version__
from kedit.paths import conf_dir

logger = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")
@reported
def run(cfg: DictConfig) -> None:
    """Run one job in its Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.runs import Run

    folder = Path(HydraConfig.get().runtime.output_dir)
    tracker = build(cfg.tracker)
    with Run(folder) as kept:
        tracker.start(str(folder.name), plain(cfg), folder)
        try:
            job(cfg, kept, tracker)
        except BaseException as error:
            logger.info("the job failed", exc_info=True)
            tracker.finish(failed=f"{type(error).__name__}: {error}")
            raise
        tracker.finish()


def job(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Locate, edit, measure and report."""
    import torch
    from hydra.core.hydra_config import HydraConfig

    from experiments import show
    from experiments.steps import locate, neuron_part, transcript
    from kedit.evaluation.exam import Exam
    from kedit.evaluation.measure import measure
    from kedit.evaluation.metrics import Similarity
    from kedit.models.encoder import OwnLayers
    from kedit.neurons import save_scores
    from kedit.samples import find_concept

    began = time.perf_counter()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    data, inpaint, locator, plan = (build(node) for node in (cfg.data, cfg.inpaint, cfg.locate, cfg.edit))
    with misuse():
        concept = find_concept(data.concepts, cfg.concept)
        n = cfg.evaluate
        split = data.split(concept, locate=n.locate, target=n.target, retention=n.retention, seed=cfg.seed)
        exam = Exam(concept, data.concepts, split.target, split.near, split.far, data.questions)
        pairs = [inpaint(sample, concept) for sample in split.locate]
    model = _model(cfg.model)
    site = model.site(locator.site)

    located = locate(model, locator, pairs, bar)
    neurons = located.neurons
    kept.save_file("scores.safetensors", lambda path: save_scores(located.scores, path))
    kept.save_json("neurons.json", neurons.to_json())

    named = model.caption([sample.image for sample in exam.target], progress=bar)
    operator = plan.operator_for(model, located.pairs, progress=bar)
    before = transcript(model, exam, named, bar)
    with plan.edit(neurons, operator, concept.name).applied(model):
        after = transcript(model, exam, named, bar)
    controls = []
    for seed in range(n.controls):
        random = neurons.layer_matched(site.widths, cfg.seed + seed)
        with plan.edit(random, operator, f"control {seed}").applied(model):
            controls.append(transcript(model, exam, named, bar))

    encoder = build(n.encoder) if n.encoder is not None else OwnLayers(model)
    result = measure(exam, before, after, controls, Similarity(encoder), neurons=len(neurons), seed=cfg.seed)
    costs = next(iter(located.scores.values())).provenance
    report = {
        "kedit": __version__,
        "concept": concept.name,
        "model": model.name,
        "locator": HydraConfig.get().runtime.choices["locate"],
        "operator": repr(operator),
        "positions": plan.positions,
        "neurons": neuron_part(neurons, site.n_neurons),
        **result.to_json(),
        "samples": {
            "located": len(located.pairs) - located.skipped["caption_does_not_name_it"],
            "target": len(exam.target),
            "retention": len(exam.retention),
            "skipped": located.skipped,
        },
        "cost": {
            "forwards": int(costs["forwards"]),
            "backwards": int(costs["backwards"]),
            "locate_seconds": float(costs["seconds"]),
            "seconds": round(time.perf_counter() - began, 2),
        },
    }
    show.everything(report, located, exam, before, after, model, site, kept, tracker)


@lru_cache(maxsize=1)
def _loaded(description: str) -> Any:
    from omegaconf import OmegaConf

    return build(OmegaConf.create(description))


def _model(node: DictConfig) -> Any:
    """Load the model once for all jobs of a sweep that share it."""
    from omegaconf import OmegaConf

    return _loaded(OmegaConf.to_yaml(node, resolve=True))


def main() -> int:
    """Run the command line."""
    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
