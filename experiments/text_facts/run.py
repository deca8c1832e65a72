"""What locating methods do to facts that a pretrained language model answers rightly.

python -m experiments.text_facts.run model.path=/models/SmolLM2-135M-Instruct
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, misuse, use_threads
from kedit.cli.jobs import guarded, reported
from kedit.cli.pairs import counts_of
from kedit.cli.sharing import loaded
from kedit.progress import show_progress


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def study(cfg: DictConfig) -> None:
    """Compare the methods on each fact, and leave what `kedit compare` leaves."""
    from hydra.core.hydra_config import HydraConfig

    import kedit
    from kedit.results.run_folder import Run

    use_threads(cfg.threads)
    with misuse():
        data, edit = build(cfg.data), build(cfg.edit)
        counts = counts_of(cfg.evaluate)
    model = loaded(cfg.model)
    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        found = kedit.compare(
            model, data, list(cfg.concepts), methods=list(methods(cfg)), budget=list(cfg.budgets),
            reference=cfg.methods[0], edit=edit, counts=counts, seed=cfg.seed, store=cfg.store,
            progress=show_progress,
        )  # fmt: skip
        found.save_in(kept)
        for ranking in found.means or found.tables:
            print(ranking.table().markdown(), end="\n\n")
        print(f"files: {kept.folder}")


def methods(cfg: DictConfig) -> Iterator[Any]:
    """Yield each method, looking where the answer is predicted, with the number of pairs that it locates with.

    Those of `as_published` look where their papers do.
    """
    import kedit
    from kedit.locate.shipped import shipped
    from kedit.pipelines.comparison.choices import with_fields

    for name in cfg.methods:
        locator = shipped(name)
        if name not in cfg.as_published:
            # The two texts of a pair may be of different lengths: `selective` compares at the answer alone.
            locator = with_fields(locator, {"positions": "target", "path": "direct"})
        if name == "causal_effect":
            stage = locator.stages[name]
            scorer = replace(stage.scorer, shortlist=kedit.GradCAM("all", "sum"), m=cfg.shortlist)
            locator = replace(locator, stages={name: replace(stage, scorer=scorer)})
        yield kedit.Method(name, locator, samples=cfg.samples.get(name))


def main() -> int:
    """Run the command line."""
    return guarded(study)


if __name__ == "__main__":
    sys.exit(main())
