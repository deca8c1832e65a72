"""What a notebook hands to a pipeline, as the pipeline takes it: names become what they name, all else is told."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from torch import nn

from kedit.arguments import require, require_count, shown
from kedit.data.inpaint import BlurFill, Exact, Inpainter, MeanFill
from kedit.data.pope import Pope
from kedit.data.prompts import Prompts
from kedit.edit.operators import Operator, Zero, check_operator
from kedit.edit.plan import EditPlan, Plan
from kedit.locate.shipped import OF_TEXTS, shipped
from kedit.locate.two_stage import two_stage
from kedit.samples import Concept, Data, find_concept

INPAINTERS: Mapping[str, Callable[[], Inpainter]] = {"exact": Exact, "mean": MeanFill, "blur": BlurFill}
"""The ways to paint a region out that need no file, by their names in `conf/inpaint`."""


def require_model(model: object) -> None:
    """Raise a TypeError unless `model` can be asked and read, as what `load` and `wrap` return."""
    if callable(getattr(model, "caption", None)) and hasattr(model, "module"):
        return
    hint = "`kedit.wrap(module, processor)` makes one of it" if isinstance(model, nn.Module) else (
        "`kedit.load` takes a name or a folder" if isinstance(model, str) else "as `kedit.load` and `kedit.wrap` return"
    )  # fmt: skip
    raise TypeError(f"`model` is a model with its processor: {hint}; got {shown(model)}")


def require_data(data: object) -> None:
    """Raise a TypeError unless `data` is a data set."""
    if isinstance(data, type):
        raise TypeError(f"`data` is the class {data.__name__}, and no data set yet: write `{data.__name__}(...)`")
    if callable(getattr(data, "split", None)) and hasattr(data, "concepts") and not isinstance(data, str):
        return
    raise TypeError(f"`data` is a data set, such as `kedit.Scenes()` or `kedit.Folder(path)()`, got {shown(data)}")


def name_of_concept(data: Data, concept: str | Concept) -> str:
    """Return what a concept of `data` is called, given that or itself; a LookupError names the nearest."""
    return find_concept(data.concepts, concept).name


def names_of_concepts(data: Data, concepts: Any, name: str = "concepts") -> tuple[str, ...]:
    """Return what concepts of `data` are called, given one of them or several."""
    if isinstance(concepts, str | Concept):
        concepts = [concepts]
    require(concepts, (Sequence, Set), name, "a list of names of concepts, or one name")
    return tuple(name_of_concept(data, one) for one in concepts)


def as_locator(locate: Any, data: object = None) -> Any:
    """Return a locator, given the name of a shipped one, itself, or None for two-stage filtering.

    On `data` that are texts, that is at the position which predicts the answer: they have no image tokens.
    """
    if locate is None:
        return shipped(OF_TEXTS) if isinstance(data, Prompts) else two_stage()
    found = shipped(locate, "locate") if isinstance(locate, str) else locate
    if not callable(getattr(found, "score", None)) or not callable(getattr(found, "select", None)):
        raise TypeError(f"`locate` is a `Locator`, such as `kedit.two_stage()`, or its name; got {shown(locate)}")
    return found


def as_inpainter(inpaint: Any) -> Inpainter | None:
    """Return an inpainter, given its name, itself, or None for the data set's usual one."""
    if isinstance(inpaint, str):
        if inpaint not in INPAINTERS:
            raise LookupError(
                f"`inpaint` is one of {', '.join(INPAINTERS)} by name, or an object such as `kedit.MeanFill()`; got "
                f"{inpaint!r}"
            )
        return INPAINTERS[inpaint]()
    if inpaint is not None and (isinstance(inpaint, type) or not callable(inpaint)):
        raise TypeError(f"`inpaint` is an object such as `kedit.MeanFill()`, or its name; got {shown(inpaint)}")
    return inpaint


def as_plan(edit: Operator | EditPlan | None) -> EditPlan:
    """Return an operator as a plan that has it act at all positions; None zeroes."""
    if hasattr(edit, "operator_for") and not isinstance(edit, type):
        return edit  # type: ignore[return-value]
    operator = Zero() if edit is None else edit
    check_operator(operator)
    return Plan(operator)


def as_pope(pope: bool | Pope) -> Pope | None:
    """Return how POPE asks, given that, true for its usual way, or false for not at all."""
    require(pope, (bool, Pope), "pope", "true, false, or a `Pope`")
    return pope if isinstance(pope, Pope) else Pope() if pope else None


def check_common(data: object, seed: object, counts: object, kind: type) -> None:
    """Raise a TypeError or ValueError where what every pipeline takes beside a model is something else.

    `counts` are of the `kind` called so, or None.
    """
    require_data(data)
    require_count(seed, "seed", 0)
    if counts is not None:
        require(counts, kind, kind.__name__.lower(), f"a `kedit.{kind.__name__}`, such as `kedit.{kind.__name__}()`")
