"""Ask whether the concept of a finished run is gone: what brings it back, and what of it was never taken away.

kedit gone outputs/star never_knew=/models/scenes_no_star

It leaves gone.json, gone.md and two figures beside the run's report. Without `never_knew`, the folder of a model that
was trained without the concept, what needs one is not measured. `steps`, `rate` and `captions` say how the models are
taught again, `controls` how many random sets are edited beside.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kedit.cli.configuration import build, misuse
from kedit.cli.errors import ConfigurationError, explained, usage_code
from kedit.cli.finished_run import asked_for, open_run
from kedit.cli.help import TAKES
from kedit.cli.jobs import code_of, said

KEYS = ("never_knew", "steps", "rate", "captions", "controls", "figures")


def ask_run(run: Path, arguments: Sequence[str]) -> Any:
    """Return what `kedit.gone` finds of a finished run; it is left in the run's folder.

    Args:
        run: The run's folder.
        arguments: Settings such as `steps=16`.
    """
    asked = asked_for(arguments, KEYS, "this command", "steps=16")
    from kedit.cli.pairs import counts_of
    from kedit.edit.columns import check_edit
    from kedit.pipelines.gone import gone
    from kedit.progress import show_progress

    lessons, figures = lessons_of(asked), asked.get("figures", True)
    if not isinstance(figures, bool):
        raise ConfigurationError(f"`figures` is true or false; got {figures}")
    opened = open_run(run, "to ask about")
    settings = opened.settings
    with misuse():
        check_edit(opened.edit, "merged")
    never = never_knew(settings.model, asked.get("never_knew"))
    with misuse():
        result = gone(
            opened.edit, opened.model, opened.data, str(settings.concept), never_knew=never, lessons=lessons,
            counts=counts_of(settings.evaluate), controls=asked.get("controls", 2), seed=settings.seed,
            store=settings.store, progress=show_progress,
        )  # fmt: skip
    result.save(run, figures=figures)
    return result


def lessons_of(asked: DictConfig) -> Any:
    """Return how models are taught again: asked after 0, 1, 2, 4, ... steps, and after the last."""
    from kedit.edit.relearning import Lessons

    last = asked.get("steps", 32)
    if not isinstance(last, int) or isinstance(last, bool) or last < 1:
        raise ConfigurationError(f"`steps` is a whole number, 1 or more; got {last}")
    steps = [0, *(2**power for power in range(last.bit_length()) if 2**power < last), last]
    with misuse():
        return Lessons(asked.get("captions", 8), tuple(steps), float(asked.get("rate", 1e-4)))


def never_knew(model: DictConfig, folder: object) -> Any:
    """Return the never-knew model in a folder, which is asked as the edited `model` is; None without a folder."""
    if folder is None:
        return None
    if not isinstance(folder, str) or not Path(folder).is_dir():
        raise ConfigurationError(f"`never_knew` is the folder of a model; got `{folder}`")
    from omegaconf import OmegaConf

    return build(OmegaConf.merge(model, {"path": folder, "name": Path(folder).name, "adapter": None}))


def main() -> int:
    """Ask about the run on the command line."""
    arguments = sys.argv[1:]
    if (code := usage_code(f"kedit gone {TAKES['gone']}", arguments)) is not None:
        return code
    try:
        print(f"{ask_run(Path(arguments[0]), arguments[1:])}\nfiles: {arguments[0]}")
    except Exception as error:
        return said(code_of(error), explained(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
