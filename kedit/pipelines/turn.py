"""Turning one drawn thing into another: how large a change of some neurons' columns does it, NAM's figure of merit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedit.arguments import require
from kedit.edit.turning import TAU, Turn, least_change
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.internals.hooks import record
from kedit.internals.unembedding import Unembedding
from kedit.locate.drawn import Depicted
from kedit.locate.effect import last_stream
from kedit.models.drawing import drawer
from kedit.models.mllm import MLLM
from kedit.neurons import NeuronSet
from kedit.notebook import Shown
from kedit.pipelines.artist import Artist
from kedit.results.table import Table
from kedit.samples import Concept, mentioned

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""How many times the least change is made."""
HALF = 0.5
"""The share of drawings that has to turn for a change to count as large enough."""


@dataclass(frozen=True)
class Step:
    """What one strength of a change does."""

    strength: float
    norm: float
    """The L2 norm of what is added to the columns."""
    turned: Measured
    """Of the drawings that showed the one thing, the share that shows the other instead."""
    gone: Measured
    """The share of them that no longer shows the one thing."""
    kept: Measured
    """The share of the other things asked for and drawn that is drawn still."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        shares = {name: getattr(self, name).to_json() for name in ("turned", "gone", "kept")}
        return {"strength": self.strength, "norm": self.norm, **shares}


@dataclass(frozen=True, repr=False)
class Turned(Shown):
    """What changes of growing strength do; prints itself as a table."""

    source: str
    target: str
    neurons: int
    steps: tuple[Step, ...]

    @property
    def least(self) -> float | None:
        """The least norm at which half of the drawings turn, by straight lines between strengths; None if none does."""
        before = (0.0, 0.0)
        for step in self.steps:
            share = step.turned.value or 0.0
            if share >= HALF:
                weight = (HALF - before[1]) / (share - before[1]) if share > before[1] else 1.0
                return before[0] + weight * (step.norm - before[0])
            before = (step.norm, share)
        return None

    def table(self) -> Table:
        """Return a row for each strength."""
        rows = [(f"{one.strength:g}", one.norm, one.turned, one.gone, one.kept, one.turned.n) for one in self.steps]
        enough = f"half of them turn at a norm of {self.least:.2f}" if self.least is not None else "never half of them"
        return Table(
            ("strength", "norm", f"shows {self.target} instead", f"{self.source} is gone", "others kept", "n"),
            tuple(rows), f"`{self.source}` to `{self.target}` by {self.neurons} neurons", (enough,),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "source": self.source, "target": self.target, "neurons": self.neurons, "least": self.least,
            "steps": [one.to_json() for one in self.steps],
        }  # fmt: skip

    def __str__(self) -> str:
        return str(self.table())


def swapped(prompts: Sequence[str], source: Concept, target: Concept) -> dict[str, str]:
    """Return prompts that name `source` once, in the singular, and not `target`, each with that in its place."""
    found = {}
    for prompt in prompts:
        spans = [one for one in source.pattern.finditer(prompt) if one["word"] is not None]
        if len(spans) == 1 and spans[0]["word"] == source.name and not target.mentioned_in(prompt):
            found[prompt] = prompt[: spans[0].start()] + target.name + prompt[spans[0].end() :]
    return found


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model held where it drew a region, the mean over the region's columns for each drawing."""

    last: Tensor
    """The last residual stream, before the final norm: `[n, d_model]`."""
    active: dict[int, Tensor]
    """The activations of each layer at `mid`: `[n, neuron]`."""

    def of(self, neurons: NeuronSet) -> Tensor:
        """Return the activations of some neurons, in the order of the set: `[n, neuron]`."""
        return torch.cat([self.active[layer][:, list(some)] for layer, some in neurons.by_layer().items()], dim=1)


