"""What the jobs of a sweep share while they run in one process: the model, the data, the pairs."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import Any, TypeVar

from omegaconf import DictConfig

from kedit.cli.configuration import build, misuse, plain, refuse_missing
from kedit.fingerprints import stamps_of_files
from kedit.progress import duration

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

    `settings` is plain data, and the files that it names count. One value is kept for each name, and let go before the
    next is made.
    """
    told = json.dumps([settings, stamps_of_files(settings)], default=str)
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
    """A model and, for those who ask, what it was when they first did."""

    model: Any

    @cached_property
    def weights(self) -> str | None:
        """The digest of its weights; None if they cannot be read."""
        from kedit.models.identity import UnhashableWeightsError, weights_digest

        try:
            return weights_digest(self.model.module)
        except UnhashableWeightsError as error:
            logger.warning("%s: nothing is kept for other jobs, and nothing proves that the weights stay", error)
            return None

    @cached_property
    def identity(self) -> str | None:
        """The digest of all that decides what it says; None if its weights cannot be read."""
        from kedit.models.identity import identity

        return None if self.weights is None else identity(self.model, self.weights)

    @cached_property
    def encoder(self) -> Any:
        """Its own layers as a text encoder, which remembers the texts of earlier jobs."""
        from kedit.models.encoder import OwnLayers

        return OwnLayers(self.model)

    def encoder_for(self, medium: str) -> Any:
        """Return that for descriptions of pictures; None for texts, whose answers are right or wrong."""
        return self.encoder if medium == "image" else None

    def is_unchanged(self) -> bool:
        """Return whether its weights are what they were; yes where nothing can tell."""
        from kedit.models.identity import weights_digest

        return self.weights is None or weights_digest(self.model.module) == self.weights


def check_at_hand(node: DictConfig) -> None:
    """Refuse a model that its settings alone show not to be at hand, before slower work than reading them."""
    refuse_missing(node)
    if node.get("_target_") != "kedit.models.loading.load":
        return
    from kedit.models.loading import check_at_hand as check

    with misuse():
        check(**{name: one for name, one in plain(node).items() if name in signature(check).parameters})


def loaded(node: DictConfig) -> Any:
    """Build a model, once for all jobs of a sweep that share it."""
    return _loaded(node).model


def _loaded(node: DictConfig) -> Loaded:
    def load() -> Loaded:
        began = time.monotonic()
        model = Loaded(build(node))
        logger.info("loaded %s: %s", model.model.name, duration(time.monotonic() - began))
        return model

    return shared("model", plain(node), load)


@contextmanager
def unchanged(node: DictConfig) -> Iterator[Loaded]:
    """Yield the model of `node`, and make sure that its weights are afterwards what they were at the first job.

    A model whose weights are not is let go, also after a job that failed, so that no other job gets it.

    Raises:
        ChangedWeightsError: They are not.
    """
    found = _loaded(node)
    _ = found.weights  # taken before the job
    try:
        yield found
    except BaseException:
        if not found.is_unchanged():
            forget("model")
        raise
    if not found.is_unchanged():
        forget("model")
        raise ChangedWeightsError(
            f"the weights of `{found.model.name}` are not what they were before the job: something wrote to them, "
            "so its results are not to be trusted; the next job loads the model again"
        )
