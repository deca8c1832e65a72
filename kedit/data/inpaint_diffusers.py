"""Regions repainted by a diffusion model: any inpainting pipeline of diffusers."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kedit.data.inpaint import Pixels, check_dilation, filled, mean_outside, painted, region_of
from kedit.data.inpaint_cache import cached, versions
from kedit.data.inpaint_pipeline import files_digest, load_pipeline, pipeline_class, pipeline_folder, quiet
from kedit.data.pictures import SampleError
from kedit.samples import Concept, Counterfactual, Mask, Sample

logger = logging.getLogger(__name__)

REPAINT = "RePaintPipeline"
"""The one that repaints where the mask is black, and cuts pictures to multiples of 32 pixels."""
FAR = 32
"""A picture of one color that is nowhere more than this many levels off what was shown may be right."""


@dataclass(frozen=True)
class DiffusersFill:
    """The region painted by a pipeline of diffusers.

    The pipeline is loaded for the first picture that is not in the cache, and let go by `release`. It is shown the
    region in the mean color of the rest, so that nothing of the object can come back, at no strength and through no
    resizing. What it returns is cut to the region. The noise of a picture depends on `seed` and the sample's id alone:
    neither on the order of the samples nor on the device.
    """

    path: str
    """The pipeline's folder, the name of a shipped one, or an id on the hub."""
    pipeline: str | None = None
    """The name of the class in diffusers, such as FluxFillPipeline; None takes the one that fits the folder."""
    prompt: str = ""
    """What to paint; `{concept}` stands for the concept's name."""
    negative_prompt: str | None = None
    """What not to paint, likewise."""
    steps: int | None = None
    """Denoising steps; None leaves this and the next two to the pipeline."""
    guidance: float | None = None
    """How strongly the prompt guides."""
    strength: float | None = None
    """Above 0 to 1: how much noise painting starts from; below 1 the mean color shows through."""
    side: int | None = None
    """The longer side, in pixels, at which to paint, such as the one that the pipeline was trained at; None keeps the
    picture's. Both are rounded to what the pipeline can paint."""
    seed: int = 0
    """What the noise starts from."""
    device: str = "auto"
    """Where to paint: cpu, cuda, cuda:1, ...; auto takes an accelerator if there is one."""
    dtype: str = "auto"
    """float32, bfloat16 or float16; auto is float32 on the CPU and bfloat16 elsewhere."""
    variant: str | None = None
    """Which of several sets of weights in the folder, such as fp16."""
    download: bool = False
    """Whether a pipeline may be fetched from the hub; otherwise its cache is searched."""
    dilation: int = 2
    """By how many pixels the region is grown first."""
    control: bool = False
    """Whether to make a control picture too; see `kedit.data.control_region`."""
    cache: str | None = "~/.cache/kedit"
    """The folder in which results are kept; None for none."""

    def __post_init__(self) -> None:
        check_dilation(self.dilation)
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise ValueError(f"`dtype` is auto, float32, bfloat16 or float16, got {self.dtype!r}")
        for name, least in (("steps", 1), ("side", 16)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(f"`{name}` is a whole number, {least} or more, or null; got {value!r}")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"`strength` is above 0 and at most 1, or null; got {self.strength}")

    def __call__(self, sample: Sample, concept: Concept) -> Counterfactual:
        """Return the repainted picture, in RGB; outside the grown region no pixel changes.

        Raises:
            SampleError: The pipeline's safety checker withheld the picture, or what came back is of one color.
            ValueError: There is no such pipeline, or it does not take what is set.
        """
        region = region_of(sample, concept, self.dilation)

        def fill(pixels: NDArray[np.uint8], region: Mask) -> Pixels:
            return self._fill(pixels, region, sample.id, concept.name)

        def about() -> Mapping[str, Any]:
            return self._about(sample.id, concept.name)

        return painted(sample, concept, region, cached(self.cache, about, fill), control=self.control)

    def release(self) -> None:
        """Let the pipeline go; the next picture that is not in the cache loads it again."""
        import gc

        import torch

        if self.__dict__.pop("_loaded", None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _fill(self, pixels: NDArray[np.uint8], region: Mask, name: str, concept: str) -> Pixels:
        """Return what the pipeline makes of the picture, at the picture's size: `[height, width, 3]`."""
        shown = filled(pixels, region, mean_outside(pixels, region))
        size = self._size(shown.size)
        mask = _resized_mask(region, size)
        if self._kind.__name__ == REPAINT:
            mask = ~mask
        inputs = {
            "image": shown.resize(size, Image.Resampling.LANCZOS),
            "mask_image": Image.fromarray(mask.astype(np.uint8) * 255),
            # A pipeline that paints by example gets the surroundings as the example.
            "example_image": shown,
            "width": size[0],
            "height": size[1],
        }
        takes = self._takes
        given = {key: value for key, value in inputs.items() if key in takes} | self._texts(concept) | self._settings
        with quiet():
            output = self._loaded(**given, generator=_noise(self.seed, name), output_type="np")
        made = _checked(output, np.asarray(inputs["image"]), name)
        return np.asarray(made.resize(shown.size, Image.Resampling.LANCZOS)).astype(np.float64)

    @cached_property
    def _folder(self) -> Path:
        return pipeline_folder(self.path, download=self.download)

    @cached_property
    def _kind(self) -> type[Any]:
        return pipeline_class(self._folder, self.pipeline)

    @cached_property
    def _digest(self) -> str:
        return files_digest(self._folder)

    @cached_property
    def _loaded(self) -> Any:
        device, dtype = self._place
        pipeline = load_pipeline(self._folder, self._kind, device=device, dtype=dtype, variant=self.variant)
        logger.info("inpainting with `%s` (%s) on %s in %s", self.path, type(pipeline).__name__, device, dtype)
        return pipeline

    @cached_property
    def _takes(self) -> frozenset[str]:
        """The names of what the pipeline can be given."""
        import inspect

        return frozenset(inspect.signature(self._kind.__call__).parameters)

    @cached_property
    def _place(self) -> tuple[str, str]:
        """The device and the dtype."""
        import torch

        device = self.device
        if device == "auto":
            accelerator = torch.accelerator.current_accelerator(check_available=True)
            device = accelerator.type if accelerator else "cpu"
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"cannot paint on the device `{device}`: {str(error).splitlines()[0]}") from error
        automatic = "float32" if device.startswith("cpu") else "bfloat16"
        return device, automatic if self.dtype == "auto" else self.dtype

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """What is set, under the names that pipelines have for it; a ValueError if this one does not take it."""
        options = {"steps": "num_inference_steps", "guidance": "guidance_scale", "strength": "strength"}
        given = {key: getattr(self, key) for key in options if getattr(self, key) is not None}
        given |= {key: text for key in ("prompt", "negative_prompt") if (text := getattr(self, key))}
        lost = [key for key in given if options.get(key, key) not in self._takes]
        if lost:
            raise ValueError(
                f"`{self._kind.__name__}` takes no `{options.get(lost[0], lost[0])}`; leave out `inpaint.{lost[0]}`"
            )
        return {options[key]: value for key, value in given.items() if key in options}

    def _texts(self, concept: str) -> dict[str, str]:
        """Return the prompts, where the pipeline takes them."""
        texts = {"prompt": self.prompt, "negative_prompt": self.negative_prompt}
        return {
            key: text.replace("{concept}", concept)
            for key, text in texts.items()
            if text is not None and key in self._takes
        }

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) to paint at."""
        # A transformer cuts the latents, which are an eighth of the picture, into patches of two.
        multiple = 32 if self._kind.__name__ == REPAINT else 8 if hasattr(self._loaded, "unet") else 16
        scale = 1.0 if self.side is None else self.side / max(size)
        width, height = (max(multiple, round(length * scale / multiple) * multiple) for length in size)
        return width, height

    def _about(self, name: str, concept: str) -> dict[str, Any]:
        """Return what a filling depends on besides picture and region; finding that out imports no diffusers."""
        device, dtype = self._place
        settings = ("pipeline", "variant", "steps", "guidance", "strength", "side")
        texts = (self.prompt, self.negative_prompt)
        return {
            "method": "diffusers",
            "files": self._digest,
            **{key: getattr(self, key) for key in settings},
            "texts": [None if text is None else text.replace("{concept}", concept) for text in texts],
            "noise": [self.seed, name],
            "device": device.partition(":")[0],
            "dtype": dtype,
            "versions": versions("torch", "diffusers", "transformers", "pillow"),
        }


def _noise(seed: int, name: str) -> Any:
    """Return the generator of a picture's noise, on the CPU, so that all devices start from the same."""
    import torch

    number = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7])
    return torch.Generator("cpu").manual_seed(number)


