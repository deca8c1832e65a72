"""Every family of models that read pictures: what kedit does with one holds for all, whatever its processor is like."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from PIL import Image

from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.locate.locator import Case
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.mllm import IMAGE, MODALITIES, PADDING, TEXT, Generated
from kedit.models.tiny.families import FAMILIES, tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Prompt
from kedit.samples import Concept, Question, Sample

OUTSIDE = {"mllama"}
"""Families whose layers look at the picture from outside the sequence."""
PICTURES = sorted(
    family for family, where in FAMILIES.items() if where.partition(":")[0].rpartition(".")[2] not in ("language", "qwen")
)


@cache
def built(family: str) -> HuggingFaceMLLM:
    return tiny(family)
