"""Which files hold the weights of a model in memory, and where in them each weight stands."""

import json
import logging
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from kedit.models.identity import tensor_digest

logger = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"
"""What says which weight is in which of several files."""


def origin(module: nn.Module) -> str | None:
    """Return the folder or the id that a model was loaded from, as transformers notes it; None where it does not."""
    return str(getattr(getattr(module, "config", None), "name_or_path", "") or "") or None


def base_of(module: nn.Module) -> str | None:
    """Return the folder or the id that holds a model's weights; None where nobody knows one, or it holds others.

    A model that was trained since it was loaded, or that an adapter was merged into, is not what its folder holds.
    That of weights that are quantized or not in memory, and an id, are taken as they are.
    """
    name = origin(module)
    if name is None or not (Path(name) / "config.json").is_file():
        return name
    if any(one.is_meta or not one.is_floating_point() for one in module.parameters()):
        return name
    if places_in(Path(name), module) is not None:
        return name
    logger.warning("the weights are not those in `%s`: nothing names the model that they are of", name)
    return None


def places_in(folder: Path, module: nn.Module) -> dict[str, tuple[str, str]] | None:
    """Return the file and the key of each weight of `module`, by its name; None where the files hold other weights.

    Names in files differ from those in memory, and a model may have been changed since it was loaded, so that a weight
    is known by its content: the same numbers, or those that its own type of number makes of them. One is read at a
    time.
    """
    held = module.state_dict()
    types = sorted({one.dtype for one in held.values() if one.is_floating_point()}, key=str)
    names: dict[str, list[str]] = {}
    for name, tensor in held.items():
        names.setdefault(tensor_digest(tensor), []).append(name)
    found: dict[str, list[tuple[str, str]]] = {}
    for file, key, stored in _tensors_in(folder):
        same = [name for digest in _digests(stored, types) for name in names.get(digest, ())]
        if not same:
            return None
        for name in same:
            found.setdefault(name, []).append((file, key))
    if not found or held.keys() - found.keys():
        return None
    # Of weights with equal numbers, as norms that were never trained, the names tell.
    return {name: max(some, key=lambda place: _n_shared(place[1], name)) for name, some in found.items()}


def save_module(module: nn.Module, processor: object, folder: Path) -> None:
    """Save a model in memory and its processor as transformers does; a ValueError says that it cannot be."""
    save = getattr(module, "save_pretrained", None)
    if not callable(save):
        raise ValueError(f"{type(module).__name__} has no `save_pretrained`: only adapters of it can be written")
    save(folder)
    processor.save_pretrained(folder)  # type: ignore[attr-defined]


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers would read the weights in a folder from; none where they are no safetensors.

    Others may lie beside them, as the same weights in their first author's form.
    """
    if (folder / INDEX).is_file():
        content = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        return sorted({folder / name for name in content["weight_map"].values()})
    return [path] if (path := folder / "model.safetensors").is_file() else []


def _tensors_in(folder: Path) -> Iterator[tuple[str, str, Tensor]]:
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as held:
            for key in held.keys():  # noqa: SIM118 - it is no mapping
                yield path.name, key, held.get_tensor(key)


def _digests(stored: Tensor, types: list[torch.dtype]) -> Iterator[str]:
    if not stored.is_floating_point():
        yield tensor_digest(stored)
        return
    for dtype in types:
        yield tensor_digest(stored.to(dtype))


def _n_shared(key: str, name: str) -> int:
    """Return how many parts of two dotted names agree, counted from the end."""
    pairs = list(zip(reversed(key.split(".")), reversed(name.split(".")), strict=False))
    return next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a model that shares its weights: other modules around the same tensors.

    What is put around the modules of the copy leaves the model itself alone.
    """
    tensors: Mapping[int, Tensor] = {id(one): one for one in (*module.parameters(), *module.buffers())}
    return deepcopy(module, dict(tensors))