def read_region(model: MLLM, shown: Depicted) -> Reading:
    """Return what the model held where it drew the region of each drawing; one forward each."""
    draws, site, unembedding = drawer(model), model.site("mid"), Unembedding.of(model.module)
    last, active = list[Tensor](), list[dict[int, Tensor]]()
    for place in range(len(shown.drawings)):
        forced = draws.teacher_forced(shown.drawings[place : place + 1])
        inside = forced.inside(shown.region[place : place + 1])[0].tolist()
        columns = [column for column, it in zip(forced.columns, inside, strict=True) if it]
        with torch.no_grad(), record(model.module, site) as seen, last_stream(model.module, unembedding) as streams:
            forced.states()
        width = forced.token_types.shape[1]
        last.append(streams[-1][0, columns].float().mean(0).cpu())
        active.append({layer: one.reshape(width, -1)[columns].float().mean(0).cpu() for layer, one in seen.items()})
    return Reading(torch.stack(last), {layer: torch.stack([one[layer] for one in active]) for layer in active[0]})


def turn_for(sources: Reading, targets: Reading, neurons: NeuronSet, *, tau: float = TAU) -> Turn:
    """Return the least change of neurons' columns that takes the last states of one drawn thing to those of another.

    Args:
        sources: Of drawings of the one thing.
        targets: Of drawings of the other.
        neurons: Whose columns are changed.
        tau: The ridge; see `kedit.edit.turning.least_change`.
    """
    wanted = targets.last.mean(0) - sources.last.mean(0)
    active = sources.of(neurons)
    return Turn(neurons, least_change(active, wanted.expand(len(active), -1), tau))


def turned(
    artist: Artist,
    turn: Turn,
    prompts: Sequence[str],
    source: Concept,
    target: Concept,
    vocabulary: Sequence[Concept],
    *,
    strengths: Sequence[float] = STRENGTHS,
) -> Turned:
    """Return what changes of growing strength do to the drawings of prompts.

    Args:
        artist: The model, and who looks at its drawings.
        turn: What is added to columns.
        prompts: What to draw; they ask for `source`.
        source: What is drawn.
        target: What is to be drawn instead.
        vocabulary: What else prompts may ask for.
        strengths: How many times the change is made, from weak to strong.

    Raises:
        ValueError: No unedited drawing shows `source`, or there is no strength.
    """
    require(strengths, Sequence, "strengths", "a list of numbers from weak to strong")
    if not strengths or list(strengths) != sorted(strengths) or min(strengths) <= 0:
        raise ValueError(f"`strengths` are numbers above 0, from weak to strong, got {list(strengths)}")
    others = [one for one in vocabulary if one.name not in (source.name, target.name)]
    before = _seen(artist, prompts, (source, target, *others))
    places = [place for place, names in enumerate(before) if source.name in names]
    if not places:
        raise ValueError(f"none of {len(prompts)} drawings that were asked for `{source.name}` shows it")
    wanted = [mentioned(others, prompts[place]) & before[place] for place in places]
    asked, steps = [prompts[place] for place in places], list[Step]()
    for strength in artist.progress(strengths, len(strengths), "strengths"):
        with turn.change(artist.model, strength).applied(artist.model):
            seen = _seen(artist, asked, (source, target, *others))
        steps.append(_step(strength, strength * turn.norm, seen, wanted, source.name, target.name))
    return Turned(source.name, target.name, len(turn.neurons), tuple(steps))


def _seen(artist: Artist, prompts: Sequence[str], concepts: Sequence[Concept]) -> list[frozenset[str]]:
    """Return what each drawing shows."""
    return [frozenset(artist.seer(one, concepts).regions) for one in artist.drawings(prompts).images]


def _step(
    strength: float, norm: float, seen: Sequence[frozenset[str]], wanted: Sequence[frozenset[str]], source: str,
    target: str,
) -> Step:  # fmt: skip
    kept = [len(names & asked) / len(asked) for names, asked in zip(seen, wanted, strict=True) if asked]
    return Step(
        strength,
        norm,
        bootstrap_mean([float(target in names and source not in names) for names in seen]),
        bootstrap_mean([float(source not in names) for names in seen]),
        bootstrap_mean(kept) if kept else Measured.missing("nothing else was asked for and drawn"),
    )
