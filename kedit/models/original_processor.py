"""What makes prompts and pictures a batch for a model whose authors published no processor of transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor


@dataclass(frozen=True, eq=False)
class OriginalProcessor:
    """Makes a batch as a processor of transformers does; a family says what it is asked and how text becomes tokens."""

    tokenizer: Any
    image_processor: Any
    family: ClassVar[str]
    image_token: ClassVar[str]
    """What stands for a picture in a prompt."""

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
            text: Prompts, in which `image_token` stands for each picture.
            images: The pictures of all prompts, in order.
            padding: Must be true unless all prompts have the same length.
            padding_side: `left` or `right`.
            return_tensors: Must be `pt`.

        Raises:
            ValueError: There are not as many pictures as places for them.
        """
        places = sum(one.count(self.image_token) for one in text)
        if places != len(images):
            raise ValueError(
                f"the prompts have {places} places for a picture (`{self.image_token}`), got {len(images)} pictures"
            )
        if return_tensors != "pt":
            raise ValueError(f"{self.family}'s prompts become tensors; give `return_tensors='pt'`")
        padded = self.tokenizer.pad(
            {"input_ids": [self.ids(one) for one in text]},
            padding=padding, padding_side=padding_side, return_tensors="pt",
        )  # fmt: skip
        batch = {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
        return batch | ({"pixel_values": self.pixels(images)} if len(images) else {})

    def ids(self, prompt: str) -> list[int]:
        """Return the token ids of one prompt, with the image token where each position of a picture goes."""
        raise NotImplementedError

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """Return the pictures as the image processor scales and normalizes them."""
        in_color = [one.convert("RGB") for one in images]
        read: Tensor = self.image_processor(images=in_color, return_tensors="pt").pixel_values
        return read

    def content(
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, tokenize: bool
    ) -> list[Mapping[str, Any]]:
        """Return the pictures and texts of the one message that there may be; a ValueError says what is not known."""
        if len(conversation) != 1 or not add_generation_prompt or tokenize:
            raise ValueError(
                f"{self.family} is asked one question at a time, as text, up to the answer; got {len(conversation)} "
                f"messages, `add_generation_prompt={add_generation_prompt}`, `tokenize={tokenize}`"
            )
        return list(conversation[0]["content"])
