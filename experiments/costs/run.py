"""What kedit costs: edits beside raw hooks, nnsight and pyvene; locating beside bare passes; captions under many sets.

python -m experiments.costs.run repeats=20
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, misuse, use_threads, whole_numbers
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported
from kedit.progress import show_progress

PARTS = ("edits", "locating", "sets", "sweep")
"""What can be measured; see `experiments/costs/config.yaml`."""


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def bench(cfg: DictConfig) -> None:
    """Measure everything in one process and leave the tables in the Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.results.run_folder import Run

    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        job(cfg, kept)


def job(cfg: DictConfig, kept: Any) -> None:
    """Time, compare and report."""
    from experiments.costs import tables
    from experiments.costs.rows import Clock, locating
    from experiments.costs.sets import captioning
    from experiments.costs.sweeping import sweeping

    use_threads(cfg.threads)
    check(cfg)
    model = build(cfg.model)
    work, images, evaluation_set = located(cfg, model)
    clock = Clock(cfg.repeats, cfg.warmup, cfg.clock, cfg.seed, show_progress)
    rows = []
    if "edits" in cfg.parts:
        rows += edited(cfg, model, images, clock)
    if "locating" in cfg.parts:
        rows += locating(model, work, clock)
    if "sets" in cfg.parts:
        rows += captioning(model, work, evaluation_set, cfg.sets, replace(clock, repeats=cfg.set_repeats, warmup=0))
    if "sweep" in cfg.parts:
        rows += sweeping(kept.folder, cfg.sweep, cfg.singles, cfg.seed, show_progress, cfg.clock)

    about = tables.surroundings(model, clock)
    kept.save_json("bench.json", tables.plain(rows, about))
    where = kept.save_text("bench.md", tables.markdown(rows, about))
    tables.show(rows, about)
    sys.stdout.write(f"{where}\n")


def edited(cfg: DictConfig, model: Any, images: list[Any], clock: Any) -> list[Any]:
    """Return the rows of edits in every layer, and of those in one."""
    from experiments.costs.rows import edit_everywhere, edit_one_layer
    from experiments.costs.ways import Task
    from experiments.costs.workload import Workload, drawn

    site = model.site("mid")
    with misuse():
        load = Workload.of(model, images, cfg.tokens)
        spread_out = drawn(site, cfg.share, cfg.seed)
        middle = sorted(site.widths)[len(site.widths) // 2]
        in_one = drawn(site, cfg.share, cfg.seed, layer=middle)
    rows = edit_everywhere(Task(model.module, site, spread_out, load), clock)
    return rows + edit_one_layer(Task(model.module, site, in_one, load), list(cfg.rivals), clock)


def check(cfg: DictConfig) -> None:
    """Refuse what would otherwise fail minutes later."""
    from experiments.costs.ratios import CLOCKS
    from experiments.costs.ways import RIVALS

    unknown = [name for name in cfg.rivals if name not in RIVALS]
    if unknown:
        raise ConfigurationError(f"`rivals` may name {', '.join(RIVALS)}, got `{unknown[0]}`")
    parts = [name for name in cfg.parts if name not in PARTS]
    if parts or not cfg.parts:
        raise ConfigurationError(f"`parts` names some of {', '.join(PARTS)}, got {parts or 'none'}")
    if cfg.clock not in CLOCKS:
        raise ConfigurationError(f"`clock` is one of {', '.join(CLOCKS)}, got `{cfg.clock}`")
    least_of = {"repeats": 1, "warmup": 0, "tokens": 1, "sets": 2, "set_pictures": 4, "set_repeats": 1, "singles": 1}
    whole_numbers(cfg, least_of)


def located(cfg: DictConfig, model: Any) -> tuple[Any, list[Any], list[Any]]:
    """Return what to locate in, pictures to generate from, and those to caption under many sets.

    Of the last, half show the concept and half do not.

    A caption that does not name the concept is scored anyway: what is measured here is the cost.
    """
    from experiments.costs.locating import Locating
    from kedit.cli.pairs import inpainter, paired
    from kedit.samples import find_concept

    data, inpaint, locator = build(cfg.data), inpainter(cfg), build(cfg.locate)
    with misuse():
        concept = find_concept(data.concepts, cfg.concept)
        half = cfg.set_pictures // 2 if "sets" in cfg.parts else 0
        counts = {"target": max(cfg.pictures, half), "retention": half // 2}
        split = data.split(concept, locate=cfg.pairs, seed=cfg.seed, **counts)
        pairs = paired(inpaint, split.locate, concept).made
    captions = model.caption([pair.sample.image for pair in pairs], progress=show_progress)
    forcing = replace(locator, target=replace(locator.target, on_missing="force"))
    evaluation_set = [sample.image for sample in (*split.target[:half], *split.near, *split.far)]
    return Locating(forcing, pairs, captions), [sample.image for sample in split.target[: cfg.pictures]], evaluation_set


def main() -> int:
    """Run the command line."""
    return guarded(bench)


if __name__ == "__main__":
    sys.exit(main())
