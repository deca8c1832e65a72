"""What the jobs of a sweep share while they run in one process: the model, the data, the pairs."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from omegaconf import DictConfig

from experiments.app import build, plain

T = TypeVar("T")
logger = logging.getLogger(__name__)


class ChangedWeightsError(RuntimeError):
    """A job left the model with other weights than it found."""


@dataclass(frozen=True)
class _Made:
    """A value and the settings that it was made from."""

    settings: str
    value: Any


_made: dict[str, _Made] = {}
"""The latest value under each name."""


def shared(name: str, settings: Any, make: Callable[[], T]) -> T:
    """Return what `make` returns for `settings`; what the job before made of the same settings is used again.

    `settings` is plain data. One value is kept for each name, and let go before the next is made.
    """
    told = json.dumps(settings, default=str)
    if (kept := _made.get(name)) is not None and kept.settings == told:
        return kept.value  # type: ignore[no-any-return]
    _made.pop(name, None)
    value = make()
    _made[name] = _Made(told, value)
    return value


def forget(*names: str) -> None:
    """Let go of the values under `names`, by default of all."""
    for name in names or tuple(_made):
        _made.pop(name, None)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model and what it was when it was loaded."""

    model: Any
    weights: str | None
    """The digest of its weights; None if they cannot be read."""
    identity: str | None
    """The digest of all that decides what it says."""

    @cached_property
    def encoder(self) -> Any:
        """Its own layers as a text encoder, which remembers the texts of earlier jobs."""
        from kedit.models.encoder import OwnLayers

        return OwnLayers(self.model)


def loaded(node: DictConfig) -> Any:
    """Build a model, once for all jobs of a sweep that share it."""
    return _loaded(node).model


def _loaded(node: DictConfig) -> Loaded:
    return shared("model", plain(node), lambda: _identified(build(node)))


def _identified(model: Any) -> Loaded:
    from kedit.models.identity import UnhashableWeightsError, identity, weights_digest

    try:
        weights = weights_digest(model.module)
        return Loaded(model, weights, identity(model, weights))
    except UnhashableWeightsError as error:
        logger.warning("%s: nothing is kept for other jobs, and nothing proves that the weights stay", error)
        return Loaded(model, None, None)


@contextmanager
def unchanged(node: DictConfig) -> Iterator[Loaded]:
    """Yield the model of `node`, and make sure that its weights are afterwards what they were when it was loaded.

    Raises:
        ChangedWeightsError: They are not; the model is let go, so that no other job gets it.
    """
    from kedit.models.identity import weights_digest

    found = _loaded(node)
    yield found
    if found.weights is not None and weights_digest(found.model.module) != found.weights:
        forget("model")
        raise ChangedWeightsError(
            f"the weights of `{found.model.name}` are not what they were before the job: something wrote to them, "
            "so its results are not to be trusted; the next job loads the model again"
        )
