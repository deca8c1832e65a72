"""What an object is set to, as plain data: two that differ in anything that decides what they do are told apart."""

import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from logging import Logger
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.fingerprints import of_picture
from kedit.internals.weights import unwrapped
from kedit.store import digest

TOLD_BY_REPR = (float, complex, bytes, Enum, PurePath, re.Pattern, range, np.generic, torch.dtype, torch.device)
"""Types whose `repr` is all that they hold."""
NO_MATTER = frozenset({"training", "name_or_path", "warnings_issued", "hf_device_map"})
"""Values on a module that change nothing of what it computes in evaluation mode."""

_met: dict[int, object] = {}
"""Objects that nothing else tells apart: kept, so that no later one gets their number."""


def of_settings(value: Any) -> Any:
    """Return what decides what `value` does, as plain data: its class, and what it holds, however deep.

    Tensors, arrays, pictures and modules count by their content; functions and classes by name and, unless they are
    kedit's, by their code, since somebody may write them anew under the same name. An object that shows nothing of what
    it holds equals itself alone, and nothing in another process.
    """
    return _describe(value, {})


def of_module(module: nn.Module) -> str:
    """Return the digest of what makes up a module besides its tensors: the class of each part and what is set on it.

    Such as the scaling of an adapter, and which of several is switched on. What is None until it is first used is left
    out, and what a part notes for itself under a name with an underscore in front, but for the switches of adapters.
    """
    parts = []
    for path, part in module.named_modules():
        switches = unwrapped(part) is not part
        held = {
            name: of_settings(one)
            for name, one in vars(part).items()
            if name not in NO_MATTER and (switches and _switch(one) if name.startswith("_") else _plain(one))
        }
        parts.append([path, _of_class(part), held])
    return digest(parts)


def _switch(value: Any) -> bool:
    """Return whether a value is one that adapters tell by which of them acts: a name, names, or yes and no."""
    names = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return names or isinstance(value, bool | str)


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and _plain(one) for key, one in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_plain, value))
    return isinstance(value, bool | int | float | str | FunctionType | BuiltinFunctionType)


def _describe(value: Any, seen: dict[int, int]) -> Any:
    """Return `value` as plain data; `seen` are the objects so far, each told once."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if (content := _of_content(value)) is not None:
        return content
    if isinstance(value, Mapping):
        return ["mapping", [[_describe(key, seen), _describe(one, seen)] for key, one in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__qualname__, [_describe(one, seen) for one in value]]
    if isinstance(value, set | frozenset):
        return ["set", sorted(digest(_describe(one, {})) for one in value)]
    if isinstance(value, partial):
        return ["partial", _describe([value.func, value.args, value.keywords], seen)]
    if isinstance(value, MethodType):
        return ["method", _describe(value.__self__, seen), _of_code(value.__func__)]
    if isinstance(value, type | BuiltinFunctionType):
        return ["code", *_of_code(value)]
    if id(value) in seen:
        return ["the same as", seen[id(value)]]
    seen[id(value)] = len(seen)
    if isinstance(value, FunctionType):
        return ["code", *_of_code(value), [_describe(cell.cell_contents, seen) for cell in value.__closure__ or ()]]
    return ["object", _of_class(value), _of_held(value, seen)]


def _of_content(value: Any) -> Any:
    """Return what tells numbers, pictures and modules by their content; None for all else."""
    if isinstance(value, TOLD_BY_REPR):
        return [type(value).__qualname__, repr(value)]
    if isinstance(value, ModuleType | Logger):
        return [type(value).__qualname__, str(value.name if isinstance(value, Logger) else value.__name__)]
    if isinstance(value, Tensor) and not value.is_meta:
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return ["tensor", str(value.dtype), list(value.shape), digest("", data.tobytes())]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return ["array", str(value.dtype), list(value.shape), digest("", np.ascontiguousarray(value).tobytes())]
    if isinstance(value, Image):
        return ["picture", of_picture(value)]
    if isinstance(value, nn.Module):
        held = dict([*value.named_parameters(), *value.named_buffers()])
        return ["module", of_module(value), {name: _describe(one, {}) for name, one in held.items()}]
    return None


def _of_held(value: Any, seen: dict[int, int]) -> Any:
    """Return what an object holds: the fields of a dataclass, the attributes of another, or that nothing shows it."""
    if is_dataclass(value):
        held = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
    elif hasattr(value, "__dict__"):
        held = vars(value)
    else:
        _met[id(value)] = value
        return [_process(), id(value)]
    return {str(name): _describe(one, seen) for name, one in held.items()}


@cache
def _process() -> str:
    return secrets.token_hex(8)


def _of_class(value: object) -> list[Any]:
    kind: Any = type(value)
    return _of_code(kind)


@cache
def _of_code(value: Any) -> list[Any]:
    """Return the name of a class or function and the digest of its code; kedit's own has a digest elsewhere."""
    name = [str(value.__module__), str(value.__qualname__)]
    if isinstance(value, FunctionType):
        return name if _ours(value) else [*name, digest(_steps(value.__code__)), repr(value.__defaults__)]
    if isinstance(value, type):
        kinds = [kind for kind in value.__mro__ if kind is not object and not _ours(kind)]
        return [*name, digest([[kind.__qualname__, sorted(_members(kind))] for kind in kinds])]
    return name


def _ours(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] == "kedit"


def _members(kind: type) -> Iterator[list[str]]:
    """Yield the name and the code or value of each thing that a class defines."""
    for name, one in vars(kind).items():
        one = one.fget if isinstance(one, property) else getattr(one, "__func__", one)
        if isinstance(one, FunctionType):
            yield [name, digest(_steps(one.__code__))]
        elif isinstance(one, bool | int | float | str | tuple) and not name.startswith("__"):
            yield [name, repr(one)]


def _steps(code: CodeType) -> list[Any]:
    """Return the instructions of a function, with those of the functions in it."""
    inner = [_steps(one) for one in code.co_consts if isinstance(one, CodeType)]
    # A set has another order in another process.
    sets = [sorted(map(repr, one)) for one in code.co_consts if isinstance(one, frozenset)]
    constants = [repr(one) for one in code.co_consts if not isinstance(one, CodeType | frozenset)]
    return [code.co_code.hex(), list(code.co_names), constants, sets, inner]