def _resized_mask(region: Mask, size: tuple[int, int]) -> Mask:
    """Return the region at another (width, height): every pixel that any of it falls on."""
    picture = Image.fromarray(region.astype(np.uint8) * 255)
    if size == picture.size:
        return region
    return np.array(picture.resize(size, Image.Resampling.BILINEAR)) > 0


def _checked(output: Any, shown: NDArray[np.uint8], name: str) -> Image.Image:
    """Return the picture in `output`; a SampleError if it is none."""
    made = np.asarray(output.images[0], dtype=np.float64) * 255
    flagged = getattr(output, "nsfw_content_detected", None)
    if flagged is not None and np.any(flagged):
        raise SampleError("withheld_by_safety_checker", f"`{name}`: the pipeline's safety checker withheld the picture")
    if not np.isfinite(made).all():
        raise SampleError(
            "blank_counterfactual", f"`{name}`: the pipeline returned no numbers; try `inpaint.dtype=float32`"
        )
    levels = np.rint(made).clip(0, 255).astype(np.uint8)
    color = levels[0, 0]
    far = levels.shape != shown.shape or np.abs(color.astype(int) - shown).max() > FAR
    if (levels == color).all() and far:
        raise SampleError("blank_counterfactual", f"`{name}`: the pipeline returned one color, {color.tolist()}")
    return Image.fromarray(levels)
