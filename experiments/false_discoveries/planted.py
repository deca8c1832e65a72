"""`against=truth`: what a rate of false discoveries promises beside what it gives.

On planted models most neurons are exactly blind to the concept, and of those that see it few say so: what is found
can be told from what is there. See `kedit.models.planted.nulls`.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig

from experiments.false_discoveries.rates import Rate, drawn, plain, rate_of, rows, told
from kedit.cli.configuration import build, figure_style
from kedit.cli.errors import ConfigurationError
from kedit.cli.show import tell_figures
from kedit.locate.difference import ActivationDifference
from kedit.locate.fdr.selector import FDRSelector
from kedit.locate.locator import Locator
from kedit.models.mllm import Generated
from kedit.models.planted.nulls import NAMES, PlantedNulls, null_pairs, planted_nulls
from kedit.neurons import NeuronSet
from kedit.progress import show_progress
from kedit.results.table import Table
from kedit.samples import Concept, Counterfactual

HEADER = ("stage", "asked for", "false discoveries", "found of the true", "any where nothing is")


@dataclass(frozen=True)
class Found:
    """What one stage found on one model at one rate, beside what is there."""

    stage: str
    q: float
    false_share: float
    """Of what was found; 0 where nothing was."""
    power: float
    """The share of the true neurons that was found."""
    anything: bool
    """Whether anything was found on pictures without the concept."""


def truth(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Count the false discoveries on every planted model at every rate, and report their share."""
    auto, locator, rates = understood(cfg)
    seeds = range(cfg.seed, cfg.seed + cfg.planted.models)
    found: list[Found] = []
    for seed in show_progress(seeds, len(seeds), "planted models"):
        found += judged(planted_nulls(seed), replace(auto, seed=seed), locator, cfg.planted.pictures, rates)
    measured = [
        rate_of(stage, q, [one for one in found if (one.stage, one.q) == (stage, q)], cfg.seed)
        for stage in locator.stages
        for q in rates
    ]
    report(measured, cfg, kept, tracker)


def understood(cfg: DictConfig) -> tuple[FDRSelector, Locator, list[float]]:
    """Return the tests, the locator, which forces the concept's word, and the rates."""
    auto, locator, rates = build(cfg.select), build(cfg.locate), [float(one) for one in cfg.planted.rates]
    if not isinstance(auto, FDRSelector) or not isinstance(locator, Locator):
        raise ConfigurationError("`against=truth` counts the false discoveries of `select=auto`, with stages to locate")
    if not rates or any(not 0 < one < 1 for one in rates):
        raise ConfigurationError(f"`planted.rates` are shares above 0 and below 1, got {rates}")
    auto.check(locator)
    return auto, replace(locator, target=replace(locator.target, on_missing="force")), sorted(set(rates))


def judged(
    case: PlantedNulls, auto: FDRSelector, locator: Locator, n_pictures: int, rates: Sequence[float]
) -> Iterator[Found]:
    """Yield what each stage finds at each rate; the model runs once for all rates."""
    shown, hidden = (
        tested(case, auto, locator, null_pairs(n_pictures, auto.seed, shown=shown), rates) for shown in (True, False)
    )
    for name, stage in locator.stages.items():
        true = case.readers if isinstance(stage.scorer, ActivationDifference) else case.speakers
        for q in rates:
            chosen, nothing = shown[q][name], hidden[q][name]
            wrong = len(chosen - true) / max(1, len(chosen))
            yield Found(name, q, wrong, len(chosen & true) / len(true), len(nothing) > 0)


def tested(
    case: PlantedNulls, auto: FDRSelector, locator: Locator, pairs: Sequence[Counterfactual], rates: Sequence[float]
) -> dict[float, dict[str, NeuronSet]]:
    """Return what each stage keeps at each rate."""
    captions = [Generated("", ())] * len(pairs)
    scores = locator.score(case.model, pairs, captions=captions)
    words = [Concept(name) for name in NAMES]
    nulls = auto.measure(case.model, locator, pairs, captions=captions, words=words)
    return {q: replace(auto, q=q).choose(nulls, scores).stages for q in rates}


def report(measured: Sequence[Rate], cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Write the table and the figure, mirror them to the tracker, and print the table."""
    about = (
        f"{cfg.planted.models} planted models, {cfg.planted.pictures} pictures each; shares with 95 % intervals over "
        "models. False discoveries are neurons of the first stage that do not see the concept's color, and of the last "
        "those that do not say its word; the last column is how often a stage finds anything on pictures without it."
    )
    table = rows(measured)
    page = Table(HEADER, tuple(table)).markdown()
    kept.save_json("calibration.json", plain(measured, about))
    kept.save_text("calibration.md", f"{page}\n\n{about}\n\n{told(measured)}\n")
    kept.save_figures({"calibration": drawn(measured)}, figure_style(cfg))
    tracker.table("calibration", HEADER, table)
    tell_figures(tracker, kept)
    tracker.log({f"calibration/{one.stage}/{one.q:g}": one.false_share.value for one in measured})
    sys.stdout.write(f"{page}\n\n{told(measured)}\nfiles: {kept.folder}\n")
