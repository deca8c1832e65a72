"""Fillings kept on disk, by the content of what they were made from."""

import io
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit import __version__
from kedit.data.inpaint import Filling, Pixels, filled
from kedit.fingerprints import of_code, of_libraries
from kedit.samples import Mask
from kedit.store import Store, digest, store_at

CODE = (
    *("data/inpaint", "data/inpaint_cache", "data/inpaint_diffusers", "data/inpaint_opencv"),
    "data/inpaint_pipeline",
)
"""The parts of kedit that make a filling."""


def cached(cache: str | None, about: Callable[[], Mapping[str, Any]], filling: Filling) -> Filling:
    """Return `filling`, such that its result for a picture and a region is kept in the folder `cache`.

    Args:
        cache: The folder; None returns `filling` as it is. A leading `~` is the user's home.
        about: Returns what the result depends on besides picture and region: method, parameters, versions.
        filling: Paints a region of a picture.
    """
    store = None if cache is None else _store(cache)
    if store is None:
        return filling

    def kept(pixels: NDArray[np.uint8], region: Mask) -> Pixels:
        told = {**about(), "height": region.shape[0], "width": region.shape[1]}
        key = digest(told, pixels.tobytes(), np.packbits(region).tobytes())
        made = {"kind": "counterfactual", **told}
        content = store.cached(key, lambda: _png(filled(pixels, region, filling(pixels, region))), made)
        return np.array(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.float64)

    return kept


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of kedit and of `packages`, whose results may differ from one to the next, and its code."""
    return {"kedit": __version__, "code": of_code(*CODE)} | of_libraries(*packages)


@lru_cache
def _store(cache: str) -> Store | None:
    # One for all calls, so that what cannot be written is said once.
    return store_at(cache)


def _png(picture: Image.Image) -> bytes:
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()
