"""What is compared: the methods, what is forced on all of them, and how many neurons each may name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args

from kedit.arguments import require
from kedit.locate.random import LayerMatched, Uniform
from kedit.locate.reduction import Evidence
from kedit.locate.shipped import shipped
from kedit.neurons import SiteName
from kedit.pipelines.locate import language_only, name_of
from kedit.pipelines.preparation import Counts

T = TypeVar("T")
OWN = "own"
Budget = int | str
"""A number of neurons, the method whose own selection sets it, or `own`: each method's own selection."""


@dataclass(frozen=True, eq=False)
class Method:
    """A way of locating, under the name that its row has."""

    name: str
    locator: Any
    samples: int | None = None
    """How many of the pairs it locates with, where it is too slow for all; None for all."""
    note: str = ""
    """How it differs from what its name promises."""
    seeds: tuple[int, ...] = (0,)
    """Of a random method: its row is the mean over them."""

    def __post_init__(self) -> None:
        require(self.name, str, "name", "what the row is called")
        if isinstance(self.locator, str):
            object.__setattr__(self, "locator", shipped(self.locator, "locator"))
        if self.samples is not None and not _is_count(self.samples):
            raise ValueError(f"`samples.{self.name}` is a number of pairs, 1 or more; got {self.samples}")

    @classmethod
    def of(cls, asked: Any) -> "Method":
        """Return a method from the name of a shipped one, a locator, or a method."""
        if isinstance(asked, str):
            return cls(asked, shipped(asked))
        return asked if isinstance(asked, Method) else cls(name_of(asked), asked)

    @property
    def drawn(self) -> bool:
        """Whether its neurons are random."""
        stages = getattr(self.locator, "stages", {}).values()
        return isinstance(self.locator, LayerMatched) or any(isinstance(stage.scorer, Uniform) for stage in stages)

    @property
    def locators(self) -> list[Any]:
        """The locator; of a random method, one for each seed."""
        return [with_fields(self.locator, {"seed": seed}) for seed in self.seeds] if self.drawn else [self.locator]

    @property
    def remark(self) -> str:
        """What the reader of its row has to know."""
        seeds = f"mean over {len(self.seeds)} seeds" if self.drawn else ""
        pairs = f"located with {self.samples} pairs" if self.samples else ""
        return "; ".join(filter(None, (self.note, seeds, pairs)))


@dataclass(frozen=True, eq=False)
class Choices:
    """What is asked for, checked before a model is loaded; a ValueError names what is wrong."""

    methods: Sequence[Any]
    """Each as `Method.of` takes it; afterwards methods, with what is forced on them."""
    budgets: Sequence[Budget]
    reference: str
    site: str = "mid"
    """Forced on every method; `own` leaves each its own."""
    positions: str = OWN
    """Likewise."""
    counts: Counts = field(default_factory=lambda: Counts(controls=20))
    """Random methods are drawn with `controls` seeds."""
    seed: int = 0

    def __post_init__(self) -> None:
        for key, known in (("site", get_args(SiteName)), ("positions", get_args(Evidence))):
            if getattr(self, key) not in (OWN, *known):
                raise ValueError(f"`{key}` is `{OWN}` or one of {', '.join(known)}; got {getattr(self, key)}")
        forced = {key: value for key in ("site", "positions") if (value := getattr(self, key)) != OWN}
        seeds = tuple(range(self.seed, self.seed + self.counts.controls))
        asked = [Method.of(method) for method in self.methods]
        methods = tuple(replace(one, locator=with_fields(one.locator, forced), seeds=seeds) for one in asked)
        object.__setattr__(self, "methods", methods)
        self._check()
        for method in methods:
            language_only(method.locator, "compare")

    def method(self, name: str, key: str = "reference") -> Method:
        """Return the method called `name`; a ValueError says that it is not compared."""
        for method in self.methods:
            if method.name == name:
                return method  # type: ignore[no-any-return]
        names = ", ".join(one.name for one in self.methods)
        raise ValueError(f"`{key}` is one of the methods that are compared ({names}); got {name}")

    def _check(self) -> None:
        names = [method.name for method in self.methods]
        if not names or not self.budgets:
            raise ValueError(f"`{'budget' if names else 'methods'}` is empty; name at least one")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two methods are called `{twice}`; name one otherwise, as Method('name', locator)")
        certain = [method.name for method in self.methods if not method.drawn]
        if self.reference not in certain:
            known = ", ".join(certain) or "none"
            way = f": set `reference={certain[0]}`" if certain else ""
            raise ValueError(
                f"`reference` is one of the methods that are compared ({known}); got {self.reference}{way}"
            )
        if len(certain) < len(names) and not self.counts.controls:
            raise ValueError("`controls` is how often a random method is drawn, 1 or more; got 0")
        for budget in self.budgets:
            if not (_is_count(budget) or budget in (OWN, *certain)):
                raise ValueError(
                    f"`budget` is a number of neurons, 1 or more, a list of them, `{OWN}`, or a compared method whose "
                    f"own selection sets it; got {budget}"
                )


def with_fields(value: T, changes: Mapping[str, Any]) -> T:
    """Return `value` with `changes` in every field of these names, its own and those of what it is made of."""
    if isinstance(value, Mapping):
        return {key: with_fields(part, changes) for key, part in value.items()}  # type: ignore[return-value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = [(one.name, getattr(value, one.name)) for one in fields(value) if one.init]
    return replace(value, **{name: changes.get(name, with_fields(part, changes)) for name, part in parts})


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
