"""Locating methods against models whose right answer is known: `kedit compare against=truth`.

kedit compare against=truth
"""

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig

from experiments.app import bar, use_threads, whole_numbers
from experiments.comparison import planted_tables as tables
from experiments.comparison.choices import Choices, Method
from experiments.comparison.planted_costs import Cost, cost_of, plain_forward
from experiments.comparison.planted_tables import RANDOM, Verdict
from experiments.comparison.scoring import Bench, Failed
from experiments.complaints import ConfigurationError
from kedit.evaluation.ranking import average_precision, expected_average_precision
from kedit.locate.locator import Locator
from kedit.models.planted_family import PlantedCase, family, planted_pairs, variants
from kedit.neurons import NeuronId, NeuronScores
from kedit.pipelines.locate import Usable
from kedit.reports import markdown_table

logger = logging.getLogger(__name__)

LEAST = {"seed": 0, "threads": 1, "planted.seeds": 1, "planted.pictures": 1, "planted.repeats": 1}
MODALITY = "image"
"""Whose scores count where a method has some for each modality."""


class _NoShelf:
    """Keeps nothing: on models this small, scoring again is faster than reading."""

    def scores(self, **_: Any) -> None:
        """Have no scores."""

    def keep_scores(self, scores: Mapping[str, NeuronScores], **_: Any) -> None:
        """Drop them."""


