"""How GILL is asked: how a prompt becomes tokens, and where its answers end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

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
class GILLProcessor:
    """Makes a batch of prompts and pictures, as a processor of transformers does.

    Each piece of text between pictures is made tokens of on its own, and the first one has the mark of a beginning, as
    in the original.
    """

    tokenizer: Any
    image_processor: Any
    n_image_tokens: int

    @property
    def image_token(self) -> str:
        """What stands for a picture in a prompt."""
        return PICTURE

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
        if len(conversation) != 1 or not add_generation_prompt or tokenize:
            raise ValueError(
                f"GILL is asked one question at a time, as text, up to the answer; got {len(conversation)} messages, "
                f"`add_generation_prompt={add_generation_prompt}`, `tokenize={tokenize}`"
            )
        return "".join(PICTURE if one["type"] == "image" else str(one["text"]) for one in conversation[0]["content"])

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Image] = (),
        *,
        padding: bool = True,
        padding_side: str = "left",
        return_tensors: str = "pt",
    ) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, `[batch, pos]`, and `pixel_values`, `[picture, 3, side, side]`.

        Args:
            text: Prompts, in which `<|image|>` stands for each picture.
            images: The pictures of all prompts, in order.
            padding: Must be true unless all prompts have the same length.
            padding_side: `left` or `right`.
            return_tensors: Must be `pt`.

        Raises:
            ValueError: There are not as many pictures as places for them.
        """
        places = sum(one.count(PICTURE) for one in text)
        if places != len(images):
            raise ValueError(
                f"the prompts have {places} places for a picture (`{PICTURE}`), got {len(images)} pictures"
            )
        made = self.tokenizer.pad(
            {"input_ids": [self.ids(one) for one in text]},
            padding=padding, padding_side=padding_side, return_tensors=return_tensors,
        )  # fmt: skip
        read = {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
        return read | ({"pixel_values": self.pixels(images)} if len(images) else {})

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

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Return the pictures as CLIP reads them: the middle square, scaled and normalized."""
        in_color = [one.convert("RGB") for one in images]
        read: Tensor = self.image_processor(images=in_color, return_tensors="pt").pixel_values
        return read
