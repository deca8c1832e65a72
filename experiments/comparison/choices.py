"""What is to be compared, read from the configuration and checked before a model is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.app import build
from experiments.complaints import ConfigurationError
from kedit.locate.reduction import Evidence
from kedit.neurons import SiteName
from kedit.paths import conf_dir

RANDOM = ("random", "random_layer_matched")
"""Methods that are drawn several times."""
OWN = "own"

Budget = int | str
"""A number of neurons, the method whose own selection sets it, or `own`: each method's own selection."""


@dataclass(frozen=True, eq=False)
class Method:
    """A locating method as the comparison uses it; a random one has a locator for each seed."""

    name: str
    locators: tuple[Any, ...]
    samples: int | None = None
    """How many of the pairs it locates with; None for all."""
    note: str = ""
    """How it differs from its file."""

    @property
    def drawn(self) -> bool:
        """Whether its neurons are random."""
        return self.name in RANDOM


@dataclass(frozen=True, eq=False)
class Choices:
    """What the user asked to compare."""

    concepts: tuple[str, ...]
    methods: tuple[Method, ...]
    budgets: tuple[Budget, ...]
    reference: str

    @classmethod
    def of(cls, cfg: DictConfig) -> "Choices":
        """Read and check the configuration; a ConfigurationError names the key that is wrong."""
        names = several(cfg.methods, "methods")
        if str(cfg.reference) not in names or cfg.reference in RANDOM:
            there = ", ".join(name for name in names if name not in RANDOM) or "none"
            raise ConfigurationError(
                f"`reference` is one of the methods that are compared ({there}); got {cfg.reference}"
            )
        for key, known in (("site", get_args(SiteName)), ("positions", get_args(Evidence))):
            if cfg[key] not in (OWN, *known):
                raise ConfigurationError(f"`{key}` is `{OWN}` or one of {', '.join(known)}; got {cfg[key]}")
        for key in ("overrides", "samples"):
            for name in cfg[key] or {}:
                _file_of(str(name), key)
        return cls(
            tuple(map(str, several(cfg.concept, "concept"))),
            tuple(_method(str(name), cfg) for name in names),
            tuple(_budget(value, names) for value in several(cfg.budget, "budget")),
            str(cfg.reference),
        )

    def method(self, name: str, key: str = "reference") -> Method:
        """Return the method called `name`; a ConfigurationError says that it is not compared."""
        found = [one for one in self.methods if one.name == name]
        if not found:
            there = ", ".join(one.name for one in self.methods)
            raise ConfigurationError(f"`{key}` is one of the methods that are compared ({there}); got {name}")
        return found[0]


def several(value: Any, key: str) -> list[Any]:
    """Return what a list, a text with commas or a single value holds, without repeats."""
    if isinstance(value, ListConfig | list | tuple):
        found = list(value)
    elif isinstance(value, str):
        found = [part.strip() for part in value.split(",") if part.strip()]
    else:
        found = [] if value is None else [value]
    if not found:
        raise ConfigurationError(f"`{key}` is empty; name at least one, as `{key}=...` or `{key}=[...,...]`")
    return list(dict.fromkeys(found))


def understood(words: list[str]) -> list[str]:
    """Return a command line as Hydra has to read it.

    `concept=star,house` becomes a list, where Hydra would ask for a sweep; an option of a method that the file
    does not mention, as in `samples.gradcam=8`, is added.
    """
    sweep = bool({"-m", "--multirun"} & set(words))
    return [_added(word) if sweep else _listed(_added(word)) for word in words]


def _added(word: str) -> str:
    return f"++{word}" if word.startswith(("overrides.", "samples.")) else word


def _listed(word: str) -> str:
    key, _, value = word.partition("=")
    plain = "," in value and not set(value) & set("[](){}'\"")
    return f"{key}=[{value}]" if plain and key in ("concept", "methods", "budget") else word


def _budget(value: Any, methods: list[str]) -> Budget:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    if isinstance(value, str) and value.isdigit() and int(value) >= 1:
        return int(value)
    if value == OWN or (value in methods and value not in RANDOM):
        return str(value)
    raise ConfigurationError(
        f"`budget` is a number of neurons, 1 or more, a list of them, `{OWN}`, or a compared method whose own "
        f"selection sets it; got {value}"
    )


def _method(name: str, cfg: DictConfig) -> Method:
    changes = OmegaConf.select(cfg.overrides, name) if cfg.overrides else None
    samples = (cfg.samples or {}).get(name)
    if samples is not None and (not isinstance(samples, int) or isinstance(samples, bool) or samples < 1):
        raise ConfigurationError(f"`samples.{name}` is a number of pairs, 1 or more; got {samples}")
    seeds = [cfg.seed + n for n in range(cfg.random_seeds)] if name in RANDOM else [None]
    locators = tuple(build(_node(name, changes, str(cfg.site), str(cfg.positions), seed)) for seed in seeds)
    return Method(name, locators, samples, ", ".join(_flat(changes)) if changes else "")


def _node(name: str, changes: Any, site: str, positions: str, seed: int | None) -> Any:
    """Return a method's configuration with what the comparison forces on it."""
    node = OmegaConf.load(_file_of(name, "methods"))
    if changes:
        OmegaConf.set_struct(node, True)
        try:
            node = OmegaConf.merge(node, changes)
        except Exception as error:
            raise ConfigurationError(f"`overrides.{name}`: {str(error).splitlines()[0]}") from error
        OmegaConf.set_struct(node, False)
    forced = {"site": site, "positions": positions}
    _force(node, {key: value for key, value in forced.items() if value != OWN})
    if seed is not None:
        _force(node, {"seed": seed})
    return node


def _force(node: Any, values: Mapping[str, Any]) -> None:
    """Set each key of `values` wherever the configuration has it."""
    if isinstance(node, DictConfig):
        for key in list(node):
            if key in values:
                node[key] = values[str(key)]
            else:
                _force(node[key], values)
    elif isinstance(node, ListConfig):
        for item in node:
            _force(item, values)


def _file_of(name: str, key: str) -> Any:
    known = {path.stem: path for path in sorted((conf_dir() / "locate").glob("*.yaml"))}
    if name not in known:
        near = get_close_matches(name, known) or list(known)
        raise ConfigurationError(f"`{key}`: no method `{name}`; nearest: {', '.join(near)}")
    return known[name]


def _flat(node: Any) -> Iterator[str]:
    """Yield the changed options as `key=value`, the last part of the path only."""
    for key, value in node.items():
        if isinstance(value, DictConfig) and "_target_" in value:
            yield f"{key}={str(value['_target_']).rpartition('.')[2]}"
        elif isinstance(value, DictConfig):
            yield from _flat(value)
        else:
            yield f"{key}={value}"
