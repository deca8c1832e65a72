"""The four original files of MiniGPT-4: where they are, what is in them, and where it goes in the module."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kedit.models.minigpt4_processor import FLAVORS, Flavor
from kedit.models.minigpt4_weights import QFORMER, Placed, Weights, home, qformer_weights, vision_weights
from kedit.models.original import OriginalPart

HOLDS = {
    "vision": "the vision tower EVA-ViT-g/14",
    "qformer": "BLIP-2's Q-Former, its queries and the norm after the vision tower",
    "checkpoint": "MiniGPT-4's own linear map, `llama_proj`",
    "language": "the folder of the language model in the format of transformers",
}


class MiniGPT4FileError(ValueError):
    """A file of MiniGPT-4 does not hold what it should, or does not fit the others."""


@dataclass(frozen=True)
class Files:
    """Where the parts of one MiniGPT-4 are."""

    flavor: str
    vision: Path
    qformer: Path
    checkpoint: Path
    language: Path

    @classmethod
    def under(cls, folder: Path, flavor: str, names: Mapping[str, str]) -> "Files":
        """Return the files of these names for each part in `folder` (an absolute path stays as it is).

        Raises:
            FileNotFoundError: Some are not. All that are expected are listed.
            ValueError: There is no such flavor.
        """
        if flavor not in FLAVORS:
            raise ValueError(f"`flavor` is one of {', '.join(FLAVORS)}, got {flavor!r}")
        files = cls(flavor, **{part: folder.expanduser() / Path(name).expanduser() for part, name in names.items()})
        files._refuse_missing()
        return files

    @property
    def kind(self) -> Flavor:
        """What is particular to the flavor."""
        return FLAVORS[self.flavor]

    @property
    def needed(self) -> dict[str, Path]:
        """The files that this flavor reads."""
        parts = [part for part in HOLDS if part != "qformer" or self.kind.has_qformer]
        return {part: getattr(self, part) for part in parts}

    def part(self, name: str) -> OriginalPart:
        """Return where a part is, to be read."""
        return OriginalPart(name, self.needed[name], HOLDS[name], MiniGPT4FileError)

    def _refuse_missing(self) -> None:
        there = {part: path.is_dir() if part == "language" else path.is_file() for part, path in self.needed.items()}
        if all(there.values()):
            return
        listed = [
            f"`{part}` ({HOLDS[part]}) at `{path}`: {'found' if there[part] else 'MISSING'}"
            for part, path in self.needed.items()
        ]
        raise FileNotFoundError(
            f"MiniGPT-4 of flavor `{self.flavor}` is read from {len(listed)} places, and "
            f"{list(there.values()).count(False)} are not there: {'; '.join(listed)}"
        )


@dataclass(frozen=True, eq=False)
class Parts:
    """The weights of the `.pth` files, under their original names; `qformer` is empty where there is none."""

    files: Files
    vision: Weights
    qformer: Weights
    checkpoint: Weights

    @classmethod
    def read(cls, files: Files) -> "Parts":
        """Read the files; a MiniGPT4FileError says which is not what it should be."""
        vision = files.part("vision").weights("model", needs=("cls_token", "pos_embed", "patch_embed.proj.weight"))
        qformer: Weights = {}
        if files.kind.has_qformer:
            qformer = files.part("qformer").weights("model", needs=("query_tokens", "ln_vision.weight"))
        checkpoint = files.part("checkpoint").weights("model", needs=("llama_proj.weight", "llama_proj.bias"))
        if lora := [key for key in checkpoint if "lora_" in key]:
            raise MiniGPT4FileError(
                f"`checkpoint` `{files.checkpoint}` has low-rank weights such as `{lora[0]}`: it is MiniGPT-v2, which "
                "kedit does not read; give a checkpoint of MiniGPT-4 (Vicuna 7B, Vicuna 13B or Llama-2-chat 7B)"
            )
        parts = cls(files, vision, qformer, checkpoint)
        parts._refuse_other_flavor()
        return parts

    def _refuse_other_flavor(self) -> None:
        width = self.checkpoint["llama_proj.weight"].shape[1]
        joined = 4 * self.vision["cls_token"].shape[-1]
        own = self.files.kind
        if own.has_qformer and width == joined != self.qformer["query_tokens"].shape[-1]:
            found, other = f"4 joined patches ({width} features)", "llama2"
        elif not own.has_qformer and width != joined:
            found, other = f"{width} features, as of a Q-Former, and not 4 joined patches ({joined})", "vicuna"
        else:
            return
        raise MiniGPT4FileError(
            f"`checkpoint` `{self.files.checkpoint}` is of another flavor: its `llama_proj` reads {found}; "
            f"flavor `{self.files.flavor}` was asked for, set `flavor={other}` or give the checkpoint that fits"
        )

    def settings(self, vision_blocks: int, vision_heads: int, qformer_heads: int) -> dict[str, Any]:
        """Return the configuration that the shapes imply, with what they do not tell as given."""
        patch = int(self.vision["patch_embed.proj.weight"].shape[-1])
        side = round((self.vision["pos_embed"].shape[1] - 1) ** 0.5)
        hidden = int(self.vision["cls_token"].shape[-1])
        vision = {
            "hidden_size": hidden, "intermediate_size": _rows(self.vision, "blocks.0.mlp.fc1.weight"),
            "num_hidden_layers": vision_blocks, "num_attention_heads": vision_heads, "image_size": side * patch,
            "patch_size": patch, "layer_norm_eps": 1e-6, "qkv_bias": True,
        }  # fmt: skip
        if not self.qformer:
            return {"vision_config": vision, "num_query_tokens": 0}
        start = f"{QFORMER}encoder.layer."
        layers = {int(key.removeprefix(start).split(".")[0]) for key in self.qformer if key.startswith(start)}
        qformer = {
            "hidden_size": int(self.qformer["query_tokens"].shape[-1]), "num_hidden_layers": len(layers),
            "intermediate_size": _rows(self.qformer, f"{start}0.intermediate_query.dense.weight"),
            "num_attention_heads": qformer_heads, "layer_norm_eps": 1e-12, "cross_attention_frequency": 2,
            "encoder_hidden_size": hidden,
        }  # fmt: skip
        n_queries = int(self.qformer["query_tokens"].shape[1])
        return {"vision_config": vision, "qformer_config": qformer, "num_query_tokens": n_queries}

    def placed(self, n_blocks: int) -> Iterator[Placed]:
        """Yield each weight and where it goes in the module.

        Left out is what the original does not use: the blocks of the vision tower from `n_blocks` on and its last
        norm, BLIP-2's projection to T5, and the buffers of frozen parts in the checkpoint.
        """
        yield from vision_weights(self.vision, n_blocks)
        if self.qformer:
            yield from qformer_weights(self.qformer)
        else:
            # No file of this flavor has them, and the original does not train them: they are as torch makes them.
            like = self.vision["cls_token"].flatten()
            yield Placed("vision_model.post_layernorm.weight", "vision", "cls_token", torch.ones_like(like))
            yield Placed("vision_model.post_layernorm.bias", "vision", "cls_token", torch.zeros_like(like))
        for one in ("weight", "bias"):
            value = self.checkpoint[f"llama_proj.{one}"]
            yield Placed(f"language_projection.{one}", "checkpoint", f"llama_proj.{one}", value)

    def refuse_misfits(self, placed: Sequence[Placed], expected: Mapping[str, torch.Size], width: int) -> None:
        """Raise a MiniGPT4FileError that lists what is missing or of another shape than the module expects.

        Args:
            placed: What the files hold.
            expected: The shape of each weight of the module but the language model's.
            width: That of the language model, for the message.
        """
        wrong = [one.misfit(expected) for one in placed if one.value.shape != expected.get(one.key)]
        found = {one.key for one in placed}
        wrong += [
            f"nothing in `{home(key)}` for `{key}` {list(shape)}" for key, shape in expected.items() if key not in found
        ]
        if not wrong:
            return
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        widths = {"vision": self.vision["cls_token"].shape[-1], "language": width}
        if self.qformer:
            widths["qformer"] = self.qformer["query_tokens"].shape[-1]
        read = "; ".join(
            f"`{part}` `{path}`" + (f", {widths[part]} wide" if part in widths else "")
            for part, path in self.files.needed.items()
        )
        raise MiniGPT4FileError(
            f"the files are not those of one MiniGPT-4 of flavor `{self.files.flavor}`: {'; '.join(wrong[:4])}{more}. "
            f"They are {read}"
        )


def _rows(weights: Weights, key: str) -> int:
    """Return the number of rows of a weight, or 1 where it is missing, which is found out when shapes are compared."""
    return int(weights[key].shape[0]) if key in weights else 1
