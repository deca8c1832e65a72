"""How GILL is asked: how a prompt becomes tokens, and where its answers end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from kedit.models.original_processor import OriginalProcessor

PICTURE = "<|image|>"
"""What stands for a picture in a prompt; the original has this token and never reads it."""


def img_names(n: int) -> list[str]:
    """Return the names of the tokens at which GILL draws."""
    return [f"[IMG{number}]" for number in range(n)]


@dataclass(frozen=True, eq=False)
class FirstLine:
    """An answer is its first line, or where there is only one, the first sentence of it, as in the original."""

    tokenizer: Any

    def criterion(self, n_prompt: int) -> Callable[..., Tensor]:
        """Return a stopping criterion of `generate`: which rows have ended a line that is not empty."""

        def reached(tokens: Tensor, _scores: Any, **_options: Any) -> Tensor:
            ended = ["\n" in self._decode(row).lstrip("\n") for row in tokens[:, n_prompt:].tolist()]
            return torch.tensor(ended, device=tokens.device)

        return reached

    def trimmed(self, tokens: Tensor) -> Tensor:
        """Return `[pos]`: the tokens up to the end of the line or sentence, then the mark of an end to the end."""
        answer = tokens.tolist()
        text = self._decode(answer).strip("\n")
        end = text.find("\n") if "\n" in text else text.find(".") + 1
        if end <= 0:
            return tokens
        length = next(n for n in range(len(answer) + 1) if len(self._decode(answer[:n]).lstrip("\n")) >= end)
        kept = torch.full_like(tokens, int(self.tokenizer.eos_token_id))
        kept[:length] = tokens[:length]
        return kept

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


@dataclass(frozen=True, eq=False)
class GILLProcessor(OriginalProcessor):
    """GILL's: the middle square of a picture, as CLIP reads it.

    Each piece of text between pictures is made tokens of on its own, and the first one has the mark of a beginning, as
    in the original.
    """

    n_image_tokens: int
    family: ClassVar[str] = "GILL"
    image_token: ClassVar[str] = PICTURE

    @property
    def chat_template(self) -> str:
        """How a question is written, with `{}` where it goes: GILL knows no chat, it goes on with what it reads."""
        return "{}"

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True, tokenize: bool = False
    ) -> str:
        """Return the prompt of one message with its pictures and texts one behind the other, as text.

        Args:
            conversation: One message of the user, with its content as a list of pictures and texts.
            add_generation_prompt: Must be true: nothing stands between a prompt and its answer.
            tokenize: Must be false: tokens need the pictures.
        """
        content = self.content(conversation, add_generation_prompt=add_generation_prompt, tokenize=tokenize)
        return "".join(PICTURE if one["type"] == "image" else str(one["text"]) for one in content)

    def ids(self, prompt: str) -> list[int]:
        """Return the token ids of one prompt, with the image token where each position of a picture goes."""
        found: list[int] = []
        begun = False
        for number, piece in enumerate(prompt.split(PICTURE)):
            if number:
                found += [self.tokenizer.convert_tokens_to_ids(PICTURE)] * self.n_image_tokens
            if piece:
                found += self.tokenizer(piece, add_special_tokens=not begun).input_ids
                begun = True
        return found or [int(self.tokenizer.bos_token_id)]
