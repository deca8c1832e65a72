"""Zero a concept's neurons, and ask what is left of it, beside a model that never knew it.

python -m experiments.is_it_gone.run model=scenes concept=star never_knew=/models/scenes_no_star
"""

import subprocess
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.gone import never_knew
from kedit.cli.jobs import guarded, reported
from kedit.cli.pairs import counts_of
from kedit.cli.sharing import loaded


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def study(cfg: DictConfig) -> None:
    """Locate, edit, measure as `kedit run` does, then ask as `kedit gone` does; both leave their files."""
    from hydra.core.hydra_config import HydraConfig

    import kedit
    from kedit.edit.plan import Plan

    use_threads(cfg.threads)
    with misuse():
        data, locator, plan = build(cfg.data), build(cfg.locate), build(cfg.edit)
        counts, lessons = counts_of(cfg.evaluate), kedit.Lessons(**cfg.lessons)
        assert isinstance(plan, Plan)
    teach_without(cfg)
    model, never = loaded(cfg.model), never_knew(cfg.model, cfg.never_knew)
    folder, asked = Path(HydraConfig.get().runtime.output_dir), {"seed": cfg.seed, "store": cfg.store}
    result = kedit.run(model, data, cfg.concept, locate=locator, edit=plan, counts=counts, **asked)
    edit = kedit.Edit(result.neurons, plan.operator, plan.positions, plan.phase)
    gone = kedit.gone(
        edit, model, data, cfg.concept, never_knew=never, lessons=lessons, counts=counts, controls=cfg.controls, **asked
    )
    result.save(folder, figures=figure_style(cfg))
    gone.save(folder, figures=figure_style(cfg))
    print(result, gone.table().markdown(), f"files: {folder}", sep="\n\n")


def teach_without(cfg: DictConfig) -> None:
    """Train the model that never knew the concept, where its folder is not there."""
    if cfg.never_knew is None or (Path(cfg.never_knew) / "config.json").is_file():
        return
    words = [
        f"without={cfg.concept}", "tower.of=scenes", f"language.steps={cfg.never.steps}", "language.bfloat16=false",
        f"language.pool={cfg.never.pool}", "language.save_every=10", "exam.scenes=60", "exam.layers=4",
        f"folder={cfg.never_knew}-training", f"export={cfg.never_knew}",
    ]  # fmt: skip
    subprocess.run([sys.executable, "-m", "experiments.training.scenes.run", *words], check=True)


def main() -> int:
    """Run the command line."""
    return guarded(study)


if __name__ == "__main__":
    sys.exit(main())
