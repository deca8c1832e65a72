"""Look at what was located: what the neurons say, where they fire, how stable the set is.

kedit inspect concept=star locate=two_stage
"""

import logging
import sys
import time
from functools import partial
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, misuse, use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.sharing import loaded
from kedit import __version__
from kedit.paths import conf_dir

logger = logging.getLogger(__name__)

LEAST = {"seed": 0, "threads": 1, "located": 2, "target": 1, "retention": 1, "controls": 1, "words": 1, "splits": 1,
         "singles": 2, "permutations": 1, "others": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="inspect")
@reported
def inspect(cfg: DictConfig) -> None:
    """Inspect in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    with run_folder(cfg, LEAST) as (kept, tracker):
        job(cfg, kept, tracker, locator_name=HydraConfig.get().runtime.choices["locate"])


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> None:
    """Locate, then measure section by section; what the model cannot give is a line with the reason."""
    from experiments.inspecting import depths, page, places, stability, words
    from experiments.inspecting.rows import Subject, attempted
    from experiments.pairs import inpainter, paired
    from kedit.neurons import save_scores
    from kedit.pipelines.locate import language_only, locate, neuron_part
    from kedit.samples import find_concept

    began = time.perf_counter()
    use_threads(cfg.threads)
    data, inpaint, locator = build(cfg.data), inpainter(cfg), build(cfg.locate)
    encoder, clip = (build(cfg[name]) if cfg[name] is not None else None for name in ("encoder", "clip"))
    with misuse():
        concept = find_concept(data.concepts, str(cfg.concept))
        split = data.split(concept, locate=cfg.located, target=cfg.target, retention=cfg.retention, seed=cfg.seed)
        pairs = paired(inpaint, split.locate, concept).made
        language_only(locator, "inspect")
    model = loaded(cfg.model)
    with misuse():
        site = model.site(locator.site)

    located = locate(model, locator, pairs, bar)
    kept.save_file("scores.safetensors", lambda path: save_scores(located.scores, path))
    kept.save_json("neurons.json", located.neurons.to_json())
    subject = Subject(model, site, locator, located, concept, split, data, inpaint, cfg, kept, encoder, clip)
    sections = (
        ("words", (*words.NAMES, words.CLIP), words.words),
        ("layers", ("neurons by layer",), places.layers),
        ("heat maps", places.HEAT, places.heat_maps),
        ("sensitivity", places.SENSE, places.sensitivity),
        ("stability", stability.SAMPLES, stability.over_samples),
        ("stability", stability.REGION, stability.over_places),
        ("stability", stability.OTHERS, stability.over_concepts),
        (depths.SECTION, depths.NAMES, depths.convergence),
    )
    rows = []
    for section, names, measure in bar(sections, len(sections), "inspect"):
        started = time.perf_counter()
        rows += attempted(section, names, partial(measure, subject))
        logger.info("%s: %.1f s", measure.__name__, time.perf_counter() - started)
    report = {
        "kedit": __version__,
        "concept": concept.name,
        "model": model.name,
        "locator": locator_name,
        "neurons": neuron_part(located.neurons, site.n_neurons),
        "measures": page.measures_json(rows),
        "details": subject.details,
        "samples": located.sample_counts | {"target": len(split.target), "retention": len(split.near + split.far)},
        "cost": located.cost | {"seconds": round(time.perf_counter() - began, 2)},
    }
    page.everything(report, rows, kept, tracker)


def main() -> int:
    """Run the command line."""
    return guarded(inspect)


if __name__ == "__main__":
    sys.exit(main())
