"""What a job is prepared with: its pictures and questions, the painted pairs, and which of them can be used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kedit.arguments import require_count
from kedit.data.inpaint import Inpainter, usual_inpainter
from kedit.data.pairs import counterfactuals
from kedit.data.pope import Pope
from kedit.evaluation.evaluation_set import EvaluationSet
from kedit.locate.shards import ALL, Shard
from kedit.models.mllm import MLLM, Generated
from kedit.pipelines.provenance import asked_for
from kedit.pipelines.raw_outputs import captions_of, rows
from kedit.prompts import Medium
from kedit.results.cache import NO_CACHE, Cache, of_pairs
from kedit.samples import Concept, Data, Finite, Pair, Progress, Question, Split, TextPair, find_concept, silent


@dataclass(frozen=True)
class Counts:
    """How many pictures a job takes, and how many random controls."""

    locate: int = 24
    """Pictures of the concept to locate with."""
    target: int = 60
    """Held-out pictures of it, on which suppression is measured."""
    retention: int = 60
    """Pictures without it: so many with a thing of its kind, and as many without."""
    controls: int = 5
    """Layer-matched random sets beside the located one."""
    strict: bool = False
    """Whether to refuse if there are fewer pictures, instead of taking what there is with a warning."""
    text: bool = True
    """Whether the data set's text-only questions are asked as well."""

    def __post_init__(self) -> None:
        if not isinstance(self.strict, bool):
            raise ValueError(f"`strict` is true or false, got {self.strict!r}")
        for name, least in (("locate", 1), ("target", 1), ("retention", 0), ("controls", 0)):
            require_count(getattr(self, name), name, least)
        if not isinstance(self.text, bool):
            raise ValueError(f"`text` is true or false, got {self.text!r}")


class Prepared(NamedTuple):
    """What an edit is judged on, what it is located with, and what the data set passed over."""

    evaluation_set: EvaluationSet
    pairs: list[Pair]
    skipped: dict[str, int]
    """How many pictures cannot be used, or not be painted, by the reason."""
    asked: str = ""
    """Of a shard, the digest of what all shards have in common: the pictures of all, and what paints them."""
    polls: tuple[Question, ...] = ()
    """POPE's questions, if they are asked."""

    @property
    def medium(self) -> Medium:
        """What the samples hold beside their text."""
        return "text" if any(isinstance(pair, TextPair) for pair in self.pairs) else "image"


def prepare(
    data: Data,
    concept: str,
    inpaint: Inpainter | None,
    counts: Counts,
    *,
    seed: int = 0,
    shard: Shard = ALL,
    pope: Pope | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Return what an edit of the concept called `concept` is judged on, and the pairs to locate it with.

    Without an inpainter, the data set draws each picture anew where it can, and else the region is filled with the
    mean colour around it. Of several shards, one may have no pair. With `pope`, its questions are there as well.

    Raises:
        LookupError: The data has no such concept.
        ValueError: It has too few pictures, or none can be painted.
    """
    found = find_concept(data.concepts, concept)
    split = draw(data, found, counts, seed=seed)
    evaluation_set = build_evaluation_set(data, found, split, counts)
    samples = shard.of(split.locate)
    painter = inpaint or usual_inpainter(split.locate)
    pairs = counterfactuals(painter, samples, found, progress=progress, needed=shard.count == 1)
    # What the data set passed over, it passed over for all shards.
    passed_over = split.skipped if shard.index == 0 else {}
    asked = asked_for(split.locate, found, painter) if shard.count > 1 else ""
    polls = () if pope is None else pope.questions(data, found, split, seed=seed)
    return Prepared(evaluation_set, pairs.made, {**passed_over, **pairs.skipped}, asked, polls)


def build_evaluation_set(data: Data, concept: Concept, split: Split, counts: Counts) -> EvaluationSet:
    """Return what an edit of the concept is judged on."""
    questions = (*data.questions, *split.questions) if counts.text else ()
    return EvaluationSet(concept, (*data.concepts, *split.vocabulary), split.target, split.near, split.far, questions)


def draw(data: Data, concept: Concept, counts: Counts, *, seed: int) -> Split:
    """Return the pictures of a concept, fewer where there are fewer and `counts` are not strict."""
    take = data.split_up_to if isinstance(data, Finite) and not counts.strict else data.split
    return take(concept, locate=counts.locate, target=counts.target, retention=counts.retention, seed=seed)


class Usable(NamedTuple):
    """The pairs that locating may use, and the model's captions of their originals."""

    pairs: Sequence[Pair]
    captions: list[Generated]
    still_named: int
    """How many pairs were left out, since the caption of the counterfactual names the concept."""


def usable(
    model: MLLM,
    pairs: Sequence[Pair],
    progress: Progress,
    cache: Cache = NO_CACHE,
    *,
    needed: bool = True,
) -> Usable:
    """Return the pairs whose counterfactual the model's caption no longer names the concept in.

    Raises:
        ValueError: There is none, and one is `needed`.
    """

    def ask() -> dict[str, Any]:
        originals = [pair.sample.asked(model.prompt) for pair in pairs]
        captions = model.ask(originals, progress=progress, what="captions")
        painted = model.ask([pair.asked(model.prompt) for pair in pairs], progress=progress, what="captions")
        return {"captions": rows(captions), "painted": rows(painted)}

    content = cache.json("generations", "captions of the pairs", lambda: {"pairs": of_pairs(pairs)}, ask)
    captions, painted = captions_of(content["captions"]), captions_of(content["painted"])
    still = [pair.concept.mentioned_in(caption.text) for pair, caption in zip(pairs, painted, strict=True)]
    kept = [number for number, names in enumerate(still) if not names]
    if needed and not kept:
        raise ValueError(
            f"the model names `{pairs[0].concept.name}` in all {len(pairs)} counterfactuals: they do not take it away"
        )
    return Usable([pairs[number] for number in kept], [captions[number] for number in kept], sum(still))
