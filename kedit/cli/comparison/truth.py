"""`kedit compare against=truth`: methods on planted models, and what each takes beside one plain forward."""

import logging
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from kedit.cli.comparison.choices import chosen
from kedit.cli.comparison.memory import peak_bytes
from kedit.cli.configuration import misuse, whole_numbers
from kedit.cli.show import tell_figures
from kedit.models.mllm import MLLM, Generated
from kedit.models.planted.family import PlantedCase, family
from kedit.models.planted.pictures import planted_pairs
from kedit.pipelines.comparison.choices import Method
from kedit.pipelines.comparison.planted import MEAN, Cost, PlantedBenchmark, check_variants, rank_planted
from kedit.progress import show_progress
from kedit.samples import Counterfactual

logger = logging.getLogger(__name__)
LEAST = {"seed": 0, "threads": 1, "planted.seeds": 1, "planted.pictures": 1, "planted.repeats": 1}


def truth(cfg: Any, kept: Any, tracker: Any, style: Any) -> None:
    """Rank the neurons of every planted model by every method, time the methods, and leave what came of it."""
    whole_numbers(cfg, LEAST, optional=["threads"])
    asked, choices = cfg.planted, chosen(cfg)
    with misuse():
        variants = check_variants(asked.variants)
    benchmark = rank_planted(
        choices.methods, variants=variants, models=asked.seeds, pictures=asked.pictures, reference=choices.reference,
        seed=cfg.seed, progress=show_progress,
    )  # fmt: skip
    certain = [method for method in choices.methods if not method.drawn]
    costs = measure_costs(family(variants[0], cfg.seed), certain, asked.pictures, asked.repeats)
    leave(benchmark.with_costs(costs), kept, tracker, style)


def leave(benchmark: PlantedBenchmark, kept: Any, tracker: Any, style: Any) -> None:
    """Write the tables and the figure, mirror them to the tracker, and print the table."""
    table, means = benchmark.table(), {one.method: one.figure(MEAN).value for one in benchmark.verdicts}
    kept.save_json("planted.json", benchmark.to_json())
    kept.save_text("planted.csv", benchmark.long().csv())
    kept.save_text("planted.md", f"{table.markdown()}\n\n{benchmark.about}\n")
    kept.save_figures({"planted": benchmark.drawing}, style)
    tracker.table("planted", table.columns, table.texts)
    tell_figures(tracker, kept)
    tracker.log({f"planted/{method}": value for method, value in means.items() if value is not None})
    print(f"{benchmark}\nfiles: {kept.folder}")


def measure_costs(case: PlantedCase, methods: Sequence[Method], n_pictures: int, repeats: int) -> dict[str, Cost]:
    """Return what each method takes alone, beside one plain forward of the same pictures."""
    pairs = planted_pairs(n_pictures, case.seed)
    captions = case.model.caption([pair.sample.image for pair in pairs])
    forward = plain_forward(case.model, pairs, captions)
    costs: dict[str, Cost] = {}
    for method in show_progress(methods, len(methods), "costs"):
        some = slice(method.samples)
        try:
            costs[method.name] = cost_of(method.locator, case.model, pairs[some], captions[some], forward, repeats)
        except (ValueError, LookupError) as error:
            logger.info("no cost of `%s`: %s", method.name, error)
    return costs


def plain_forward(model: MLLM, pairs: Sequence[Counterfactual], captions: Sequence[Generated]) -> Callable[[], None]:
    """Return a function that reads each original and its caption's words up to the concept's, and keeps nothing."""
    mentions = [model.mention(said, pair.concept, force=True) for said, pair in zip(captions, pairs, strict=True)]
    prefixes = [mention.prefix for mention in mentions if mention is not None]
    images = [pair.sample.image for pair in pairs]

    @torch.no_grad()
    def forward() -> None:
        for start in range(0, len(images), model.batch_size):
            some = slice(start, start + model.batch_size)
            model.logits(model.teacher_forced(images[some], prefixes[some]))

    return forward


def cost_of(
    locator: Any,
    model: MLLM,
    pairs: Sequence[Counterfactual],
    captions: Sequence[Generated],
    forward: Callable[[], None],
    repeats: int,
) -> Cost:
    """Return what the locator takes to score; the two take turns, and each time is a median of `repeats`."""

    def score() -> Any:
        return locator.score(model, pairs, captions=captions)

    about = next(iter(score().values())).provenance
    forward()
    spent = [(_seconds(score), _seconds(forward)) for _ in range(repeats)]
    method, plain = (median(times) for times in zip(*spent, strict=True))
    forwards, backwards = (int(about[name]) / len(pairs) for name in ("forwards", "backwards"))
    return Cost(forwards, backwards, method / plain, peak_bytes(score) / peak_bytes(forward))


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
