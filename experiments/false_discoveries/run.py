"""Whether chosen thresholds keep their promise: `select=auto` on planted models, any `select` beside a grid.

python -m experiments.false_discoveries.run
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported, run_folder

LEAST = {"seed": 0, "threads": 1, "planted.models": 2, "planted.pictures": 10, "evaluate.locate": 1,
         "evaluate.target": 2, "evaluate.retention": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def calibrate(cfg: DictConfig) -> None:
    """Run one calibration in its Hydra folder."""
    with run_folder(cfg, LEAST) as (kept, tracker):
        use_threads(cfg.threads)
        if cfg.against == "truth":
            from experiments.false_discoveries.planted import truth

            truth(cfg, kept, tracker)
        elif cfg.against == "grid":
            from experiments.false_discoveries.grid import grid

            grid(cfg, kept, tracker)
        else:
            raise ConfigurationError(f"`against` is truth or grid; got {cfg.against}")


def main() -> int:
    """Run the command line."""
    return guarded(calibrate)


if __name__ == "__main__":
    sys.exit(main())
