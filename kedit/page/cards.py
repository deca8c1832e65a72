"""The section of the located neurons: a card for each."""

from collections.abc import Iterator, Mapping
from typing import Any

from kedit.neurons import NeuronId
from kedit.page.folder import Folder
from kedit.page.parts import Cards, NeuronCard, Note, Score, Section

MOST_CARDS = 300
"""Cards on a page; a list of more is for a program, and in neurons.csv."""
INSPECT = "`kedit inspect` measures what zeroing each neuron alone does, and which other concepts it serves."
DIRECTIONS = (
    "A neuron raises and lowers words: those whose logits its value vector changes most when it fires, read through "
    "the model's final norm."
)
AGAIN = "The run left no pictures for its cards (`page=false`, or an older kedit)."


def neurons(folder: Folder) -> Section | None:
    """Return a card for each located neuron: its scores, words, pictures, and what an inspection saw of it."""
    every = folder.neurons
    if not every:
        return None
    kept, named = folder.json("page.json"), {_id(row): row for row in folder.table("neurons.csv") if _id(row)}
    seen = {_id(row): row for row in folder.json("inspect.json").get("rows") or ()}
    drawn = {_id(row): row for row in kept.get("cards") or ()}
    cards = [
        _card(folder, place, one, named.get(one) or {}, drawn.get(one) or {}, seen.get(one) or {})
        for place, one in enumerate(every[:MOST_CARDS], 1)
    ]
    notes = [INSPECT] * (not seen)
    if any(card.words for card in cards):
        notes.append(DIRECTIONS)
    if not any(card.pictures for card in cards):
        notes.append(f"No pictures: {kept['why']}." if kept.get("why") else AGAIN)
    elif bare := len(every) - len(drawn):
        notes.append(f"Pictures are shown of the best {len(drawn)} neurons; {bare} more have none.")
    if len(every) > MOST_CARDS:
        notes.append(f"The best {MOST_CARDS} of {len(every)} neurons; neurons.csv has all of them.")
    return Section("neurons", "Neurons", [*map(Note, notes), Cards(cards, list(folder.scores), total=len(every))])


def _card(
    folder: Folder,
    place: int,
    one: NeuronId,
    named: Mapping[str, Any],
    drawn: Mapping[str, Any],
    seen: Mapping[str, Any],
) -> NeuronCard:
    words = seen.get("words") or drawn.get("words") or str(named.get("words", "")).split()
    return NeuronCard(
        place,
        str(named["neuron"]) if "index" in named else f"{one.layer}.{one.index}",
        *one,
        [_score(folder, stage, one) for stage in folder.scores],
        list(map(_word, words)),
        list(map(_word, seen.get("opposite") or drawn.get("opposite") or ())),
        str(seen.get("fires") or drawn.get("fires") or ""),
        drawn.get("pictures") or (),
        list(_facts(seen)),
    )


def _word(token: object) -> str:
    """Return a token without the space around it; one that is nothing but space is quoted."""
    return str(token).strip() or repr(str(token))


def _score(folder: Folder, stage: str, one: NeuronId) -> Score:
    scores = folder.scores[stage]
    value = float(scores.of([one])[0])
    if value != value:
        return Score(stage, None)
    return Score(stage, value, folder.place(stage, value), scores.values.numel() - scores.n_missing)


def _facts(seen: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told = {
        "peak": ("strongest activation, mean over pictures", "{:.2f}"),
        "fires_at": ("fires most at", "{} tokens"),
        "peak_inside": ("peaks inside the concept", "{:.0%} of the pictures"),
        "auroc": ("tells pictures with the concept apart", "AUROC {:.2f}"),
        "stability": ("found again on half of the samples", "{:.0%} of the draws"),
        "alone": ("zeroed alone, the concept's word loses", "{:.2f} nats"),
    }
    for key, (what, form) in told.items():
        if seen.get(key) is not None:
            yield what, form.format(seen[key])
    if seen.get("serves") is not None:
        yield "also located for", ", ".join(map(str, seen["serves"])) or "none of the other concepts compared"


def _id(row: Mapping[str, Any]) -> NeuronId | None:
    """Return which neuron a row is of; None for a row of anything else."""
    try:
        return NeuronId(int(row["layer"]), int(row["index"] if "index" in row else row["neuron"]))
    except (KeyError, TypeError, ValueError):
        return None
