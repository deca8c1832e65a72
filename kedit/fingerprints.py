"""Digests of what a result depends on: pictures and samples, kedit's own code, the libraries, files that are named."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from kedit.paths import lying_at
from kedit.prompts import Prompt
from kedit.samples import AnySample, Concept, Pair, Question, TextPair, TextSample
from kedit.store import digest

PACKAGE = Path(__file__).resolve().parent
FOLDERS = frozenset({"folder", "path", "merge", "adapter", "language"})
"""Settings whose value may be a folder of inputs."""
BASES = ("folder", "path")
"""Settings whose value is a folder from which others beside it may name files and folders."""
WRITTEN = frozenset({"store", "cache", "offload_folder"})
"""Settings whose value is a folder that holds what is written."""
HUB = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
"""How an id on the hub looks."""
RUN = frozenset({".hydra", "multirun.yaml", "sweep.json"})
"""What tells that a folder is a run or a sweep: one that lies among the inputs is none of them."""
OF_MODELS = (
    *("torch", "torchvision", "transformers", "tokenizers", "accelerate", "peft", "bitsandbytes", "safetensors"),
    *("numpy", "pillow"),
)
"""The packages that decide what a model reads and says."""
LEADS_OUT = re.compile(r'"[/\\]|\.\.[/\\]')
"""What a text in JSON has, at its beginning or inside, if it is a path that may lead out of the folder."""
QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)+"')
"""A text in JSON."""
OF_VIDEO = re.compile(r'"video"\s{0,9}:\s{0,9}$')
"""What stands before the path of a video, which may be a folder."""


def of_picture(image: Image) -> str:
    """Return the digest of a picture: its mode, size, palette and pixels."""
    return digest({"mode": image.mode, "size": image.size, "palette": image.getpalette()}, image.tobytes())


def of_concept(concept: Concept) -> dict[str, Any]:
    """Return all that a concept says."""
    return {
        "name": concept.name,
        "words": concept.words,
        "category": concept.category,
        "unless": concept.unless,
    }


def of_sample(sample: AnySample) -> str:
    """Return the digest of a sample: its id, its text or picture, references, objects and regions."""
    if isinstance(sample, TextSample):
        return digest({**vars(sample), "objects": sorted(sample.objects)})
    regions = sorted(sample.regions.items())
    about = {
        "id": sample.id,
        "picture": of_picture(sample.image),
        "references": list(sample.references),
        "objects": sorted(sample.objects),
        "regions": [name for name, _ in regions],
    }
    return digest(about, *(np.packbits(region).tobytes() for _, region in regions))


def of_pair(pair: Pair) -> str:
    """Return the digest of a counterfactual pair: the sample, the concept and the pictures made from it."""
    if isinstance(pair, TextPair):
        return digest({"sample": of_sample(pair.sample), "concept": of_concept(pair.concept)})
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


def of_files(settings: Any) -> dict[str, str]:
    """Return the digest of the content of every file that settings name, by the text that names it.

    A file is read once, and again when its size or its times have changed. See `named_files`.
    """
    found = named_files(settings)
    with ThreadPoolExecutor() as pool:  # a disk on the network answers many at once
        return {
            text: digest(dict(zip(map(str, files), pool.map(of_file, files), strict=True)))
            for text, files in found.items()
        }


def of_file(file: Path) -> str:
    """Return the digest of a file's content; it is read again when its size or its times have changed."""
    return _read(file, *_stamp(file))


def stamps_of_files(settings: Any) -> dict[str, Any]:
    """Return size and times of the files that settings name: cheaper than `of_files`, and as good in one process."""
    return {text: [[str(file), *_stamp(file)] for file in files] for text, files in named_files(settings).items()}


def named_files(settings: Any, name: str = "") -> dict[str, list[Path]]:
    """Return the files that plain data name, by the text that does; what names nothing is left out.

    Any text may be the path of a file. That of a folder counts under a name of `FOLDERS`, with all that lies below it
    but for runs of kedit's, and with the files elsewhere that its lists (`*.jsonl`, and the `*.json` of data) name; so
    does what other texts name from there. Of an id on the hub, the files count that are kept of it.
    """
    if isinstance(settings, Mapping):
        parts = [named_files(value, str(key)) for key, value in settings.items()]
        parts += [_beside(Path(base), settings) for key in BASES if isinstance(base := settings.get(key), str) and base]
    elif isinstance(settings, list | tuple):
        parts = [named_files(value, name) for value in settings]
    else:
        files = list(_files_at(settings, name)) if isinstance(settings, str) else []
        return {settings: files} if files else {}
    return {text: files for part in parts for text, files in part.items()}


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


