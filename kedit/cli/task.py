"""What a modality's neurons are worth: questions answered right before and after they are edited, and at random.

kedit task data=folder data.folder=/data/mine data.questions_file=questions.jsonl locate=miner
"""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, renamed, reported, run_folder
from kedit.cli.sharing import loaded
from kedit.paths import conf_dir
from kedit.progress import show_progress

LEAST = {"seed": 0, "threads": 1, "evaluate.locate": 1, "evaluate.target": 1, "evaluate.controls": 0}
FORMER = {"locating": "evaluate.locate", "evaluated": "evaluate.target", "controls": "evaluate.controls"}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="task")
@reported
def task(cfg: DictConfig) -> None:
    """Locate on one half of the questions, edit, and judge on the other half."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.cli import show

    with run_folder(cfg, LEAST) as (kept, tracker):
        result = job(cfg, HydraConfig.get().runtime.choices["locate"], kept)
        result.save_in(kept, figures=figure_style(cfg), page=cfg.page)
        show.mirror_task(result, tracker, kept)
        show.terminal(result, kept)


def job(cfg: DictConfig, name: str, kept: Any) -> Any:
    """Build what the configuration names and return what `kedit.task` makes of it.

    Args:
        cfg: The configuration.
        name: The locator's.
        kept: The run's folder, which has the scores and the neurons as soon as they are known.
    """
    from kedit.pipelines import task as pipeline
    from kedit.samples import HasQuestions

    use_threads(cfg.threads)
    data, locator, plan = (build(cfg[group]) for group in ("data", "locate", "edit"))
    with misuse():
        pipeline.check(locator, plan, cfg.match, name)
        if not isinstance(data, HasQuestions):
            raise ConfigurationError(
                f"{type(data).__name__} has no questions to ask; use `data=folder` or `data=scenes`"
            )
        question_split = data.split_questions(locate=cfg.evaluate.locate, evaluate=cfg.evaluate.target, seed=cfg.seed)
    model = loaded(cfg.model)
    with misuse():
        pipeline.check_model(model, locator, question_split)
    return pipeline.task_prepared(
        model, question_split, locator, plan, controls=cfg.evaluate.controls, match=cfg.match, seed=cfg.seed, name=name,
        keep=lambda scores, sets: pipeline.leave_sets(scores, sets, kept), progress=show_progress,
    )  # fmt: skip


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = renamed(sys.argv[1:], FORMER)
    return guarded(task)


if __name__ == "__main__":
    sys.exit(main())
