"""Models that draw: which of them draws how."""

from torch import nn

from kedit.arguments import shown
from kedit.models.drawing_families import Emu3, Janus
from kedit.models.drawing_tokens import TokenDrawer
from kedit.models.drawings import Drawer
from kedit.models.gill.drawer import GILLDrawer
from kedit.models.gill.model import GILLModel
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import MLLM


def drawer(model: MLLM) -> Drawer:
    """Return what draws with `model`.

    Raises:
        TypeError: It is a bare module, or no model.
        ValueError: It draws no pictures.
    """
    if isinstance(model, GILLModel):
        return GILLDrawer(model)
    if not isinstance(getattr(model, "module", None), nn.Module):
        raise TypeError(f"`model` is a model with its processor, as `load` and `wrap` return, got {shown(model)}")
    if isinstance(model, HuggingFaceMLLM) and "image" in getattr(model.module, "output_modalities", ()):
        from transformers import Emu3ForConditionalGeneration, JanusForConditionalGeneration

        if isinstance(model.module, JanusForConditionalGeneration):
            return TokenDrawer(model, Janus(model))
        if isinstance(model.module, Emu3ForConditionalGeneration):
            return TokenDrawer(model, Emu3(model))
    raise ValueError(
        f"`{model.name}` ({type(model.module).__name__}) draws no pictures; models that do are Janus, Emu3 and GILL"
    )