def _files_at(text: str, name: str) -> Iterator[Path]:
    # A text that is no path may begin as the home of nobody, or hold what no path may.
    with suppress(RuntimeError, ValueError):
        path = Path(text).expanduser()
        if _is_file(path):
            yield path
            yield from _listed(path, path.parent, name)
        elif name in FOLDERS and text:
            for file in _below(_kept_of(text) if name in ("path", "language") and HUB.fullmatch(text) else path):
                yield file
                yield from _listed(file, path, name)


def _kept_of(text: str) -> Path:
    """Return a folder, or else where the local cache keeps what has this id on the hub, if it does."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(text).is_dir():
        return Path(text)
    try:
        return Path(snapshot_download(text, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
        return Path(text)


def _beside(base: Path, settings: Mapping[Any, Any]) -> dict[str, list[Path]]:
    """Return the files outside `base` that settings beside it name from there, such as a file of questions.

    As a data set does, a text may have the value of another setting in braces.
    """
    base, found = base.expanduser(), dict[str, list[Path]]()
    texts = {str(key): value for key, value in settings.items() if isinstance(value, str) and value}
    for name in texts.keys() - WRITTEN - set(BASES):
        with suppress(KeyError, IndexError, ValueError, OSError):
            path = base / texts[name].format_map(texts)
            top, home = path.resolve(), base.resolve()
            if top == home or home in top.parents or top in home.parents:
                continue
            files = [path] if _is_file(path) else list(_below(path))
            if files:
                found[str(path)] = [one for file in files for one in (file, *_listed(file, base, "folder"))]
    return found


def _below(top: Path) -> Iterator[Path]:
    """Yield the files below a folder, those behind links to folders included, in an order that stays."""
    seen = set[Path]()
    for folder, inner, names in os.walk(top, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen or (here != top and RUN.intersection([*inner, *names])):
            inner.clear()
            continue
        seen.add(here.resolve())
        inner[:] = sorted(set(inner) - {"__pycache__"})
        yield from (here / name for name in sorted(names) if _is_file(here / name))


def _listed(file: Path, folder: Path, name: str) -> Iterator[Path]:
    """Yield the files outside `folder` that a list of pictures or questions names from there."""
    if file.suffix != ".jsonl" and not (file.suffix == ".json" and name == "folder"):
        return
    for text, is_video in _leads(file, *_stamp(file)):
        for path in dict.fromkeys(_read_as(text, folder, is_coco=file.suffix == ".json")):
            if _is_file(path):
                yield path
            elif is_video and path.resolve() not in (folder.resolve(), *folder.resolve().parents):
                yield from _below(path)


def _read_as(text: str, folder: Path, *, is_coco: bool) -> Iterator[Path]:
    """Yield where a data set looks for what a list in `folder` names by `text`."""
    plain = text.replace("\\", "/")
    with suppress(OSError, ValueError):
        yield lying_at(folder / text, folder / plain)
    # What COCO lists, it names from the folder of the pictures, which may lie two below.
    rest = os.path.normpath(plain)
    while is_coco and rest.startswith("../"):
        rest = rest.removeprefix("../")
        with suppress(OSError, ValueError):
            yield lying_at(folder / rest)


@cache
def _leads(file: Path, *_when: int) -> list[tuple[str, bool]]:
    """Return the paths in a list that may lead out of its folder, and whether each is a video's."""
    found, end = set[tuple[str, bool]](), 0
    try:
        content = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    for hit in LEADS_OUT.finditer(content):
        if hit.start() < end:  # in a text that has been looked at
            continue
        start = content.rfind('"', 0, hit.start() + 1)
        while start > 0 and content[start - 1] == "\\":
            start = content.rfind('"', 0, start)
        if (quoted := QUOTED.match(content, max(start, 0))) is None:
            continue
        end = quoted.end()
        with suppress(ValueError):
            text = json.loads(quoted[0])
            plain = text.replace("\\", "/")
            if "\0" not in text and (plain.startswith("/") or ".." in plain.split("/")):
                found.add((text, bool(OF_VIDEO.search(content, max(start - 32, 0), start))))
    return sorted(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long, say
        return False


@cache
def _read(file: Path, *_when: int) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return str(error.strerror)


def _stamp(file: Path) -> list[int]:
    try:
        about = file.stat()
    except OSError:
        return []
    # The time of the last change of all, `st_ctime_ns`, cannot be set back as the other can.
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
