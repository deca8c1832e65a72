"""What is to be compared, read from the configuration and checked before a model is loaded."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from kedit.cli.configuration import build, misuse
from kedit.cli.errors import ConfigurationError
from kedit.locate.shipped import file_of

if TYPE_CHECKING:
    from kedit.pipelines.comparison.choices import Choices, Method

LISTS = ("concept", "methods", "budget")


def chosen(cfg: DictConfig) -> "Choices":
    """Read and check the configuration; a ConfigurationError names the key that is wrong."""
    from kedit.pipelines.comparison.choices import Choices
    from kedit.pipelines.preparation import Counts

    with misuse():
        names = ("locate", "target", "retention", "strict", "text")
        pictures = {key: number for key, number in cfg.evaluate.items() if key in names}
        counts = Counts(**pictures, controls=cfg.random_seeds)
        for key in ("overrides", "samples"):
            for name in cfg[key] or {}:
                file_of(str(name), key)
        methods = [_method(str(name), cfg) for name in several(cfg.methods, "methods")]
        budgets = [int(one) if str(one).isdigit() else one for one in several(cfg.budget, "budget")]
        return Choices(methods, budgets, cfg.reference, cfg.site, cfg.positions, counts, cfg.seed)


def several(value: Any, key: str) -> list[Any]:
    """Return what a list, a text with commas or a single value holds, without repeats."""
    if isinstance(value, ListConfig | list | tuple):
        parts = list(value)
    elif isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
    else:
        parts = [] if value is None else [value]
    if not parts:
        raise ConfigurationError(f"`{key}` is empty; name at least one, as `{key}=...` or `{key}=[...,...]`")
    return list(dict.fromkeys(parts))


def understood(arguments: list[str]) -> list[str]:
    """Return a command line as Hydra has to read it.

    `concept=star,house` becomes a list, where Hydra would ask for a sweep; an option of a method that the file
    does not mention, as in `samples.gradcam=8`, is added.
    """
    sweep = bool({"-m", "--multirun"} & set(arguments))
    added = [f"++{argument}" if argument.startswith(("overrides.", "samples.")) else argument for argument in arguments]
    return added if sweep else [_listed(argument) for argument in added]


def _listed(argument: str) -> str:
    key, _, value = argument.partition("=")
    plain = "," in value and not set(value) & set("[](){}'\"")
    return f"{key}=[{value}]" if plain and key in LISTS else argument


def _method(name: str, cfg: DictConfig) -> "Method":
    from kedit.pipelines.comparison.choices import Method

    node = OmegaConf.load(file_of(name, "methods"))
    changes = OmegaConf.select(cfg.overrides, name) if cfg.overrides else None
    if changes:
        OmegaConf.set_struct(node, True)
        try:
            node = OmegaConf.merge(node, changes)
        except Exception as error:
            raise ConfigurationError(f"`overrides.{name}`: {str(error).splitlines()[0]}") from error
    return Method(name, build(node), (cfg.samples or {}).get(name), ", ".join(_flat(changes)) if changes else "")


def _flat(node: Any) -> Iterator[str]:
    """Yield the changed options as `key=value`, the last part of the path only."""
    for key, value in node.items():
        if isinstance(value, DictConfig) and "_target_" in value:
            yield f"{key}={str(value['_target_']).rpartition('.')[2]}"
        elif isinstance(value, DictConfig):
            yield from _flat(value)
        else:
            yield f"{key}={value}"
