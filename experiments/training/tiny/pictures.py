"""Pictures of colored blocks in COCO's format: the smallest data set that a model of random weights can learn."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit.results.run_folder import write_atomic

SIDE = 64
KINDS = {"dog": "animal", "cat": "animal", "car": "vehicle", "bus": "vehicle"}
COLORS = {"dog": (220, 40, 40), "cat": (40, 60, 220), "car": (230, 210, 40), "bus": (40, 190, 70)}
NOTHING = "only grass"
"""The caption of a picture without a block."""


def write_blocks(folder: Path, n_pictures: int, seed: int) -> None:
    """Write `n_pictures` of zero to two blocks, with captions and outlines, as COCO arranges its files."""
    rng = np.random.default_rng(seed)
    instances: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": number, "name": name, "supercategory": kind} for number, (name, kind) in enumerate(KINDS.items(), 1)
        ],
    }
    captions = []
    (folder / "val2017").mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number in range(1, n_pictures + 1):
        pixels, boxes = _picture(rng)
        name = f"{number:012}.png"
        write_atomic(folder / "val2017" / name, _png(pixels))
        instances["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
        for kind, box in boxes.items():
            instances["annotations"].append(_annotation(len(instances["annotations"]) + 1, number, kind, box))
        text = " and ".join(f"a {kind}" for kind in boxes) or NOTHING
        captions.append({"id": number, "image_id": number, "caption": text})
    # The annotation comes last: a folder that was not finished cannot be read.
    write_atomic(folder / "annotations" / "captions_val2017.json", json.dumps({"annotations": captions}))
    write_atomic(folder / "annotations" / "instances_val2017.json", json.dumps(instances))


def _picture(rng: np.random.Generator) -> tuple[NDArray[np.uint8], dict[str, tuple[int, int, int, int]]]:
    """Return gray noise with blocks side by side, and the box (x, y, width, height) of each."""
    pixels = rng.integers(100, 156, (SIDE, SIDE, 3)).astype(np.uint8)
    chosen = rng.permutation(list(KINDS))[: rng.choice(3, p=(0.1, 0.5, 0.4))]
    shown = [name for name in KINDS if name in chosen]
    halves = rng.permutation(2)
    boxes = {}
    for name, half in zip(shown, halves, strict=False):
        width, height = (int(side) for side in rng.integers(18, 28, 2))
        x = int(half * SIDE // 2 + rng.integers(2, SIDE // 2 - width + 1))
        y = int(rng.integers(2, SIDE - height - 1))
        shade = np.asarray(COLORS[name]) + rng.integers(-15, 16, 3)
        pixels[y : y + height, x : x + width] = shade.clip(0, 255)
        boxes[name] = (x, y, width, height)
    return pixels, boxes


def _annotation(number: int, picture: int, kind: str, box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, width, height = box
    return {
        "id": number,
        "image_id": picture,
        "category_id": list(KINDS).index(kind) + 1,
        "iscrowd": 0,
        "bbox": list(box),
        "area": width * height,
        "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
    }


def _png(pixels: NDArray[np.uint8]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()
