"""A finished run of `kedit run`, opened again: the model, the data and the edit that it had, and its pictures."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, misuse, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.previous_runs import settings_of


class FinishedRun(NamedTuple):
    """What a run's folder tells, built again."""

    settings: DictConfig
    data: Any
    model: Any
    edit: Any
    report: Mapping[str, Any]


def open_run(run: Path, purpose: str, check: Callable[[Any], object] | None = None) -> FinishedRun:
    """Return a finished run; what is wrong with its folder is a ConfigurationError before the model is loaded.

    Args:
        run: The run's folder.
        purpose: What its edit is opened for, as in "to export".
        check: Called with the edit before the model is loaded, so that a patch has no values yet.
    """
    settings = settings_of(run)
    from kedit.edit.operators import Patch
    from kedit.neurons import NeuronSet

    if settings.edit._target_.endswith(".NoEdit"):
        raise ConfigurationError(f"`{run}` measured an adapter (`edit=none`): there is no edit of kedit's {purpose}")
    use_threads(settings.threads)
    with misuse():
        neurons, data, plan = NeuronSet.load(run / "neurons.json"), build(settings.data), build(settings.edit)
        if check is not None:
            check(plan.edit(neurons, getattr(plan, "operator", Patch()), str(settings.concept)))
    model = build(settings.model)
    with misuse():
        _check_model(run, model)
        edit = plan.edit(neurons, _operator(plan, model, settings), str(settings.concept))
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return FinishedRun(settings, data, model, edit, report)


def drawn(run: FinishedRun) -> Any:
    """Return the pictures that a run drew."""
    from kedit.cli.pairs import counts_of
    from kedit.pipelines.preparation import draw
    from kedit.samples import find_concept

    found = find_concept(run.data.concepts, str(run.settings.concept))
    return draw(run.data, found, counts_of(run.settings.evaluate), seed=run.settings.seed)


def asked_for(arguments: Sequence[str], keys: Sequence[str], what: str, example: str) -> DictConfig:
    """Return the settings behind a run's folder on the command line.

    Args:
        arguments: What was typed, such as `to=ia3`.
        keys: Those that there are.
        what: What they are settings of.
        example: One of them.
    """
    if wrong := [argument for argument in arguments if argument.partition("=")[0] not in keys or "=" not in argument]:
        raise ConfigurationError(f"`{wrong[0]}` is no setting of {what}; keys: {', '.join(keys)}, as in `{example}`")
    return OmegaConf.from_dotlist(list(arguments))


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
