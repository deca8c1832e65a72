"""Write the edit of a finished run in a form that other programs load, and check it against the run's hook.

kedit export outputs/star to=ia3

`to` is merged (the whole model, edited), ia3 or lora (adapters of PEFT), or delta (the changed columns). Without
`folder` it goes beside the run, as outputs/star-ia3. An earlier export there is replaced with `overwrite=true`.
"""

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from kedit.cli.configuration import misuse
from kedit.cli.errors import explained, usage_code
from kedit.cli.finished_run import asked_for, drawn, open_run
from kedit.cli.help import TAKES
from kedit.cli.jobs import code_of, said
from kedit.cli.previous_runs import overwrites

KEYS = ("to", "folder", "overwrite")
TERMINATED = 143
"""The exit code of a process that was asked to end."""


def export_run(run: Path, arguments: Sequence[str]) -> Any:
    """Return what `kedit.export` makes of the edit of a finished run.

    Args:
        run: The run's folder.
        arguments: Settings such as `to=ia3`.
    """
    asked = asked_for(arguments, KEYS, "an export", "to=ia3")
    to = asked.get("to", "merged")
    folder = Path(str(asked.get("folder") or run.resolve().with_name(f"{run.resolve().name}-{to}")))
    from kedit.pipelines.export import check_asked, export
    from kedit.pipelines.export_check import N_PICTURES

    overwrite = overwrites(asked)
    opened = open_run(run, "to export", lambda edit: check_asked(edit, folder, to, overwrite=overwrite))
    with misuse():
        return export(
            opened.edit, opened.model, folder, to=to, report=opened.report,
            pictures=[one.image for one in drawn(opened).target[:N_PICTURES]], commands=_commands(run, arguments),
            overwrite=overwrite,
        )  # fmt: skip


def _commands(run: Path, arguments: Sequence[str]) -> list[str]:
    """Return the commands that made the run and the export."""
    overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    return [shlex.join(["kedit", "run", *map(str, overrides)]), shlex.join(["kedit", "export", str(run), *arguments])]


def _end(*_: object) -> NoReturn:
    """End in order, so that an export that was begun is taken away."""
    raise SystemExit(TERMINATED)


def main() -> int:
    """Export the run on the command line."""
    arguments = sys.argv[1:]
    if (code := usage_code(f"kedit export {TAKES['export']}", arguments)) is not None:
        return code
    former = signal.signal(signal.SIGTERM, _end)
    try:
        print(export_run(Path(arguments[0]), arguments[1:]))
    except Exception as error:
        return said(code_of(error), explained(error))
    finally:
        signal.signal(signal.SIGTERM, former)
    return 0


if __name__ == "__main__":
    sys.exit(main())
