"""Whether chosen thresholds keep their promise: `select=auto` on planted models, any `select` beside a grid.

kedit calibrate
"""

import sys

import hydra
from omegaconf import DictConfig

from experiments.app import use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.complaints import ConfigurationError
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "planted.models": 2, "planted.pictures": 10, "evaluate.locate": 1,
         "evaluate.target": 2, "evaluate.retention": 0}  # fmt: skip


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="calibrate")
@reported
def calibrate(cfg: DictConfig) -> None:
    """Run one calibration in its Hydra folder."""
    with run_folder(cfg, LEAST) as (kept, tracker):
        use_threads(cfg.threads)
        if cfg.against == "truth":
            from experiments.calibration.planted import truth

            truth(cfg, kept, tracker)
        elif cfg.against == "grid":
            from experiments.calibration.grid import grid

            grid(cfg, kept, tracker)
        else:
            raise ConfigurationError(f"`against` is truth or grid; got {cfg.against}")


def main() -> int:
    """Run the command line."""
    return guarded(calibrate)


if __name__ == "__main__":
    sys.exit(main())
