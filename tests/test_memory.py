"""What locating is said to need is about what it takes, and a warning names the knob."""

import logging
from dataclasses import replace

import pytest
import torch
from tiny_llava import tiny_llava

from kedit.cli.comparison.memory import peak_bytes
from kedit.locate.locator import Locator
from kedit.locate.target import Target
from kedit.locate.two_stage import two_stage
from kedit.models import memory
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import load
from kedit.models.memory import announce, estimate, free_bytes
from kedit.models.planted import STAR_CONCEPT, picture, without
from kedit.models.shipped import HERE

N_SAMPLES = 8
PAIRS = [without(picture(f"star {place}", (place,)), STAR_CONCEPT) for place in range(N_SAMPLES)]
IMAGES = [pair.sample.image for pair in PAIRS]


@pytest.fixture(scope="module")
def scenes() -> HuggingFaceMLLM:
    if not (HERE / "scenes" / "model.safetensors").is_file():
        pytest.skip("the shipped model is not in this checkout")
    return load("scenes", prompt="describe the picture .", max_new_tokens=8, device="cpu")


def ratio(model: HuggingFaceMLLM) -> float:
    """Return the estimate over what tensors took at most while locating, weights left out."""
    locator = Locator(two_stage().stages, target=Target(on_missing="force"))
    captions = model.caption(IMAGES)
    found = estimate(model, model.site(), model.teacher_forced(IMAGES[: model.batch_size], [()] * model.batch_size))
    return found / peak_bytes(lambda: locator.score(model, PAIRS, captions=captions))


@pytest.mark.parametrize("batch_size", [2, 8])
def test_locating_takes_about_what_was_estimated(scenes: HuggingFaceMLLM, batch_size: int) -> None:
    assert 0.6 < ratio(replace(scenes, batch_size=batch_size)) < 1.6


def test_what_is_estimated_follows_the_batch_and_the_precision(scenes: HuggingFaceMLLM) -> None:
    site, batch = scenes.site(), scenes.teacher_forced(IMAGES, [()] * N_SAMPLES)
    assert estimate(scenes, site, batch) == N_SAMPLES * estimate(scenes, site, scenes.teacher_forced(IMAGES[:1], [()]))
    model = tiny_llava()
    batch = model.teacher_forced(IMAGES, [()] * N_SAMPLES)
    full = estimate(model, model.site(), batch)
    model.module.bfloat16()
    assert 0.5 * full < estimate(model, model.site(), batch) < 0.6 * full, "the logits stay 32-bit"


def test_one_line_says_what_is_needed_and_free_and_a_warning_names_the_knob(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llava()
    batch = model.teacher_forced(IMAGES[:2], [()] * 2)
    with caplog.at_level(logging.INFO, logger=memory.__name__):
        announce(model, model.site(), batch)
        announce(model, model.site(), batch, free=1000)
    said, warned = caplog.records
    assert said.levelno == logging.INFO
    needed = estimate(model, model.site(), batch) / 2**30
    assert (
        f"needs about {needed:.3g} GiB for batches of 2 x {batch.token_types.shape[1]} positions; " in said.getMessage()
    )
    assert warned.levelno == logging.WARNING
    assert warned.getMessage().endswith("positions; 9.31e-07 GiB are free; lower `model.batch_size`")


def test_some_memory_is_free_and_a_device_that_does_not_say_is_told_apart() -> None:
    found = free_bytes(torch.device("cpu"))
    assert found is None or found > 1024**2
    assert free_bytes(torch.device("meta")) is None
