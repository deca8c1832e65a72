"""A model as the checks see it: two prompts, their logits and what is generated. All access to a model is here."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kedit.doctor.comparison import gap, rounding
from kedit.doctor.finding import NotApplicableError
from kedit.doctor.state import State
from kedit.internals.sites import Site
from kedit.models.mllm import MLLM, MODALITIES, TeacherForced
from kedit.models.special_tokens import MARKED, medium_token
from kedit.neurons import NeuronId, NeuronSet
from kedit.prompts import Medium, Prompt, Sound

N_NEW = 5
"""How many tokens the checks generate."""
MEDIA: tuple[Medium, ...] = ("image", "audio")
"""What the checks try, in this order; a model that takes neither is asked in text alone."""
WARM, COOL = ((255, 0, 0), (255, 160, 0), (255, 255, 0)), ((0, 0, 255), (0, 200, 255), (0, 160, 0))
"""The colors of the two test pictures."""
BLOCK, BLOCKS = 56, 4
"""Test pictures are blocks of one color each, so many pixels wide, so many in a row."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """What was generated, step by step."""

    logits: Tensor
    """`[step, row, vocab]`, of the model itself; with beams, a row for each."""
    chosen: Tensor
    """`[step, row]`: the most likely token of those that may be said."""
    tokens: Tensor
    """`[sample, step]`: what was written in the end."""
    scores: Tensor | None
    """`[sample]`: the log-probability of what was written, with beams."""


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model under examination. What several checks need is computed once."""

    model: MLLM

    @property
    def module(self) -> nn.Module:
        """The model's module."""
        return self.model.module

    @cached_property
    def before(self) -> State:
        """What the model was when this was first asked for, which is before the first check."""
        return State.of(self.module)

    @cached_property
    def site(self) -> Site:
        """Where the language model's neurons live; a SiteError says why nowhere."""
        return self.model.site("mid")

    @cached_property
    def tolerance(self) -> float:
        """How far apart logits may lie by rounding, as a share of the largest."""
        return rounding(self.module)

    @cached_property
    def medium(self) -> Medium:
        """What the model takes beside text: a picture if it can, else a sound, else nothing."""
        known = getattr(self.model, "media", None)
        if known is not None:
            return next((one for one in MEDIA if one in known), "text")
        processor = getattr(self.model, "processor", None)
        if getattr(processor, "image_processor", None) is not None:
            return "image"
        return "audio" if getattr(processor, "feature_extractor", None) is not None else "text"

    @cached_property
    def prompts(self) -> tuple[Prompt, Prompt]:
        """Two prompts of different length, each with a picture or sound of its own where the model takes one."""
        asked = getattr(self.model, "prompt", None) or "What is this ?"
        mask = getattr(self._tokenizer, "mask_token", None)
        end = f" {mask}" if mask and not self.generates else ""
        return self._prompt(asked + end, 0), self._prompt(f"{asked} {asked}{end}", 1)

    @cached_property
    def batch(self) -> TeacherForced:
        """Both prompts, the first one padded."""
        return self.model.read(self.prompts, [(), ()])

    def row(self, number: int) -> TeacherForced:
        """Return one of the prompts in a batch of its own."""
        return self.model.read([self.prompts[number]], [()])

    @cached_property
    def swapped(self) -> TeacherForced:
        """Both prompts, each with the other's picture or sound."""
        self.needs_medium()
        return self.model.read([self._prompt(one.text, 1 - n) for n, one in enumerate(self.prompts)], [(), ()])

    @torch.no_grad()
    def logits(self, batch: TeacherForced | None = None) -> Tensor:
        """Return the logits of the next word, `[row, 1, vocab]`, after both prompts or another batch."""
        return _numbers(self.model.logits(self.batch if batch is None else batch))

    @cached_property
    def plain(self) -> Tensor:
        """The logits of both prompts, nothing edited."""
        return self.logits()

    @cached_property
    def noise(self) -> float:
        """How far two runs on the same prompts lie apart: 0, unless the model is not deterministic."""
        return gap(self.plain, self.logits())

    @cached_property
    def everything(self) -> NeuronSet:
        """All neurons of the language model."""
        return self._neurons(step=1)

    @cached_property
    def every_second(self) -> NeuronSet:
        """Half of the neurons, so that an edit changes what is said and leaves something to say."""
        return self._neurons(step=2)

    def needs_medium(self) -> None:
        """Raise unless the model takes pictures or sounds."""
        if self.medium == "text":
            raise NotApplicableError("the model reads text alone")

    @property
    def generates(self) -> bool:
        """Whether the model generates text, rather than completing masks."""
        can = getattr(self.module, "can_generate", None)
        return callable(getattr(self.module, "generate", None)) and (can is None or bool(can()))

    def needs_generation(self) -> None:
        """Raise unless the model generates text."""
        if not self.generates:
            raise NotApplicableError("the model generates no text")

    def has_position_of(self, modality: str) -> bool:
        """Return whether the prompts have positions of `modality`."""
        return bool((self.batch.modalities == MODALITIES.index(modality)).any())

    @torch.no_grad()
    def generate(self, **options: Any) -> Spoken:
        """Return what the model generates after both prompts, greedily unless `options` of transformers differ."""
        settings: dict[str, Any] = {
            "do_sample": False, "num_beams": 1, "min_new_tokens": N_NEW, "max_new_tokens": N_NEW,
            "pad_token_id": self._padding, "disable_compile": True, "suppress_tokens": self._unsayable or None,
            "output_logits": True, "output_scores": True, "return_dict_in_generate": True,
        }  # fmt: skip
        generator: Any = self.module
        out = generator.generate(**self.batch.inputs, **(settings | options))
        steps = len(out.logits)
        chosen = torch.stack([scores.argmax(-1) for scores in out.scores])
        scores = out.get("sequences_scores")
        return Spoken(_numbers(torch.stack(list(out.logits))), chosen, out.sequences[:, -steps:], scores)

    def _neurons(self, step: int) -> NeuronSet:
        ids = (NeuronId(layer, index) for layer, width in self.site.widths.items() for index in range(0, width, step))
        return NeuronSet(tuple(ids), self.site.name)

    @property
    def _tokenizer(self) -> Any:
        return getattr(self.model, "tokenizer", None)

    @property
    def _padding(self) -> int | None:
        found = getattr(self._tokenizer, "pad_token_id", None)
        return None if found is None else int(found)

    @property
    def _unsayable(self) -> list[int]:
        """The tokens that stand for pictures and the like; an untrained model would say them, and then look for one."""
        found = [medium_token(self.module, medium) for medium in MARKED]
        return [one for one in found if one is not None]

    def _prompt(self, text: str, number: int) -> Prompt:
        if self.medium == "image":
            return Prompt(text, image=picture(number))
        return Prompt(text, sound=self._sound(number)) if self.medium == "audio" else Prompt(text)

    def _sound(self, number: int) -> Sound:
        """Return a second of one of two tones."""
        rate = int(getattr(self.model.processor.feature_extractor, "sampling_rate", 16000))  # type: ignore[attr-defined]
        wave = np.sin(np.arange(rate) * (0.05, 0.2)[number])
        return Sound(wave.astype(np.float32), rate)


def _numbers(logits: Tensor) -> Tensor:
    """Return `logits`, unless there is a NaN among them; they may be infinite, for what is never said."""
    if bool(logits.isnan().any()):
        raise ArithmeticError("the model's logits are NaN; see the check `finite`")
    return logits


def picture(number: int) -> Image.Image:
    """Return picture 0 or 1, of blocks in different colors; none of the one is in the other."""
    drawn = np.random.default_rng(number).integers(0, len(WARM), (BLOCKS, BLOCKS))
    pixels = np.array((WARM, COOL)[number], np.uint8)[drawn]
    return Image.fromarray(pixels.repeat(BLOCK, 0).repeat(BLOCK, 1))
