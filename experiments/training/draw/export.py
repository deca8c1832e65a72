"""The trained model as a folder that `JanusForConditionalGeneration.from_pretrained` reads."""

import json
from pathlib import Path

from transformers import JanusForConditionalGeneration, JanusProcessor


def save(model: JanusForConditionalGeneration, processor: JanusProcessor, folder: Path) -> None:
    """Write weights (16 bits each), configuration and processor; the model is loaded in 32 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = next(model.parameters()).dtype
    model.half().save_pretrained(folder)
    model.to(dtype)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"], config["vq_config"]):
        part["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    processor.save_pretrained(folder)


def size(folder: Path) -> int:
    """Return the size of a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
