"""What a model is asked: a text, alone or with a picture, a video or a sound."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from kedit.arguments import require

Medium = Literal["text", "image", "video", "audio"]
"""What a prompt holds beside its text; `text` for nothing."""


@dataclass(frozen=True, eq=False)
class Video:
    """Pictures in the order of time, all of one size."""

    frames: tuple[Image, ...]
    rate: float = 1.0
    """Frames a second."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", tuple(self.frames))
        sizes = {frame.size for frame in self.frames}
        if len(sizes) != 1:
            raise ValueError(f"the frames of a video have one size, got {sorted(sizes) or 'no frame'}")
        if not 0 < self.rate < float("inf"):
            raise ValueError(f"the rate of a video is frames a second, above 0, got {self.rate}")


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording with one channel."""

    wave: NDArray[np.float32]
    """`[time]`, from -1 to 1."""
    rate: int
    """Samples a second."""

    def __post_init__(self) -> None:
        if self.wave.ndim != 1 or not len(self.wave):
            raise ValueError(f"a sound is [time] with one channel, got shape {self.wave.shape}")
        if not np.isfinite(self.wave).all():
            raise ValueError("a sound is finite, got NaN or infinity")
        if self.rate <= 0:
            raise ValueError(f"the rate of a sound is samples a second, above 0, got {self.rate}")


@dataclass(frozen=True, eq=False)
class Prompt:
    """One question to a model, with at most one picture, video or sound, which comes before the text."""

    text: str
    image: Image | None = None
    video: Video | None = None
    sound: Sound | None = None

    def __post_init__(self) -> None:
        require(self.text, str, "text", "what a model is asked")
        for name, kind, expected in (
            ("image", Image, "a picture of Pillow"),
            ("video", Video, "a `Video`"),
            ("sound", Sound, "a `Sound`"),
        ):
            require(getattr(self, name), (kind, type(None)), name, expected)
        given = [name for name in ("image", "video", "sound") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a prompt has at most one of image, video and sound, got {' and '.join(given)}")

    @property
    def medium(self) -> Medium:
        """What the prompt holds beside its text."""
        if self.image is not None:
            return "image"
        if self.video is not None:
            return "video"
        return "text" if self.sound is None else "audio"


def as_prompts(given: Prompt | str | Sequence[Prompt | str]) -> list[Prompt]:
    """Return prompts as a list, given one or several, or texts; a TypeError says that something is neither."""
    if isinstance(given, Prompt | str):
        given = [given]
    require(given, Sequence, "prompts", "a list of `Prompt` or of texts")
    for one in given:
        require(one, (Prompt, str), "prompts", "a list of `Prompt` or of texts")
    return [Prompt(one) if isinstance(one, str) else one for one in given]


def batches(prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """Return the places of the prompts in batches of one medium, of at most `size`."""
    chunks = []
    for medium in dict.fromkeys(one.medium for one in prompts):
        places = [place for place, one in enumerate(prompts) if one.medium == medium]
        chunks += [places[start : start + size] for start in range(0, len(places), size)]
    return chunks
