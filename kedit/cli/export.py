"""Write the edit of a finished run in a form that other programs load, and check it against the run's hook.

kedit export outputs/star to=ia3

`to` is merged (the whole model, edited), ia3 or lora (adapters of PEFT), or delta (the changed columns). Without
`folder` it goes beside the run, as outputs/star-ia3. An earlier export there is replaced with `overwrite=true`.
"""

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, misuse, use_threads
from kedit.cli.errors import ConfigurationError, explained, usage_code
from kedit.cli.help import TAKES
from kedit.cli.jobs import code_of, said
from kedit.cli.previous_runs import overwrites, settings_of

KEYS = ("to", "folder", "overwrite")
TERMINATED = 143
"""The exit code of a process that was asked to end."""


def export_run(run: Path, words: Sequence[str]) -> Any:
    """Return what `kedit.export` makes of the edit of a finished run.

    Args:
        run: The run's folder.
        words: Settings such as `to=ia3`.
    """
    asked = _settings(words)
    settings = settings_of(run)
    to = asked.get("to", "merged")
    folder = Path(asked.get("folder") or run.resolve().with_name(f"{run.resolve().name}-{to}"))
    from kedit.neurons import NeuronSet
    from kedit.pipelines.export import export
    from kedit.pipelines.export_check import N_PICTURES

    if settings.edit._target_.endswith(".NoEdit"):
        raise ConfigurationError(f"`{run}` measured an adapter (`edit=none`): there is no edit of kedit's to export")
    use_threads(settings.threads)
    with misuse():
        neurons, data, plan = NeuronSet.load(run / "neurons.json"), build(settings.data), build(settings.edit)
        pictures = [one.image for one in _drawn(data, settings).target[:N_PICTURES]]
    model = build(settings.model)
    with misuse():
        _check_model(run, model)
        edit = plan.edit(neurons, _operator(plan, model, settings), str(settings.concept))
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        return export(
            edit, model, folder, to=to, report=report, pictures=pictures, commands=_commands(run, words),
            overwrite=overwrites(asked),
        )  # fmt: skip


def _settings(words: Sequence[str]) -> DictConfig:
    if wrong := [word for word in words if word.partition("=")[0] not in KEYS or "=" not in word]:
        raise ConfigurationError(f"`{wrong[0]}` is no setting of an export; keys: {', '.join(KEYS)}, as in `to=ia3`")
    return OmegaConf.from_dotlist(list(words))


def _drawn(data: Any, settings: DictConfig) -> Any:
    """Return the pictures that the run drew."""
    from kedit.cli.pairs import counts_of
    from kedit.pipelines.preparation import draw
    from kedit.samples import find_concept

    found = find_concept(data.concepts, str(settings.concept))
    return draw(data, found, counts_of(settings.evaluate), seed=settings.seed)


def _check_model(run: Path, model: Any) -> None:
    """Raise a ScoresError where the model is not the one that the run's neurons were located in."""
    from kedit.neurons import load_scores
    from kedit.pipelines.provenance import check_marks, marks_of_model

    if (file := run / "scores.safetensors").is_file():
        had = next(iter(load_scores(file).values())).provenance
        check_marks(had, marks_of_model(model), f"the neurons of `{run}`")


def _operator(plan: Any, model: Any, settings: DictConfig) -> Any:
    """Return the operator; one that is measured needs the pairs that the run located with."""
    from kedit.edit.plan import PatchPlan

    if not isinstance(plan, PatchPlan):
        return plan.operator_for(model, [])
    from kedit.cli.run import prepared_for
    from kedit.pipelines.preparation import usable
    from kedit.pipelines.readable import readable
    from kedit.progress import show_progress

    pairs = usable(model, readable(model, prepared_for(settings)).pairs, show_progress).pairs
    return plan.operator_for(model, pairs, progress=show_progress)


def _commands(run: Path, words: Sequence[str]) -> list[str]:
    """Return the commands that made the run and the export."""
    overrides = OmegaConf.load(run / ".hydra" / "overrides.yaml")
    return [shlex.join(["kedit", "run", *map(str, overrides)]), shlex.join(["kedit", "export", str(run), *words])]


def _end(*_: object) -> NoReturn:
    """End in order, so that an export that was begun is taken away."""
    raise SystemExit(TERMINATED)


def main() -> int:
    """Export the run on the command line."""
    words = sys.argv[1:]
    if (code := usage_code(f"kedit export {TAKES['export']}", words)) is not None:
        return code
    former = signal.signal(signal.SIGTERM, _end)
    try:
        print(export_run(Path(words[0]), words[1:]))
    except Exception as error:
        return said(code_of(error), explained(error))
    finally:
        signal.signal(signal.SIGTERM, former)
    return 0


if __name__ == "__main__":
    sys.exit(main())
