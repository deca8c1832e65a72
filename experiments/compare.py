"""Locating methods side by side: what editing each one's neurons does, with equal budgets and the same samples.

kedit compare concept=star
"""

import sys

import hydra
from omegaconf import DictConfig

from experiments.app import use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.comparison.choices import understood
from experiments.complaints import ConfigurationError
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "random_seeds": 1, "evaluate.locate": 1, "evaluate.target": 1,
         "evaluate.retention": 0, "matrix.target": 1}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="compare")
@reported
def compare(cfg: DictConfig) -> None:
    """Run one comparison in its Hydra folder; the same folder again goes on where it was."""
    least = {key: one for key, one in LEAST.items() if cfg.matrix or not key.startswith("matrix")}
    with run_folder(cfg, least) as (kept, tracker):
        use_threads(cfg.threads)
        if cfg.against == "truth":
            from experiments.comparison.planted import truth

            truth(cfg, kept, tracker)
        elif cfg.against == "effect":
            from experiments.comparison.effect import effect

            effect(cfg, kept, tracker)
        else:
            raise ConfigurationError(f"`against` is effect or truth; got {cfg.against}")


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = understood(sys.argv[1:])
    return guarded(compare)


if __name__ == "__main__":
    sys.exit(main())
