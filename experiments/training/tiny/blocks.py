"""Write a small data set in COCO's format that a tiny model can learn: pictures of colored blocks.

python -m experiments.training.tiny.blocks folder=outputs/blocks
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import texts, whole_numbers
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="blocks")
@reported
def blocks(cfg: DictConfig) -> None:
    """Write the pictures and their annotation."""
    from experiments.training.tiny.pictures import write_blocks

    whole_numbers(cfg, {"pictures": 1, "seed": 0})
    texts(cfg)
    folder = Path(cfg.folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(
            f"`folder` `{folder}` is {'not empty' if folder.is_dir() else 'a file'}; give a new one"
        )
    write_blocks(folder, cfg.pictures, cfg.seed)
    print(f"files: {folder}")


def main() -> int:
    """Run the command line."""
    return guarded(blocks)


if __name__ == "__main__":
    sys.exit(main())
