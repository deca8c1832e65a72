"""The rule for feed-forward blocks covers the models of transformers: every class of its main auto mappings."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto

from kedit.internals.block_stacks import find_block_stacks, language_among
from kedit.internals.blocks import feed_forwards, is_closed, is_fused
from kedit.internals.sites import SiteError

MAPPINGS = ("CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM")


def classes() -> dict[str, str]:
    """Return the model type of each class in the mappings, by the name of the class."""
    found: dict[str, str] = {}
    for name in MAPPINGS:
        for model_type, names in getattr(modeling_auto, f"MODEL_FOR_{name}_MAPPING_NAMES").items():
            for one in names if isinstance(names, tuple | list) else [names]:
                found.setdefault(one, model_type)
    return found


def built() -> Iterator[tuple[str, Any]]:
    """Yield each class's model of default sizes, without memory for its weights; None where the defaults do not fit."""
    for name, model_type in classes().items():
        try:
            with torch.device("meta"):
                yield name, getattr(transformers, name)(CONFIG_MAPPING[model_type]())
        except Exception:  # whatever a default configuration may run into
            yield name, None


def coverage(module: nn.Module) -> str:
    """Return how much of the language model has its neurons found, and in which other parts there are any."""
    try:
        scopes = feed_forwards(module)
    except SiteError:
        return "none"
    found = [block.output for block in scopes.get("language", [])]
    stacks = find_block_stacks(module)
    blocks = [f"{path}.{n}." for path in language_among(module, list(stacks)) for n in range(len(stacks[path]))
              if any(output.startswith(f"{path}.") for output in found)]  # fmt: skip
    missed = [block for block in blocks if not any(output.startswith(block) for output in found)]
    closed = any(is_fused(one) and is_closed(one) for one in module.modules())
    reached = "none" if not found else "some" if missed or closed else "whole"
    return " + ".join([reached, *(scope for scope in scopes if scope != "language")])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
def test_the_language_model_of_nearly_every_class_of_transformers_has_its_neurons_found(capsys: Any) -> None:
    transformers.logging.set_verbosity_error()
    found: dict[str, str] = {}
    n_classes = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, module in built():
            n_classes += 1
            if module is not None:
                found[name] = coverage(module)
    counts = Counter(one.partition(" + ")[0] for one in found.values())
    others = Counter(scope for one in found.values() for scope in one.split(" + ")[1:])
    with capsys.disabled():
        told = [f"{n_classes} classes, {len(found)} built: {dict(counts)}; other parts found: {dict(others)}"]
        for kind in ("some", "none"):
            told.append(f"{kind}: {' '.join(name for name, one in found.items() if one.split(' + ')[0] == kind)}")
        sys.stdout.write("\n" + "\n".join(told) + "\n")
    assert counts["whole"] >= 300 and counts["none"] <= 12
    assert others["vision"] >= 75 and others["projector"] >= 55 and others["qformer"] >= 5 and others["audio"] >= 18
