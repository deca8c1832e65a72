"""Find the neurons in which a multimodal language model keeps a concept, edit them, and prove what the edit did."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kedit.samples import Concept, Counterfactual, Question, Sample

__version__ = "0.1.0"

__all__ = ["Concept", "Counterfactual", "Question", "Sample", "__version__"]

# Public names are fetched on first use: whoever imports one module, or asks the command for help, does not wait
# for torch.
_HOMES = {
    "Concept": "kedit.samples",
    "Counterfactual": "kedit.samples",
    "Question": "kedit.samples",
    "Sample": "kedit.samples",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `kedit` has no attribute `{name}`; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
