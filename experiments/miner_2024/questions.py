"""Write questions of every medium that a tiny random model reads, to try the study on; it means nothing what they ask.

python -m experiments.miner_2024.questions qwen2_vl outputs/vl
"""

import json
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kedit
from kedit.models.tiny.families import tiny

EACH = 12
"""Questions of each benchmark."""
FILE = "questions.jsonl"


def texts() -> Iterator[dict[str, Any]]:
    """Yield questions about nothing but words."""
    for number in range(EACH):
        yield {"question": f"What is {number} and {number + 1}?", "kind": "texts"}


def pictures(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield questions about drawn pictures, and about clips of two of them."""
    drawn = [kedit.Scenes().sample(number).image.resize((24, 24)) for number in range(EACH + 1)]
    for number, image in enumerate(drawn):
        image.save(folder / f"{number}.png")
    for number in range(EACH):
        yield {"question": f"What is in picture {number}?", "image": f"{number}.png", "kind": "pictures"}
        frames = [f"{number}.png", f"{number + 1}.png"]
        yield {"question": f"What happens in clip {number}?", "video": frames, "rate": 1, "kind": "clips"}


def sounds(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield questions about tones of half a second."""
    for number in range(EACH):
        tone = np.sin(np.arange(4000) * (number + 2) / 20)
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes((tone * 20000).astype("<i2").tobytes())
        yield {"question": f"What sounds in {number}?", "audio": f"{number}.wav", "kind": "sounds"}


def write_questions(family: str, folder: Path) -> Path:
    """Write questions that `family` reads, whose right answers are what its tiny model says; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*texts(), *(sounds(folder) if family == "qwen2_audio" else pictures(folder))]
    file = folder / FILE
    file.write_text("".join(json.dumps(line | {"answer": "?"}) + "\n" for line in lines), "utf-8")
    question_split = kedit.Folder(str(folder), questions_file=FILE).split_questions(locate=EACH, evaluate=EACH, seed=0)
    asked = [*question_split.locate, *question_split.evaluate]
    said = dict(zip((one.text for one in asked), tiny(family).answer(asked), strict=True))
    answers = [line | {"answer": said[line["question"]] or "?"} for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in answers), "utf-8")
    return file


def main() -> int:
    """Write them."""
    family, folder = sys.argv[1:]
    print(write_questions(family, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
