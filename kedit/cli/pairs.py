"""Counterfactual pairs as the configuration asks for them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build
from kedit.data.found import FoundRegions
from kedit.data.inpaint import Inpainter
from kedit.data.pairs import Heavy, Pairs, counterfactuals
from kedit.data.pope import Pope
from kedit.locate.shards import ALL, Shard
from kedit.pipelines.preparation import Counts, Prepared, prepare
from kedit.progress import show_progress
from kedit.samples import AnySample, Concept, Data


def inpainter(cfg: DictConfig) -> Inpainter:
    """Return the inpainter that was chosen, behind the segmenter if there is one."""
    inpaint: Inpainter = build(cfg.inpaint)
    segment = OmegaConf.select(cfg, "segment")
    return inpaint if segment is None else FoundRegions(inpaint, build(segment))


def paired(inpaint: Inpainter, samples: Sequence[AnySample], concept: Concept, *, needed: bool = True) -> Pairs:
    """Return the pairs of `samples`, with a progress bar; models that it takes are gone afterwards."""
    with quiet(inpaint):
        return counterfactuals(inpaint, samples, concept, progress=show_progress, needed=needed)


def prepared(
    data: Data,
    concept: str,
    inpaint: Inpainter,
    counts: Mapping[Any, Any],
    seed: int,
    shard: Shard = ALL,
    pope: Pope | None = None,
) -> Prepared:
    """Return the pictures and questions of a concept, as many as the configuration says."""
    with quiet(inpaint):
        return prepare(
            data, str(concept), inpaint, counts_of(counts), seed=seed, shard=shard, pope=pope, progress=show_progress
        )


def counts_of(counts: Mapping[Any, Any]) -> Counts:
    """Return how many pictures a configuration asks for."""
    names = [field.name for field in fields(Counts)]
    return Counts(**{str(name): number for name, number in counts.items() if name in names})


def quiet(inpaint: Inpainter) -> AbstractContextManager[None]:
    """Return a context without the bars that an inpainter's models show while they load."""
    from kedit.models.loading import without_bars

    return without_bars() if isinstance(inpaint, Heavy) else nullcontext()
