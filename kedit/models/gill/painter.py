"""A Stable Diffusion of diffusers that paints what GILL tells it in place of a text."""

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.arguments import require_count
from kedit.models import placing

ASKED_FOR_MORE = frozenset({"image", "mask_image", "pooled_prompt_embeds", "prompt_embeds_2", "control_image"})
"""What pipelines that do not paint from the embeddings of one text encoder alone can be given."""


class PainterError(ValueError):
    """There is no pipeline to paint with, or it cannot paint what it is told."""


@dataclass(frozen=True)
class Painter:
    """The pipeline in a folder, read when the first picture is painted."""

    folder: Path
    steps: int = 50
    guidance: float = 7.5
    """How strongly it is told; at most 1 is without guidance. Against it stands the empty text, as in the original."""
    device: str = "auto"
    dtype: str = "auto"
    """auto is float16, the original's, on a GPU and float32 on the CPU."""
    gradient_steps: int = 4
    """Through how many of the last steps a gradient goes; earlier ones are painted alike, without it."""

    def __post_init__(self) -> None:
        require_count(self.steps, "steps", 1)
        require_count(self.gradient_steps, "gradient_steps", 1)
        placing.data_type(self.dtype)
        if not (self.folder / "model_index.json").is_file():
            raise FileNotFoundError(
                f"`diffusion` `{self.folder}` is no pipeline of diffusers: it has no `model_index.json`; give that "
                "of a Stable Diffusion, or none: only drawing needs it"
            )

    def paint(self, conditioning: Tensor, seed: int) -> Image:
        """Return one picture.

        Args:
            conditioning: In place of the text encoder's states: `[query, feature]`.
            seed: Of the noise that it begins with, which is made on the CPU, so that all devices begin with the same.

        Raises:
            PainterError: The pipeline reads states of another width, or withheld the picture.
        """
        painted = self.pipeline(**self._request(conditioning, seed))
        if any(getattr(painted, "nsfw_content_detected", None) or ()):
            raise PainterError(
                f"the safety checker of `{self.folder}` withheld the picture; remove `safety_checker` from its "
                "`model_index.json` if you mean to see it"
            )
        picture: Image = painted.images[0]
        return picture

    def paint_with_graph(self, conditioning: Tensor, seed: int) -> Tensor:
        """Return the picture that `paint` returns, with a graph: `[channel, height, width]`, 0 to 1.

        The graph goes through the last `gradient_steps` steps of the diffusion. Each step is computed again for its
        gradient (checkpointing): a further one costs what its blocks hand on, not what they compute.

        Raises:
            PainterError: The pipeline reads states of another width.
        """
        pipeline, first = self.pipeline, self.steps - self.gradient_steps
        wanted, told = torch.is_grad_enabled(), conditioning.to(self.pipeline.device, self.pipeline.dtype)

        def begin(_pipeline: Any, step: int, _timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
            if step + 1 == first:
                torch.set_grad_enabled(wanted)
                # What guides away from the empty text stands before it, if anything does.
                given["prompt_embeds"] = torch.cat([given["prompt_embeds"][:-1], told[None]])
            return given

        with _recomputing(pipeline.unet), _recomputing(pipeline.vae):
            with torch.set_grad_enabled(wanted and first <= 0):
                # The pipeline's own call without its `torch.no_grad`.
                call = inspect.unwrap(type(pipeline).__call__)
                latents = call(
                    pipeline, **self._request(conditioning, seed), output_type="latent", callback_on_step_end=begin,
                    callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
                ).images  # fmt: skip
            painted: Tensor = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample[0]
        return (painted / 2 + 0.5).clamp(0, 1)

    def _request(self, conditioning: Tensor, seed: int) -> dict[str, Any]:
        """Return what the pipeline is called with, or raise a PainterError where it reads states of another width."""
        width = int(self.pipeline.unet.config.cross_attention_dim)
        if conditioning.shape[-1] != width:
            raise PainterError(
                f"GILL tells {conditioning.shape[-1]} features, and the UNet of `{self.folder}` reads {width}: it is "
                "another Stable Diffusion than GILL was trained for (1.5 and its kin read 768)"
            )
        return {
            "prompt_embeds": conditioning[None].to(self.pipeline.device), "num_inference_steps": self.steps,
            "guidance_scale": self.guidance, "generator": torch.Generator("cpu").manual_seed(seed),
        }  # fmt: skip

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline of diffusers."""
        from safetensors import SafetensorError

        kind, where = self._kind(), placing.device(self.device)
        dtype = placing.data_type(self.dtype) or (torch.float32 if where.type == "cpu" else torch.float16)
        try:
            read = kind.from_pretrained(self.folder, dtype=dtype, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise PainterError(f"the pipeline `{self.folder}` cannot be loaded: {reason}") from error
        read.set_progress_bar_config(disable=True)
        for part in read.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        return read.to(where)

    def _kind(self) -> Any:
        """Return the class of the pipeline, or raise where it does not paint from embeddings, or has foreign parts."""
        import diffusers
        from diffusers import pipelines

        index = json.loads((self.folder / "model_index.json").read_text(encoding="utf-8"))
        named = str(index.get("_class_name"))
        kind = getattr(diffusers, named, None) if named in dir(diffusers) else None
        takes = set() if kind is None else set(inspect.signature(kind.__call__).parameters)
        if "prompt_embeds" not in takes or takes & ASKED_FOR_MORE:
            raise PainterError(
                f"`{self.folder}` is a `{named}`, which does not paint from the states of one text encoder; give a "
                "`StableDiffusionPipeline`, such as Stable Diffusion 1.5"
            )
        for name, part in index.items():
            library = part[0] if isinstance(part, list) and part else None
            if library not in (None, "diffusers", "transformers") and not hasattr(pipelines, str(library)):
                raise PainterError(f"the part `{name}` of `{self.folder}` is of `{library}`, whose code is not run")
        return kind


@contextmanager
def _recomputing(network: Any) -> Iterator[None]:
    """Let a network of diffusers compute its blocks again for a gradient rather than hold what they computed."""
    network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        network.disable_gradient_checkpointing()
