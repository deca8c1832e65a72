"""The original files of GILL: where they are, what is in them, and what its weights are called in kedit's module."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedit.models.original import OriginalPart

HOLDS = {
    "language": "the folder of OPT in the format of transformers",
    "vision": "the folder of CLIP in the format of transformers",
    "checkpoint": "GILL's own weights",
}
CHECKPOINTS = ("pretrained_ckpt.safetensors", "pretrained_ckpt.pth.tar")
"""What a checkpoint is called in its folder; the first that is there is read."""
ARGUMENTS = "model_args.json"
"""What the original notes of its settings, beside the checkpoint."""
IMG_ROWS = "input_embeddings.weight"
"""The embeddings of the [IMG] tokens; before pruning, behind those of all others."""
RENAMED = {
    "gen_text_hidden_fcs.0.": "mapper.",
    "ret_text_hidden_fcs.0.model.": "retrieval_text.",
    "visual_fc.": "retrieval_picture.",
}
"""How the names of the original's weights begin, and what they begin with here."""
NEEDS = ("visual_embeddings.weight", "mapper.fc.weight", "mapper.model.weight", "mapper.query_embs", IMG_ROWS)
NOT_TRAINED = ("lm.", "visual_model.")
"""What training checkpoints may hold besides: OPT and CLIP, as they are in their own folders."""


class GILLFileError(ValueError):
    """A file of GILL does not hold what it should, or does not fit the others."""


@dataclass(frozen=True)
class Files:
    """Where the parts of one GILL are; `checkpoint` is a file."""

    language: Path
    vision: Path
    checkpoint: Path

    @classmethod
    def under(cls, folder: Path, names: Mapping[str, str]) -> "Files":
        """Return the files of these names in `folder` (an absolute path stays as it is).

        Raises:
            FileNotFoundError: Some are not there. All that are expected are listed.
        """
        paths = {part: folder.expanduser() / Path(name).expanduser() for part, name in names.items()}
        if (home := paths["checkpoint"]).is_dir():
            there = [home / name for name in CHECKPOINTS if (home / name).is_file()]
            paths["checkpoint"] = there[0] if there else home / CHECKPOINTS[-1]
        found = {part: path.is_file() if part == "checkpoint" else path.is_dir() for part, path in paths.items()}
        if not all(found.values()):
            listed = [
                f"`{part}` ({HOLDS[part]}) at `{path}`: {'found' if found[part] else 'MISSING'}"
                for part, path in paths.items()
            ]
            raise FileNotFoundError(
                f"GILL is read from {len(listed)} places, and {list(found.values()).count(False)} are not there: "
                f"{'; '.join(listed)}"
            )
        return cls(**paths)

    def part(self, name: str) -> OriginalPart:
        """Return where a part is, to be read."""
        return OriginalPart(name, getattr(self, name), HOLDS[name], GILLFileError)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """GILL's own weights under the names of kedit's module, and the embeddings of its [IMG] tokens."""

    path: Path
    weights: Mapping[str, Tensor]
    img_rows: Tensor
    """`[token, d_model]`."""

    @classmethod
    def read(cls, files: Files) -> "Checkpoint":
        """Read the file; a GILLFileError says that it is none of GILL's, or of a kind that kedit does not know."""
        n_img = _n_img_tokens(files.checkpoint.parent / ARGUMENTS)
        part = files.part("checkpoint")
        held = {_renamed(key): one for key, one in part.weights("state_dict", ()).items()}
        if lacking := [key for key in NEEDS if key not in held]:
            has = ", ".join(f"`{key}`" for key in list(held)[:4]) or "no tensor"
            raise GILLFileError(
                f"`checkpoint` `{files.checkpoint}` is not {part.holds}: it has no `{lacking[0]}`, but {has}"
            )
        rows = held.pop(IMG_ROWS)[-n_img:].clone()
        kept = {key: one for key, one in held.items() if not key.startswith(NOT_TRAINED)}
        return cls(files.checkpoint, kept, rows)

    def settings(self, d_model: int, heads: int) -> dict[str, Any]:
        """Return the sizes that the shapes imply, and how many attention heads the mapper has, which none tells."""
        hidden, width = self.weights["mapper.fc.weight"].shape
        if width != d_model:
            raise GILLFileError(
                f"`checkpoint` `{self.path}` was trained with an OPT {width} wide, and `language` is {d_model} wide"
            )
        return {
            "n_image_tokens": self.weights["visual_embeddings.weight"].shape[0] // d_model,
            "n_img_tokens": len(self.img_rows),
            "retrieval_size": _rows(self.weights, "retrieval_text.weight"),
            "mapper_hidden_size": hidden,
            "mapper_intermediate_size": _rows(self.weights, "mapper.tfm.encoder.layers.0.linear1.weight"),
            "mapper_encoder_layers": self._n_layers("encoder"),
            "mapper_decoder_layers": self._n_layers("decoder"),
            "mapper_heads": heads,
            "mapper_queries": self.weights["mapper.query_embs"].shape[1],
            "mapper_output_size": self.weights["mapper.model.weight"].shape[0],
        }

    def refuse_misfits(self, expected: Mapping[str, torch.Size]) -> None:
        """Raise a GILLFileError that lists what is missing or of another shape than the module expects."""
        wrong = [
            f"`{key}` is {list(one.shape)}, expected {list(expected[key]) if key in expected else 'nothing'}"
            for key, one in self.weights.items()
            if one.shape != expected.get(key)
        ]
        wrong += [f"no `{key}` {list(shape)}" for key, shape in expected.items() if key not in self.weights]
        if wrong:
            more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
            raise GILLFileError(f"`checkpoint` `{self.path}` does not fit: {'; '.join(wrong[:4])}{more}")

    def _n_layers(self, stack: str) -> int:
        start = f"mapper.tfm.{stack}.layers."
        return len({key.removeprefix(start).split(".")[0] for key in self.weights if key.startswith(start)})


def _renamed(key: str) -> str:
    """Return what a weight of the original is called here; training on several GPUs puts `module.` in front."""
    bare = key.removeprefix("module.").removeprefix("model.")
    start = next((one for one in RENAMED if bare.startswith(one)), "")
    return RENAMED[start] + bare.removeprefix(start) if start else bare


def _rows(weights: Mapping[str, Tensor], key: str) -> int:
    """Return the rows of a weight, or 1 where it is missing, which is found out when shapes are compared."""
    return int(weights[key].shape[0]) if key in weights else 1


def _n_img_tokens(path: Path) -> int:
    """Return how many [IMG] tokens there are, as the original's settings say where they lie beside the checkpoint."""
    told: Any = {}
    if path.is_file():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise GILLFileError(f"`{path}` is no JSON: {str(error).splitlines()[0]}") from error
    known = {"text_emb_layers": [-1], "text_fc_mode": "gill_mapper", "ret_text_fc_mode": "linear"}
    for key, value in known.items():
        if told.get(key, value) != value:
            raise GILLFileError(f"`{path}` says `{key}` is {told[key]!r}; kedit reads GILL with {value!r}")
    return int(told.get("num_tokens", 8))