def truth(cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Rank the neurons of every planted model by every method, and report how high the true ones come."""
    whole_numbers(cfg, LEAST, optional=["threads"])
    chosen = chosen_variants(cfg.planted.variants)
    methods = [method for method in Choices.of(cfg).methods if not method.drawn]
    use_threads(cfg.threads)
    seeds = range(cfg.seed, cfg.seed + cfg.planted.seeds)
    jobs = [(variant, seed) for seed in seeds for variant in chosen]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in [*(m.name for m in methods), RANDOM]}
    failures: dict[str, str] = {}
    for variant, seed in bar(jobs, len(jobs), "planted models"):
        for name, value in ranked(family(variant, seed), methods, cfg.planted.pictures):
            if isinstance(value, Failed):
                failures.setdefault(name, str(value))
            else:
                found[name].setdefault(variant, []).append(value)
    costs = measured_costs(family(chosen[0], cfg.seed), methods, cfg.planted.pictures, cfg.planted.repeats)
    notes = {method.name: method.note for method in methods}
    verdicts = [
        Verdict(name, by_variant, failures.get(name, ""), costs.get(name), notes.get(name, ""))
        for name, by_variant in found.items()
    ]
    report(verdicts, chosen, cfg, kept, tracker)


def report(verdicts: Sequence[Verdict], names: Sequence[str], cfg: DictConfig, kept: Any, tracker: Any) -> None:
    """Write the tables and the figure, mirror them to the tracker, and print the table."""
    ordered, reference = tables.sorted_by_mean(verdicts, names), str(cfg.reference)
    contests = tables.against(ordered, names, reference)
    about = f"{tables.ABOUT} {cfg.planted.seeds} models of each variant, {cfg.planted.pictures} pictures each."
    header, rows = tables.columns(names), [tables.row(one, names) for one in ordered]
    kept.save_json("planted.json", tables.plain(ordered, names, contests, about))
    kept.save_text("planted.csv", tables.comma_separated(ordered, names))
    page = (markdown_table(header, rows), about, *tables.notes(ordered), tables.told(contests, reference))
    kept.save_text("planted.md", "\n\n".join(filter(None, page)) + "\n")
    picture = kept.save_figure("planted.png", tables.drawn(ordered, names, reference).save)
    tracker.table("planted", header, rows)
    tracker.figure("planted", picture)
    tracker.log({f"planted/{one.method}": value for one in ordered if (value := tables.mean(one, names)) is not None})
    tables.show(ordered, names, tables.told(contests, reference))
    sys.stdout.write(f"files: {kept.folder}\n")


def chosen_variants(asked: Any) -> list[str]:
    """Return the variants that are asked for, all of them for None."""
    names = list(variants()) if asked is None else [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in variants()]
    if unknown or not names:
        got = f"`{unknown[0]}`" if unknown else "none"
        raise ConfigurationError(f"`planted.variants` names some of {', '.join(variants())}, or is null; got {got}")
    return list(dict.fromkeys(names))


def ranked(case: PlantedCase, methods: Sequence[Method], n_pictures: int) -> Iterator[tuple[str, float | Failed]]:
    """Yield the average precision of each method on a model, or why there is none, and that of a random order."""
    pairs = planted_pairs(n_pictures, case.seed)
    found = Usable(pairs, case.model.caption([pair.sample.image for pair in pairs]), 0)
    bench = Bench(case.model, found, _NoShelf(), _silently)  # type: ignore[arg-type]
    made = bench.scores(methods)
    for method in methods:
        scores = made[method.name]
        yield (
            method.name,
            scores if isinstance(scores, Failed) else precision(case, ranks(method.locators[0], scores[0])),
        )
    n_neurons = case.model.site().n_neurons - len(case.ignored)
    yield RANDOM, expected_average_precision(n_neurons, len(case.truth))


def ranks(locator: Any, scores: Mapping[str, NeuronScores]) -> dict[NeuronId, int]:
    """Return the rank of each neuron, 0 for the worst; equal ones share theirs.

    What passes all stages but the last is ordered by the last one. What an earlier stage drops comes below, ordered by
    that stage; a neuron without a score is last of its stage. Of a method with scores for each modality, those of
    the image count.
    """
    if not isinstance(locator, Locator):
        only = scores[MODALITY] if MODALITY in scores else list(scores.values())[-1]
        return _dense({one: (0, *_keys(only, one)) for one in _neurons(only)})
    *earlier, last = locator.stages
    dropped: dict[NeuronId, str] = {}
    if earlier:
        before = replace(locator, stages={name: locator.stages[name] for name in earlier}).select_each(scores)
        for name in reversed(earlier):
            dropped |= {one: name for one in _neurons(scores[name]) if one not in before[name]}
    order = {name: level for level, name in enumerate(locator.stages)}
    where = {one: dropped.get(one, last) for one in _neurons(scores[last])}
    return _dense({one: (order[name], *_keys(scores[name], one)) for one, name in where.items()})


def precision(case: PlantedCase, places: Mapping[NeuronId, int]) -> float:
    """Return the average precision of a ranking of the case's neurons; those to be ignored are left out."""
    counted = [one for one in places if one not in case.ignored]
    return average_precision([float(places[one]) for one in counted], [one in case.truth for one in counted])


def measured_costs(case: PlantedCase, methods: Sequence[Method], n_pictures: int, repeats: int) -> dict[str, Cost]:
    """Return what each method takes alone, beside one plain forward of the same pictures."""
    pairs = planted_pairs(n_pictures, case.seed)
    captions = case.model.caption([pair.sample.image for pair in pairs])
    forward = plain_forward(case.model, pairs, captions)
    costs: dict[str, Cost] = {}
    for method in bar(methods, len(methods), "costs"):
        some = slice(method.samples)
        try:
            costs[method.name] = cost_of(method.locators[0], case.model, pairs[some], captions[some], forward, repeats)
        except (ValueError, LookupError) as error:
            logger.info("no cost of `%s`: %s", method.name, error)
    return costs


def _silently(items: Any, total: int, what: str) -> Any:  # noqa: ARG001
    return items


def _neurons(scores: NeuronScores) -> list[NeuronId]:
    n_layers, n_neurons = scores.values.shape
    return [NeuronId(layer, index) for layer in range(n_layers) for index in range(n_neurons)]


def _keys(scores: NeuronScores, one: NeuronId) -> tuple[float, float]:
    values = [-float("inf") if tensor is None else float(tensor[one]) for tensor in (scores.values, scores.ties)]
    first, second = (-float("inf") if value != value else value for value in values)
    return first, second


def _dense(keys: Mapping[NeuronId, tuple[float, ...]]) -> dict[NeuronId, int]:
    places = {key: place for place, key in enumerate(sorted(set(keys.values())))}
    return {one: places[key] for one, key in keys.items()}
