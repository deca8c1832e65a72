"""Which neurons: identifiers, sets of them, and a score for each."""

import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import torch
from torch import Tensor

from kedit import notebook

SiteName = Literal["mid", "act", "pre"]
"""Which tensor of a feed-forward block holds the neurons; see `kedit.internals.sites`."""

Scope = Literal["language", "vision", "projector", "qformer", "audio", "all"]
"""Which part of a model; `all` counts the layers of the language model first. See `kedit.internals.block_stacks`."""

TIES = " (ties)"
"""What the name of a stage is followed by where a file holds its tie-breaking scores."""


MOST_SHOWN = 10
"""How many neurons of a layer, or of a ranking, a notebook shows."""


class NeuronId(NamedTuple):
    """One hidden unit of one feed-forward block."""

    layer: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of an identifier


@dataclass(frozen=True)
class NeuronSet:
    """A set of neurons at one site of one part of a model. Immutable, ordered by layer and index, without repeats."""

    ids: tuple[NeuronId, ...] = ()
    site: SiteName = "mid"
    scope: Scope = "language"
    """The part of the model whose layers are counted."""

    def __post_init__(self) -> None:
        given: object = self.ids
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"`ids` are pairs of layer and index, such as [(0, 3)], got {given!r}")
        unique = sorted({one if type(one) is NeuronId else _neuron(one) for one in self.ids})
        if self.site not in get_args(SiteName):
            raise ValueError(f"no site `{self.site}`; a site is one of {', '.join(get_args(SiteName))}")
        if self.scope not in get_args(Scope):
            raise ValueError(f"no scope `{self.scope}`; a scope is one of {', '.join(get_args(Scope))}")
        if negative := [one for one in unique if min(one) < 0]:
            raise ValueError(f"layers and indices count from 0, got {negative[0]}")
        object.__setattr__(self, "ids", tuple(unique))

    @classmethod
    def of(cls, given: Any) -> "NeuronSet":
        """Return a set as it is; pairs of layer and index, or indices by layer, as a set of the language model's `mid`.

        Raises:
            TypeError: It is none of these.
        """
        if isinstance(given, NeuronSet):
            return given
        if isinstance(given, Mapping):
            rows = {layer: [some] if isinstance(some, int) else some for layer, some in given.items()}
            given = [(layer, index) for layer, some in rows.items() for index in some]
        return cls(given)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[NeuronId]:
        return iter(self.ids)

    def __contains__(self, one: object) -> bool:
        return one in self._members

    def __or__(self, other: Self) -> "NeuronSet":
        return self._combined(other, self._members | other._members)

    def __and__(self, other: Self) -> "NeuronSet":
        return self._combined(other, self._members & other._members)

    def __sub__(self, other: Self) -> "NeuronSet":
        return self._combined(other, self._members - other._members)

    def __le__(self, other: Self) -> bool:
        return len(self - other) == 0

    def __repr__(self) -> str:
        layers = ", ".join(f"{layer}: {len(indices)}" for layer, indices in self.by_layer().items())
        return f"NeuronSet({len(self)} neurons at {_place(self.site, self.scope)}, by layer {{{layers}}})"

    def _repr_html_(self) -> str:
        rows = [(str(layer), str(len(some)), _listed(some)) for layer, some in self.by_layer().items()]
        title = f"{len(self)} neurons at {_place(self.site, self.scope)}"
        return notebook.table(("layer", "neurons", "indices"), rows, title)

    @cached_property
    def _members(self) -> frozenset[NeuronId]:
        return frozenset(self.ids)

    def _combined(self, other: "NeuronSet", members: Iterable[NeuronId]) -> "NeuronSet":
        if self.site != other.site:
            raise ValueError(f"neurons at `{self.site}` and at `{other.site}` cannot be combined")
        if self.scope != other.scope:
            raise ValueError(
                f"neurons of scope `{self.scope}` and of `{other.scope}` cannot be combined: "
                "their layers are counted apart"
            )
        return NeuronSet(tuple(members), self.site, self.scope)

    def by_layer(self) -> dict[int, tuple[int, ...]]:
        """Return the indices of each layer that has any, in ascending order."""
        layers: dict[int, list[int]] = {}
        for layer, index in self.ids:
            layers.setdefault(layer, []).append(index)
        return {layer: tuple(indices) for layer, indices in layers.items()}

    def jaccard(self, other: "NeuronSet") -> float:
        """Return the overlap |a & b| / |a | b|; two empty sets overlap fully."""
        union = len(self | other)
        return len(self & other) / union if union else 1.0

    def layer_matched(self, widths: Mapping[int, int], seed: int) -> "NeuronSet":
        """Return a random set with as many neurons in each layer, none of them from this set.

        Args:
            widths: The number of neurons of each layer.
            seed: Equal seeds give equal sets.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn: list[NeuronId] = []
        for layer, indices in self.by_layer().items():
            if layer not in widths:
                raise ValueError(f"the set has neurons in layer {layer}, and widths are known of {sorted(widths)}")
            others = sorted(set(range(widths[layer])) - set(indices))
            if len(others) < len(indices):
                raise ValueError(
                    f"layer {layer} has {widths[layer]} neurons: too few for {len(indices)} "
                    f"random ones beside the {len(indices)} of the set"
                )
            order = torch.randperm(len(others), generator=generator).tolist()
            drawn += [NeuronId(layer, others[i]) for i in order[: len(indices)]]
        return NeuronSet(tuple(drawn), self.site, self.scope)

    def to_json(self) -> dict[str, object]:
        """Return the set as plain data."""
        return {"site": self.site, "scope": self.scope, "neurons": [list(one) for one in self.ids]}

    def save(self, path: str | Path) -> None:
        """Write the set as JSON."""
        Path(path).write_text(json.dumps(self.to_json()) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "NeuronSet":
        """Read a set that `save` wrote; a ValueError says what is wrong with another file.

        A file without a scope is of the language model.
        """
        try:
            data = json.loads(Path(path).read_text())
            ids = tuple(NeuronId(_whole(layer), _whole(index)) for layer, index in data["neurons"])
            return cls(ids, data["site"], data.get("scope", "language"))
        except KeyError as error:
            raise ValueError(f"`{path}` is not a neuron set: it has no {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{path}` is not a neuron set: {error}") from error


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """One number for each neuron and how it was made."""

    values: Tensor
    """`[layer, neuron]`, 32-bit floats; 64-bit ones are kept, for shards that are yet to be merged."""
    method: str
    """The scorer, as its `repr`."""
    site: SiteName = "mid"
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What else decided the scores: model, samples, target, costs."""
    ties: Tensor | None = None
    """`[layer, neuron]`: of neurons with equal values, the one with the higher entry here is ranked first."""
    scope: Scope = "language"
    """The part of the model whose layers are counted."""

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ValueError(f"scores are [layer, neuron], got shape {tuple(self.values.shape)}")
        precise = self.values.dtype == torch.float64
        object.__setattr__(self, "values", (self.values if precise else self.values.float()).detach().cpu())
        if self.ties is not None:
            if self.ties.shape != self.values.shape:
                raise ValueError(f"ties are {tuple(self.ties.shape)}, the scores {tuple(self.values.shape)}")
            object.__setattr__(self, "ties", self.ties.detach().float().cpu())

    def _repr_html_(self) -> str:
        best, (n_layers, n_neurons) = self.ranking()[:MOST_SHOWN], self.values.shape
        values = zip(best, self.of(best).tolist(), strict=True)
        rows = [(str(one.layer), str(one.index), f"{value:.3g}") for one, value in values]
        title = f"{n_layers} layers x {n_neurons} neurons at {_place(self.site, self.scope)} by {self.method}"
        notes = [f"the best {len(best)} of {self.values.numel() - self.n_missing:,} scores"]
        return notebook.table(("layer", "neuron", "score"), rows, title, notes)

    @property
    def n_missing(self) -> int:
        """How many scores are NaN: of neurons that the layer does not have or that were left out, and failures.

        No selector ever keeps those.
        """
        return int(self.values.isnan().sum())

    def ranking(self, among: NeuronSet | None = None) -> list[NeuronId]:
        """Return the neurons from high to low score; ties go by `ties`, layer, index; NaN is left out."""
        n_neurons = self.values.shape[1]
        # Without NaN, which sorts as the highest, and as tensors: a 7B model has 350,000 neurons to rank.
        order = (~self.values.isnan()).flatten().nonzero().squeeze(1)
        for key in (self.ties, self.values):
            if key is not None:
                order = order[torch.sort(key.flatten()[order], descending=True, stable=True).indices]
        ranked = list(map(NeuronId, (order // n_neurons).tolist(), (order % n_neurons).tolist()))
        return ranked if among is None else [one for one in ranked if one in among]

    def of(self, ids: Iterable[NeuronId]) -> Tensor:
        """Return the scores of `ids`: `[len(ids)]`."""
        wanted = list(ids)
        if not wanted:
            return torch.empty(0)
        layers, indices = zip(*wanted, strict=True)
        return self.values[list(layers), list(indices)]

    def chosen(self, ids: Iterable[NeuronId]) -> NeuronSet:
        """Return `ids` as a set at the site and in the scope of the scores."""
        return NeuronSet(tuple(ids), self.site, self.scope)

    def save(self, path: str | Path) -> None:
        """Write the scores as a safetensors file with its metadata."""
        save_scores({"scores": self}, path)


def best_first(neurons: NeuronSet, scores: Mapping[str, NeuronScores]) -> list[NeuronId]:
    """Return neurons from the highest score of the last stage down; those without one come last, by layer and index."""
    ranked = list(scores.values())[-1].ranking(neurons) if scores else []
    return list(dict.fromkeys([*ranked, *neurons]))


def ids_to(ids: Iterable[str]) -> str:
    """Return the ids of samples as a provenance has them: any id may hold a comma."""
    return json.dumps(list(ids), ensure_ascii=False)


def ids_from(text: str) -> list[str]:
    """Return the ids that `ids_to` wrote, or kedit before 0.7, with commas between them."""
    return list(json.loads(text)) if text.startswith("[") else text.split(",")


def save_scores(stages: Mapping[str, NeuronScores], path: str | Path) -> None:
    """Write the scores of all stages into one safetensors file."""
    Path(path).write_bytes(scores_to(stages))


def load_scores(path: str | Path) -> dict[str, NeuronScores]:
    """Read what `save_scores` wrote, in the same order of stages; a ValueError says what is wrong with another file."""
    return scores_from(Path(path).read_bytes(), str(path))


def scores_to(stages: Mapping[str, NeuronScores]) -> bytes:
    """Return the scores of all stages as the content of a safetensors file."""
    from safetensors.torch import save

    described = {
        name: {"method": one.method, "site": one.site, "scope": one.scope, "provenance": dict(one.provenance)}
        for name, one in stages.items()
    }
    tensors = {name: one.values for name, one in stages.items()}
    tensors |= {name + TIES: one.ties for name, one in stages.items() if one.ties is not None}
    # Copies, since safetensors refuses two tensors that share memory.
    copies = {name: one.clone(memory_format=torch.contiguous_format) for name, one in tensors.items()}
    return save(copies, metadata={"kedit.scores": json.dumps(described)})


def scores_from(content: bytes, source: str = "the content") -> dict[str, NeuronScores]:
    """Return the scores that `scores_to` wrote; a ValueError says what is wrong with `source` otherwise."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"`{source}` is not a file of neuron scores: {error}") from error
    # A file begins with the length of its header, which is JSON; the library returns the tensors alone.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if "kedit.scores" not in metadata:
        raise ValueError(f"`{source}` holds no neuron scores: its metadata has {sorted(metadata) or 'nothing'}")
    described = json.loads(metadata["kedit.scores"])
    return {
        name: NeuronScores(tensors[name], **about, ties=tensors.get(name + TIES)) for name, about in described.items()
    }


def _place(site: str, scope: str) -> str:
    """Return where neurons are, for people; the language model is not named."""
    return f"`{site}`" if scope == "language" else f"`{site}` of `{scope}`"


def _listed(indices: Sequence[int]) -> str:
    """Return the first indices of a layer, and how many more there are."""
    more = f" and {len(indices) - MOST_SHOWN} more" if len(indices) > MOST_SHOWN else ""
    return ", ".join(map(str, indices[:MOST_SHOWN])) + more


def _neuron(given: Any) -> NeuronId:
    try:
        layer, index = given
        return NeuronId(operator.index(layer), operator.index(index))
    except (TypeError, ValueError) as error:
        raise TypeError(f"a neuron is a pair of layer and index, such as (0, 3), got {given!r:.80}") from error


def _whole(number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"a layer or index is a whole number, got {number!r}")
    return number
