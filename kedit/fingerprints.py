"""Digests of what a result depends on: pictures and samples, kedit's own code, the libraries, files that are named."""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from kedit.prompts import Prompt
from kedit.samples import Concept, Counterfactual, Question, Sample
from kedit.store import digest

PACKAGE = Path(__file__).resolve().parent


def of_picture(image: Image) -> str:
    """Return the digest of a picture: its mode, size and pixels."""
    return digest({"mode": image.mode, "size": image.size}, image.tobytes())


def of_concept(concept: Concept) -> dict[str, Any]:
    """Return all that a concept says."""
    return {
        "name": concept.name,
        "words": concept.words,
        "category": concept.category,
        "unless": concept.unless,
    }


def of_sample(sample: Sample) -> str:
    """Return the digest of a sample: its id, picture, references, objects and regions."""
    regions = sorted(sample.regions.items())
    about = {
        "id": sample.id,
        "picture": of_picture(sample.image),
        "references": list(sample.references),
        "objects": sorted(sample.objects),
        "regions": [name for name, _ in regions],
    }
    return digest(about, *(np.packbits(region).tobytes() for _, region in regions))


def of_pair(pair: Counterfactual) -> str:
    """Return the digest of a counterfactual pair: the sample, the concept and the pictures made from it."""
    control = None if pair.control is None else of_picture(pair.control)
    return digest(
        {
            "sample": of_sample(pair.sample),
            "concept": of_concept(pair.concept),
            "image": of_picture(pair.image),
            "control": control,
        }
    )


def of_question(question: Question) -> str:
    """Return the digest of a question with its right answers."""
    about = {"answer": question.answer, "kind": question.kind, "others": question.others}
    return digest(about | {"prompt": _of_prompt(question.prompt)})


@cache
def of_code(*rooms: str) -> str:
    """Return the digest of kedit's own source: of the modules and packages named, such as `locate` and `hooks`.

    It changes with every change of a file, so that what an older code made is never taken for the new one's.
    """
    sources = sorted({path for room in rooms for path in _sources(PACKAGE / room)})
    return digest([path.relative_to(PACKAGE).as_posix() for path in sources], *(path.read_bytes() for path in sources))


def of_libraries(*packages: str) -> dict[str, str | None]:
    """Return the version of each package; None for one that is not installed."""
    return {package: _version(package) for package in packages}


def of_files(texts: Iterable[str]) -> dict[str, Any]:
    """Return size and time of change of the files that some of `texts` name, of folders those of their files.

    Reading them would take minutes for a large model. Texts that name no file are left out.
    """
    named = sorted({text for text in texts if text and len(text) < 4096 and "\n" not in text and "\0" not in text})
    found = {text: Path(text).expanduser() for text in named}
    return {text: _stamps(path) for text, path in found.items() if path.exists()}


def _of_prompt(prompt: Prompt) -> str:
    about: dict[str, Any] = {"text": prompt.text}
    contents: list[bytes] = []
    if prompt.image is not None:
        about["image"] = of_picture(prompt.image)
    if prompt.video is not None:
        about |= {"frames": [of_picture(frame) for frame in prompt.video.frames], "fps": prompt.video.rate}
    if prompt.sound is not None:
        about["sound"] = prompt.sound.rate
        contents.append(np.ascontiguousarray(prompt.sound.wave).tobytes())
    return digest(about, *contents)


def _sources(room: Path) -> Iterable[Path]:
    module = room.with_suffix(".py")
    if module.is_file():
        return [module]
    if not room.is_dir():
        raise LookupError(f"kedit has no module `{room.name}`")
    return room.rglob("*.py")


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _stamps(path: Path) -> Mapping[str, Any] | list[int]:
    if path.is_dir():
        return {one.name: _stamp(one) for one in sorted(path.iterdir()) if one.is_file()}
    return _stamp(path)


def _stamp(path: Path) -> list[int]:
    about = path.stat()
    return [about.st_size, about.st_mtime_ns]
