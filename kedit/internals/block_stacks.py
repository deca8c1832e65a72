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
LANGUAGE_BLOCKS: Mapping[str, tuple[str, ...]] = {
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


def find_block_stacks(module: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the outermost lists of modules by path; a SiteError says there are none."""
    named = _named_block_stacks(module)
    stacks: dict[str, nn.ModuleList] = {}
    for path, one in module.named_modules():
        inside = any(path.startswith(outer + ".") for outer in stacks)
        if isinstance(one, nn.ModuleList) and len(one) and not inside and (path in named or not MIXER.search(path)):
            stacks[path] = one
    if not stacks:
        raise SiteError(f"{type(module).__name__} has no stack of blocks (a non-empty ModuleList)")
    return stacks


def language_among(module: nn.Module, stacks: Sequence[str]) -> list[str]:
    """Return which stacks are the language model's; see `scopes_of`."""
    return [path for path, scope in scopes_of(module, stacks).items() if scope == "language"]


def scopes_of(module: nn.Module, stacks: Sequence[str]) -> dict[str, Scope | None]:
    """Return the part of the model that each stack is of; None for one that is of none kedit knows.

    The language model's are those nearest to the token embedding that no name speaks of; of an encoder and a decoder
    with embeddings of their own, both. Of the others speak the names along their paths, from where they leave the
    embedding's: above that place a name speaks of the whole model, as `Qwen2AudioModel` holds the language model, too.
    """
    embedding = (embedding_path(module) or "").split(".")
    shared = {path: _n_shared(path.split("."), embedding) for path in stacks}
    spoken = {path: _spoken_of(module, path, shared[path]) for path in stacks}
    language = _named_block_stacks(module)
    if not language:
        nearest = [path for path in stacks if shared[path] == max(shared.values())]
        silent = {path for path, scope in spoken.items() if scope is None}
        language = silent.intersection(nearest) or set(nearest)
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False):
            language |= {path for path in silent if {"encoder", "decoder"} & set(path.split("."))}
    return {path: "language" if path in language else scope for path, scope in spoken.items()}


def _named_block_stacks(module: nn.Module) -> set[str]:
    """Return the paths that `LANGUAGE_BLOCKS` names."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, one in module.named_modules()
        for name in LANGUAGE_BLOCKS.get(type(one).__name__, ())
    }


def _n_shared(one: Sequence[str], other: Sequence[str]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _spoken_of(module: nn.Module, path: str, n_shared: int) -> Scope | None:
    """Return what the names of attributes and classes along `path` speak of, but for the first `n_shared`."""
    parts = path.split(".")
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
