"""Scores of a part of the pictures, kept until those of all parts come to what one job would have found."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch

from kedit.locate.locator import Locator
from kedit.locate.shards import Shard, check_shareable, merge, who_scores
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronScores, load_scores, save_scores
from kedit.pipelines.locate import (
    Located,
    LocateResult,
    check_model,
    check_scorers,
    name_of,
    selectors_of,
    without_seconds,
)
from kedit.pipelines.naming import name_neurons
from kedit.pipelines.preparation import Prepared, usable
from kedit.pipelines.provenance import MARKS, check_marks, marks_of_model, signed
from kedit.pipelines.readable import with_readable_pairs
from kedit.results.cache import NO_CACHE, Cache, of_pairs
from kedit.results.cache import scorers as of_scorers
from kedit.results.run_folder import Run
from kedit.samples import Progress, silent
from kedit.store import digest

SCORES, SHARD = "scores.safetensors", "shard.json"
BY_MODEL = ("counterfactual_names_it", "caption_does_not_name_it")
"""Reasons to skip a pair that the model's captions give."""


@dataclass(frozen=True, eq=False)
class ShardScores:
    """What one of several jobs found about its part of the pictures."""

    shard: Shard
    marks: Mapping[str, str]
    """Of the model and of what all shards have in common, as `Prepared.asked`; equal for all."""
    pairs: Sequence[str]
    """The digest of each usable pair of the part."""
    widths: Mapping[int, int]
    """The number of neurons of each layer."""
    skipped: Mapping[str, int]
    """How many pictures could not be used, by the reason."""
    scores: Mapping[str, NeuronScores]
    """64-bit means over the samples of the part; none where no caption names the concept."""

    def save_in(self, run: Run) -> None:
        """Leave scores and what they are of in the folder of a run that is open."""
        run.save_file(SCORES, lambda path: save_scores(without_seconds(self.scores), path))
        about = {name: getattr(self, name) for name in ("marks", "pairs", "widths", "skipped")}
        run.save_json(SHARD, asdict(self.shard) | about)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return what `save_in` left in `folder`; a ValueError says why it cannot count."""
        status, about = folder / "STATUS", json.loads((folder / SHARD).read_text(encoding="utf-8"))
        if status.is_file() and (told := status.read_text(encoding="utf-8").strip()) != "done":
            raise ValueError(f"the shard in `{folder}` is not done ({told:.80}), and what lies there may be old")
        if "marks" not in about:
            raise ValueError(f"the shard in `{folder}` is of an older kedit; score it anew")
        widths = {int(layer): width for layer, width in about["widths"].items()}
        shard, scores = Shard(about["index"], about["count"]), load_scores(folder / SCORES)
        return cls(shard, about["marks"], about["pairs"], widths, about["skipped"], scores)

    def __str__(self) -> str:
        n_samples = [int(one.provenance["n_samples"]) for one in self.scores.values()]
        return f"shard {self.shard}: {max(n_samples, default=0)} samples scored"


def score_shard(
    model: MLLM,
    prepared: Prepared,
    locator: Locator,
    shard: Shard,
    *,
    cache: Cache = NO_CACHE,
    progress: Progress = silent,
) -> ShardScores:
    """Score one part of the pictures.

    Args:
        model: The model, unedited.
        prepared: What `prepare` returned for the same shard.
        locator: Scores; what it selects does not matter yet.
        shard: Which part it is.
        cache: What is known from before; scores of a part are not kept.
        progress: Shows how far it is.

    Raises:
        ValueError: What a scorer makes of all samples is no mean over them.
    """
    check_shareable(locator)
    site = check_model(model, locator, prepared.medium)
    prepared = with_readable_pairs(model, prepared)
    used, scorers = usable(model, prepared.pairs, progress, cache, needed=False), who_scores(locator)
    named = [one is not None for one in scorers.mentions(model, used.pairs, used.captions)]
    scores = dict[str, NeuronScores]()
    if any(named):
        with cache.keeping_words():
            scores = scorers.score(model, used.pairs, captions=used.captions, progress=progress, dtype=torch.float64)
    by_model = dict(zip(BY_MODEL, (used.still_named, named.count(False)), strict=True))
    marks = {**marks_of_model(model, cache.weights), "asked": prepared.asked, "scorers": digest(of_scorers(scorers))}
    skipped = {**prepared.skipped, **by_model}
    return ShardScores(shard, marks, of_pairs(used.pairs), site.widths, skipped, scores)


def merge_shards(folders: Sequence[str | Path], locator: Locator, *, name: str = "") -> LocateResult:
    """Return what one job would have found, from the folders of all shards.

    Args:
        folders: Of the shards, in any order, or folders that theirs are in, such as that of a sweep.
        locator: The one that scored; it selects.
        name: What to call it; its stages if empty.

    Raises:
        ValueError: A shard is missing or there twice, or they are of different models, concepts or scorers.
        ScoresError: The scores are not those of `locator`.
    """
    began = time.perf_counter()
    shards = sorted(_shards_in(map(Path, folders)), key=lambda one: one.shard.index)
    if not shards or [one.shard for one in shards] != [Shard(n, len(shards)) for n in range(len(shards))]:
        there = ", ".join(str(one.shard) for one in shards) or "none"
        raise ValueError(f"each shard is needed once to merge `{', '.join(map(str, folders))}`; there is {there}")
    for one in shards[1:]:
        _check_kin(shards[0], one)
    scores = merge([one.scores for one in shards])
    check_scorers(scores, who_scores(locator))
    reasons = dict.fromkeys(reason for one in shards for reason in one.skipped)
    skipped = {reason: sum(one.skipped.get(reason, 0) for one in shards) for reason in reasons}
    by_model = {reason: skipped.pop(reason) for reason in BY_MODEL}
    # A shard in which no caption names the concept has no scores to say so.
    unnamed = {"skipped": str(by_model["caption_does_not_name_it"])}
    pictures = {"pictures": digest([pair for one in shards for pair in one.pairs])}
    with_marks = {key: mark for key, mark in shards[0].marks.items() if key in MARKS}
    scores = signed(scores, unnamed | with_marks | pictures)
    stages = locator.select_each(scores)
    named = name_neurons(list(stages.values())[-1], scores)
    located = Located(scores, stages, shards[0].widths, by_model, named=named)
    seconds = time.perf_counter() - began
    return LocateResult(name or name_of(locator), selectors_of(locator), located, skipped, seconds)


def _check_kin(one: ShardScores, other: ShardScores) -> None:
    """Raise a ValueError unless two shards are of one job; warn where nothing tells."""
    what = f"shards {one.shard} and {other.shard}"
    check_marks(one.marks, {key: mark for key, mark in other.marks.items() if key in MARKS}, what)
    if one.marks["asked"] != other.marks["asked"]:
        raise ValueError(f"{what} do not fit: the pictures, what paints them or kedit's version are not the same")


def _shards_in(folders: Iterable[Path]) -> Iterator[ShardScores]:
    for folder in folders:
        for file in [folder / SHARD] if (folder / SHARD).is_file() else folder.glob(f"*/{SHARD}"):
            yield ShardScores.load(file.parent)
