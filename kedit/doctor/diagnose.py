"""All checks in their order, and the one way to run them."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from difflib import get_close_matches
from types import MappingProxyType

from torch import nn

from kedit.arguments import require, shown
from kedit.doctor.batches import padding
from kedit.doctor.blocks import recorded, sites
from kedit.doctor.chats import chat
from kedit.doctor.compiling import compiled
from kedit.doctor.edits import column, dtype, identity, zero
from kedit.doctor.finding import Diagnosis, Finding, NotApplicableError, first_line
from kedit.doctor.generation import beams, cache, decode, identity_text, last, prefill, static_cache, text
from kedit.doctor.gradients import gradients, weight_gradients
from kedit.doctor.lens import lens
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.doctor.pictures import media, positions
from kedit.doctor.residue import finite, restored
from kedit.edit.edit import EditWarning
from kedit.internals.sites import SiteError
from kedit.internals.wrappers import evaluating
from kedit.models.mllm import MLLM
from kedit.progress import as_progress
from kedit.samples import Progress

log = logging.getLogger(__name__)

Check = Callable[[ModelUnderTest], Finding]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "sites": sites,
        "finite": finite,
        "recorded": recorded,
        "identity": identity,
        "zero": zero,
        "column": column,
        "dtype": dtype,
        "padding": padding,
        "media": media,
        "positions": positions,
        "chat": chat,
        "identity_text": identity_text,
        "cache": cache,
        "static_cache": static_cache,
        "beams": beams,
        "prefill": prefill,
        "decode": decode,
        "text": text,
        "last": last,
        "lens": lens,
        "gradients": gradients,
        "weight_gradients": weight_gradients,
        "compiled": compiled,
        "restored": restored,
    }
)
"""What each name of a check does; they run in this order."""


def diagnose(model: MLLM, checks: Sequence[str] | str | None = None, *, progress: Progress | bool = True) -> Diagnosis:
    """Run the checks on `model` and return what each found; a check that fails is an ERROR, and the others still run.

    The model is afterwards what it was: `column` writes to three columns of weights, and restores them bit by bit.

    Args:
        model: A model with its processor, as `load` and `HuggingFaceMLLM` make it.
        checks: The names of the checks to run, or the only one; None for all.
        progress: Shows how far it is; True in the library's own way, False not at all.

    Raises:
        TypeError: `model` is a bare module, which cannot be asked anything.
        ValueError: There is no check of that name.
    """
    if isinstance(model, nn.Module):
        raise TypeError(
            f"a {type(model).__name__} alone cannot be given a prompt; wrap it: `HuggingFaceMLLM(module, processor)`"
        )
    if not callable(getattr(model, "read", None)) or not hasattr(model, "module"):
        raise TypeError(f"`model` is a model with its processor, as `load` and `wrap` return, got {shown(model)}")
    names, show = chosen(checks), as_progress(progress)
    under_test = ModelUnderTest(model)
    if "restored" in names:
        log.info("%d weights to come back to", len(under_test.before.weights))
    with evaluating(model.module):
        findings = {name: _found(name, under_test) for name in show(names, len(names), "checks")}
    return Diagnosis(model.name, findings)


def chosen(checks: Sequence[str] | str | None) -> list[str]:
    """Return the names of the checks to run, in their order; a ValueError names those nearest to an unknown one."""
    if checks is None:
        return list(CHECKS)
    require(checks, (Sequence, Set), "checks", "the name of a check, or a list of them")
    asked = [checks] if isinstance(checks, str) else checks
    for name in asked:
        if name not in CHECKS:
            near = get_close_matches(name, CHECKS, cutoff=0.4) or list(CHECKS)
            raise ValueError(f"no check `{name}`; nearest: {', '.join(near)}")
    return [name for name in CHECKS if name in asked]


def _found(name: str, under_test: ModelUnderTest) -> Finding:
    try:
        with warnings.catch_warnings():
            # That an edit acted on nothing is what several checks find out, and they say it.
            warnings.simplefilter("ignore", EditWarning)
            return CHECKS[name](under_test)
    except NotApplicableError as reason:
        return Finding("NOT_APPLICABLE", str(reason))
    except SiteError as error:
        return Finding("ERROR", first_line(error) if name == "sites" else "no sites to look at; see the check `sites`")
    except Exception as error:
        log.info("the check `%s` failed", name, exc_info=True)
        return Finding("ERROR", first_line(error))
