"""How MiniGPT-4 is asked: its chat formats, its way of making tokens of them, and where its answers end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from kedit.models.original_processor import OriginalProcessor

PICTURE = "<ImageHere>"
"""What stands for a picture in a prompt."""
SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)
"""What the original demo says before every question."""
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
PAD = "$$"
"""The original pads with this entry of the vocabulary."""


@dataclass(frozen=True)
class Flavor:
    """One of the published kinds of MiniGPT-4: whether it has a Q-Former, and how a question is put to it."""

    has_qformer: bool
    question: str
    """What follows the system text, with `{}` where the question goes."""


FLAVORS: Mapping[str, Flavor] = MappingProxyType(
    {
        "vicuna": Flavor(has_qformer=True, question="###Human: {}###Assistant: "),
        "llama2": Flavor(has_qformer=False, question="<s>[INST] {} [/INST] "),
    }
)
"""Vicuna-v0 with a Q-Former, and Llama-2-chat without."""


@dataclass(frozen=True, eq=False)
class Ending:
    """Where an answer ends and where it begins, if the model writes the marks of a turn itself."""

    tokenizer: Any
    stop: str = "###"
    speaker: str = "Assistant:"

    def criterion(self, n_prompt: int) -> Callable[..., Tensor]:
        """Return a stopping criterion of `generate`: which rows have written `stop` behind their prompt."""

        def reached(tokens: Tensor, _scores: Any, **_options: Any) -> Tensor:
            # Every token of the mark has at least one of its characters.
            tails = tokens[:, max(n_prompt, tokens.shape[1] - len(self.stop)) :].tolist()
            return torch.tensor([self.stop in self._decode(tail) for tail in tails], device=tokens.device)

        return reached

    def trimmed(self, tokens: Tensor) -> Tensor:
        """Return `[pos]`: what is written between the last `speaker` and `stop`, then the mark of an end to the end."""
        answer = tokens.tolist()
        end = self._until(answer, self.stop)
        while end < len(answer) and end and self._decode(answer[:end]).endswith(self.stop[0]):
            end -= 1
        start = self._past(answer[:end], self.speaker)
        kept = torch.full_like(tokens, int(self.tokenizer.eos_token_id))
        kept[: end - start] = tokens[start:end]
        return kept

    def _until(self, answer: Sequence[int], mark: str) -> int:
        """Return how many tokens come before the one that completes the first `mark`; all where there is none."""
        if mark not in self._decode(answer):
            return len(answer)
        return next(n for n in range(len(answer)) if mark in self._decode(answer[: n + 1]))

    def _past(self, answer: Sequence[int], mark: str) -> int:
        """Return how many tokens there are up to the end of the last `mark`; none where there is none."""
        found = self._decode(answer).count(mark)
        if not found:
            return 0
        return next(n for n in range(len(answer) + 1) if self._decode(answer[:n]).count(mark) == found)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@dataclass(frozen=True, eq=False)
class MiniGPT4Processor(OriginalProcessor):
    """MiniGPT-4's: pictures scaled to the vision tower's square, whatever their shape.

    Each piece of text between pictures is made tokens of on its own, as in the original: the piece behind a picture
    begins with the tokenizer's mark of a word, which it would not if the prompt were taken as a whole.
    """

    flavor: Flavor
    image_token_id: int
    n_image_tokens: int
    system: str = SYSTEM
    family: ClassVar[str] = "MiniGPT-4"
    image_token: ClassVar[str] = PICTURE

    @property
    def chat_template(self) -> str:
        """The chat format, with `{}` where the question goes."""
        return self.system + self.flavor.question

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, tokenize: bool = False
    ) -> str:
        """Return the prompt for one question, with or without pictures.

        Args:
            conversation: One message of the user, with its content as a list of pictures and texts.
            add_generation_prompt: Must be true: the format ends with the mark of an answer.
            tokenize: Must be false: tokens need the pictures.
        """
        content = self.content(conversation, add_generation_prompt=add_generation_prompt, tokenize=tokenize)
        said = [f"<Img>{PICTURE}</Img>" if one["type"] == "image" else str(one["text"]) for one in content]
        return self.system + self.flavor.question.replace("{}", " ".join(said))

    def ids(self, prompt: str) -> list[int]:
        """Return the token ids of one prompt, with the image token where each position of a picture goes."""
        first, *rest = (
            list(self.tokenizer(piece, add_special_tokens=number == 0).input_ids)
            for number, piece in enumerate(prompt.split(PICTURE))
        )
        picture = [self.image_token_id] * self.n_image_tokens
        return first + [token for piece in rest for token in (*picture, *piece)]
