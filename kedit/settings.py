"""What an object is set to, as plain data: two that differ in anything that decides what they do are told apart."""

import re
import secrets
import sys
from abc import ABC
from collections import namedtuple
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from dis import get_instructions
from enum import Enum
from functools import cache, cached_property, partial
from logging import Logger
from pathlib import Path, PurePath
from threading import Lock, RLock
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GenericAlias,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
)
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.fingerprints import of_picture
from kedit.internals.weights import unwrapped
from kedit.store import digest

TOLD_BY_REPR = (float, complex, bytes, Enum, PurePath, range, np.generic, torch.dtype, torch.device, date, time,
                timedelta, GenericAlias, UnionType)  # fmt: skip
"""Types whose `repr` is all that they hold."""
SLOTS = (MemberDescriptorType, GetSetDescriptorType, type(vars(namedtuple("One", "it"))["it"]))
"""What a class has for the attributes of its objects, which hold them."""
PACKAGES = frozenset({"site-packages", "dist-packages"})
"""The folders that packages are installed into."""
KNOWN = frozenset({
    *("torch", "torchvision", "transformers", "tokenizers", "diffusers", "accelerate", "peft", "bitsandbytes"),
    *("numpy", "PIL", "hydra", "omegaconf"),
})  # fmt: skip
"""Packages that are nobody's own, wherever they lie."""
LOCKS = (type(Lock()), type(RLock()))
OF_CLASSES = frozenset({
    *("__dict__", "__weakref__", "__module__", "__doc__", "__qualname__", "__annotations__", "__slots__", "__hash__"),
    *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__orig_bases__", "__parameters__"),
    *("__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *vars(ABC),
})  # fmt: skip
"""What Python itself notes on a class."""
NO_MATTER = frozenset({"training", "name_or_path", "warnings_issued", "hf_device_map"})
"""Values on a module that change nothing of what it computes in evaluation mode."""

OF_TORCH = frozenset(vars(nn.Module()))
"""What torch itself notes on a module: its tensors and parts are told by their content, hooks elsewhere."""

_AROUND: ContextVar[frozenset[int]] = ContextVar("modules that are being described", default=frozenset())
_met: dict[int, object] = {}
"""Objects that nothing else tells apart: kept, so that no later one gets their number."""


def of_settings(value: Any) -> Any:
    """Return what decides what `value` does, as plain data: its class, and what it holds, however deep.

    Tensors, arrays, pictures and modules count by their content. Functions and classes count by name and, unless they
    are kedit's, by their code, since somebody may write them anew under the same name; those of no installed package
    also by what the code uses: other functions, constants of its module, values around it. An object that shows nothing
    of what it holds equals itself alone, and nothing in another process.
    """
    try:
        return _describe(value, {})
    except RecursionError:
        return _alone(value)


def of_module(module: nn.Module) -> str:
    """Return the digest of what makes up a module besides its tensors: the class of each part and what is set on it.

    Such as the scaling of an adapter, and which of several is switched on. What is None until it is first used is left
    out, and what a part notes for itself under a name with an underscore in front, but for the switches of adapters.
    """
    around = _AROUND.get()
    if id(module) in around:
        return "a module around"
    token = _AROUND.set(around | {id(module)})
    try:
        kinds = {kind: of_settings(kind) for kind in {type(part) for part in module.modules()}}
        parts = []
        for path, part in module.named_modules():
            held = {name: of_settings(one) for name, one in vars(part).items() if _counts(part, name)}
            parts.append([path, kinds[type(part)], held])
        return digest(parts)
    finally:
        _AROUND.reset(token)


def _counts(part: nn.Module, name: str) -> bool:
    """Return whether an attribute of a part of a module may decide what that computes."""
    kind: Any = type(part)
    if name in NO_MATTER or name in OF_TORCH:
        return False
    if _is_own(kind):
        return True
    value = vars(part)[name]
    return unwrapped(part) is not part and _switch(value) if name.startswith("_") else _plain(value)


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
    if value is None or type(value) in (bool, int, str):
        return value
    content = value if isinstance(value, int | str) else _of_content(value)
    if content is not None:
        kind: Any = type(value)
        own = _is_own(kind) and not isinstance(value, nn.Module)
        return ["of a class", content, _describe(kind, seen)] if own else content
    if isinstance(value, Mapping | list | tuple | set | frozenset) and not _is_own(type(value)):
        return _of_items(value, seen)
    if isinstance(value, partial):
        return ["partial", _describe([value.func, value.args, value.keywords], seen)]
    if isinstance(value, MethodType):
        return ["method", _describe(value.__self__, seen), _describe(value.__func__, seen)]
    if id(value) in seen:
        return ["the same as", seen[id(value)]]
    seen[id(value)] = len(seen)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _of_code(value, seen)
    items = [_of_items(value, seen)] if isinstance(value, Mapping | list | tuple | set | frozenset) else []
    return ["object", _describe(type(value), seen), _of_held(value, seen), *items]


def _of_items(value: Any, seen: dict[int, int]) -> Any:
    """Return what a container holds."""
    if isinstance(value, Mapping):
        return ["mapping", [[_describe(key, seen), _describe(one, seen)] for key, one in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__qualname__, [_describe(one, seen) for one in value]]
    return ["set", sorted(digest(_describe(one, {})) for one in value)]


def _of_content(value: Any) -> Any:
    """Return what tells numbers, pictures and modules by their content; None for all else."""
    if isinstance(value, TOLD_BY_REPR):
        return [type(value).__qualname__, repr(value)]
    if isinstance(value, re.Pattern):
        return ["pattern", value.pattern if isinstance(value.pattern, str) else repr(value.pattern), value.flags]
    if isinstance(value, LOCKS):
        return [type(value).__qualname__]
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
    """Return what an object holds: fields, attributes and slots, or that nothing shows it.

    Of kedit's own, what a dataclass is made with: the rest is what it keeps for itself.
    """
    kind: Any = type(value)
    kinds = kind.__mro__
    if is_dataclass(value) and not _is_own(kind):
        held = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
    else:
        names = {name: None for one in kinds for name in _slots(one)} | dict.fromkeys(getattr(value, "__dict__", ()))
        held = {name: getattr(value, name) for name in names if hasattr(value, name)}
        if not hasattr(value, "__dict__") and not any("__slots__" in vars(one) for one in kinds):
            return _alone(value)
    derived = {name for part in kinds for name, one in vars(part).items() if isinstance(one, cached_property)}
    return {str(name): _describe(one, seen) for name, one in held.items() if name not in derived}


def _alone(value: Any) -> Any:
    """Return what tells an object from all others, in this process and in others."""
    _met[id(value)] = value
    return [_process(), id(value)]


def _slots(kind: type) -> Iterator[str]:
    """Yield the slots that a class adds, under the names that its objects have them by."""
    given = vars(kind).get("__slots__", ())
    for name in (given,) if isinstance(given, str) else given:
        if name not in ("__dict__", "__weakref__"):
            private = name.startswith("__") and not name.endswith("__")
            yield f"_{kind.__name__.lstrip('_')}{name}" if private else name


@cache
def _process() -> str:
    return secrets.token_hex(8)


def _of_code(value: Any, seen: dict[int, int]) -> list[Any]:
    """Return the name of a class or function, and what it does; kedit's own code has a digest elsewhere."""
    told: list[Any] = ["code", str(value.__module__), str(value.__qualname__)]
    if isinstance(value, FunctionType):
        around = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        told.append(_describe({name: _content(cell) for name, cell in around}, seen))
    if isinstance(value, BuiltinFunctionType):
        bound = None if isinstance(value.__self__, ModuleType) else value.__self__
        return [*told, _describe(bound, seen)]
    if _ours(value):
        return told
    if not _is_own(value):
        return [*told, _of_installed(value)]
    if isinstance(value, FunctionType):
        return [*told, *_of_function(value, seen)]
    others = [kind for kind in value.__mro__[1:] if kind is not object]
    members = {name: _describe(one, seen) for name, one in _members(value)}
    return [*told, members, [_describe(kind, seen) for kind in others]]


def _of_function(value: FunctionType, seen: dict[int, int]) -> list[Any]:
    """Return the code of a function and what it uses besides the values around it: defaults, names of its module."""
    used = {name: value.__globals__[name] for name in sorted(_names(value.__code__)) if name in value.__globals__}
    held = (value.__defaults__, value.__kwdefaults__, vars(value), used)
    return [digest(_steps(value.__code__)), *(_describe(one, seen) for one in held)]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # a name that has no value yet


@cache
def _of_installed(value: Any) -> str:
    """Return the digest of the code of a class or function in an installed package."""
    if isinstance(value, FunctionType):
        return digest([_steps(value.__code__), repr(value.__defaults__)])
    kinds = [kind for kind in value.__mro__ if kind is not object and not _ours(kind)]
    return digest([[kind.__qualname__, sorted(_told(kind))] for kind in kinds])


def _ours(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] == "kedit"


@cache
def _is_own(value: Any) -> bool:
    """Return whether a class or function is the user's: neither kedit's nor of Python or an installed package."""
    module = str(value.__module__)
    package = module.partition(".")[0]
    if _ours(value) or package in KNOWN or (package in sys.stdlib_module_names and package != "__main__"):
        return False
    source = getattr(sys.modules.get(module), "__file__", None)
    return source is None or PACKAGES.isdisjoint(Path(source).parts)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the name and the functions or the value of each thing that a class defines."""
    for name, one in vars(kind).items():
        if isinstance(one, property):
            yield name, [one.fget, one.fset]
        elif isinstance(one, cached_property):
            yield name, one.func
        elif isinstance(one, staticmethod | classmethod):
            yield name, one.__func__
        elif name not in OF_CLASSES and not isinstance(one, SLOTS):
            yield name, one


def _told(kind: type) -> Iterator[list[str]]:
    for name, one in vars(kind).items():
        one = one.fget if isinstance(one, property) else getattr(one, "__func__", one)
        if isinstance(one, FunctionType):
            yield [name, digest(_steps(one.__code__))]
        elif isinstance(one, bool | int | float | str | tuple) and not name.startswith("__"):
            yield [name, repr(one)]


def _names(code: CodeType) -> set[str]:
    """Return the names that a function looks up in its module, those of the functions in it as well."""
    looked_up = {str(one.argval) for one in get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return looked_up.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))


def _steps(code: CodeType) -> list[Any]:
    """Return the instructions of a function, with those of the functions in it."""
    inner = [_steps(one) for one in code.co_consts if isinstance(one, CodeType)]
    # A set has another order in another process.
    sets = [sorted(map(repr, one)) for one in code.co_consts if isinstance(one, frozenset)]
    constants = [repr(one) for one in code.co_consts if not isinstance(one, CodeType | frozenset)]
    return [code.co_code.hex(), list(code.co_names), constants, sets, inner]
