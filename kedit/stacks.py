"""The stacks of blocks of a model, and which of its parts each belongs to.

A stack is an outermost list of modules. The language model's are those nearest to the token embedding; of the others,
the names of the attributes and classes above them speak.
"""

import re
from collections.abc import Mapping, Sequence

from torch import nn

from kedit.neurons import Scope

MIXER = re.compile(r"(?i:attn|attention|mamba|rwkv)|SSM|\bssm")
"""Attribute and class names of what mixes positions: never a feed-forward block."""
LANGUAGE_STACKS: Mapping[str, tuple[str, ...]] = {
    "IdeficsModel": ("layers", "gated_cross_attn_layers"),
    "BltModel": ("local_encoder.layers", "global_transformer.layers", "local_decoder.layers"),
}
"""The stacks of the language model where structure cannot tell, by the class of the module that they are in."""
SPEAKS_OF: tuple[tuple[Scope, re.Pattern[str]], ...] = (
    ("qformer", re.compile(r"q_?former", re.IGNORECASE)),
    ("projector", re.compile(r"projector|connector|resampler|perceiver|merger|aligner|abstractor|adapter", re.I)),
    ("audio", re.compile(r"audio|speech|sound|acoustic", re.IGNORECASE)),
    ("vision", re.compile(r"vision|visual|image|img|video|vit|pixel", re.IGNORECASE)),
)
"""What the names of attributes and classes say of the stack below them, the strongest word first."""


class SiteError(LookupError):
    """The model has no such place for neurons."""


def stacks_of(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the outermost lists of modules by path; a SiteError says there are none."""
    named = {f"{path}.{one}".lstrip(".") for path, names in _named_stacks(module).items() for one in names}
    stacks: dict[str, nn.ModuleList] = {}
    for path, one in module.named_modules():
        inside = any(path.startswith(outer + ".") for outer in stacks)
        if isinstance(one, nn.ModuleList) and len(one) and not inside and (path in named or not MIXER.search(path)):
            stacks[path] = one
    if not stacks:
        raise SiteError(f"{type(module).__name__} has no stack of blocks (a non-empty ModuleList)")
    return stacks


def _named_stacks(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Return the entries of `LANGUAGE_STACKS` by the path of the module they apply to."""
    found = ((path, LANGUAGE_STACKS.get(type(one).__name__)) for path, one in module.named_modules())
    return {path: names for path, names in found if names is not None}


def language_among(module: nn.Module, stacks: Sequence[str]) -> list[str]:
    """Return which stacks are the language model's: those nearest to the token embedding that no name speaks of.

    Of an encoder and a decoder with embeddings of their own, both.
    """
    named = _named_stacks(module)
    if named:
        return [path for path in stacks if any(path == f"{at}.{one}".lstrip(".") for at in named for one in named[at])]
    embedding = (embedding_path(module) or "").split(".")
    shared = {path: _n_shared(path.split("."), embedding) for path in stacks}
    nearest = [path for path in stacks if shared[path] == max(shared.values())]
    silent = {path for path in stacks if scope_of(module, path, shared[path]) is None}
    found = {path for path in nearest if path in silent} or set(nearest)
    if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
        found |= {path for path in silent if {"encoder", "decoder"} & set(path.split("."))}
    return [path for path in stacks if path in found]


def _n_shared(one: Sequence[str], other: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def scope_of(module: nn.Module, path: str, n_shared: int | None = None) -> Scope | None:
    """Return what the names along `path` speak of, from where it leaves the token embedding's; None for nothing.

    Above that place a name speaks of the whole model: `Qwen2AudioModel` holds the language model, too.
    """
    parts = path.split(".")
    if n_shared is None:
        n_shared = _n_shared(parts, (embedding_path(module) or "").split("."))
    names = list(parts[n_shared:])
    names += [type(module.get_submodule(".".join(parts[:end]))).__name__ for end in range(n_shared + 1, len(parts))]
    return next((scope for scope, word in SPEAKS_OF if any(map(word.search, names))), None)


def embedding_path(module: nn.Module) -> str | None:
    """Return the path of the token embedding: the one the model names, else the largest."""
    own = named_by_model(module, "get_input_embeddings")
    found = [path for path, one in module.named_modules() if one is own]
    if found:
        return str(found[0])
    sizes = {path: one.num_embeddings for path, one in module.named_modules() if isinstance(one, nn.Embedding)}
    return max(sizes, key=lambda path: sizes[path], default=None)


def named_by_model(module: nn.Module, method: str) -> nn.Module | None:
    """Return the part that a method of the model's own names, such as `get_output_embeddings`; None if it does not."""
    asked = getattr(module, method, None)
    try:
        return asked() if asked is not None else None
    except NotImplementedError:
        return None
