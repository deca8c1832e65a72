"""What the families that draw code by code differ in: their codes, the head that scores them, their VQ tokenizer."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.models import chat
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.prompts import Prompt


class Family(Protocol):
    """What the families differ in."""

    @property
    def grid(self) -> tuple[int, int]:
        """The rows and columns of cells."""
        ...

    @property
    def codebook(self) -> int:
        """How many codes there are."""
        ...

    @property
    def guidance(self) -> float:
        """How strongly a drawing follows its prompt where nothing else is asked for."""
        ...

    @property
    def row_end(self) -> int | None:
        """The token that ends each row of codes; None where the rows follow each other."""
        ...

    @property
    def placeholder(self) -> int:
        """The token that stands for a piece of a picture."""
        ...

    @property
    def language(self) -> Any:
        """The language model without a head."""
        ...

    @property
    def unembedding(self) -> Tensor | None:
        """The rows that score the codes, `[code, d_model]`; None where the head is not linear."""
        ...

    def write(self, prompts: Sequence[str], *, unconditional: bool) -> tuple[Tensor, Tensor]:
        """Return the prompts up to where the first code is predicted, padded on the left: tokens and mask."""
        ...

    def embed(self, codes: Tensor) -> Tensor:
        """Return what the language model reads of codes: `[..., d_model]`."""
        ...

    def score(self, states: Tensor) -> Tensor:
        """Return the logits of the next code: `[..., code]`."""
        ...

    def pixels(self, codes: Tensor) -> Tensor:
        """Return pictures as the processor scales them."""
        ...

    def codes(self, images: list[Image]) -> Tensor:
        """Return the codes of pictures, `[n, cell]`."""
        ...


JANUS_GUIDANCE = 5.0
"""That of the original's `generation_inference.py`, where a checkpoint asks for none."""


class Janus:
    """Janus and Janus-Pro: a head of its own scores the codes, and maps of its own read them again."""

    row_end = None
    unembedding = None

    def __init__(self, model: HuggingFaceMLLM) -> None:
        module: Any = model.module
        self.model, self.inner, self.language = model, module.model, module.model.language_model
        self.guidance = float(getattr(module.generation_config, "guidance_scale", None) or JANUS_GUIDANCE)
        """What the checkpoint's generation configuration asks for."""
        side = module.config.vq_config.num_patches
        self.grid, self.codebook = (side, side), int(module.config.vq_config.num_embeddings)
        self.placeholder = int(module.config.image_token_id)

    def write(self, prompts: Sequence[str], *, unconditional: bool) -> tuple[Tensor, Tensor]:
        """Return the prompts in the chat format, to the token that begins a picture; then those without words."""
        model, tokenizer = self.model, self.model.tokenizer
        texts = [chat.render(model.processor, Prompt(one), model.template) for one in prompts]
        how = {"add_special_tokens": False} if chat.begins_itself(model.processor, texts[0], model.template) else {}
        encoded = model.processor(
            text=texts, generation_mode="image", padding=True, padding_side="left", return_tensors="pt", **how
        )
        ids, mask = (encoded[key].to(model.device) for key in ("input_ids", "attention_mask"))
        if not unconditional:
            return ids, mask
        marks = torch.tensor([tokenizer.bos_token_id, tokenizer.boi_token_id], device=ids.device)
        empty = ids.masked_fill(~torch.isin(ids, marks), tokenizer.pad_token_id)
        return torch.cat([ids, empty]), mask.repeat(2, 1)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the embeddings of codes, `[..., d_model]`."""
        embedded: Tensor = self.inner.generation_aligner(self.inner.generation_embeddings(codes))
        return embedded

    def score(self, states: Tensor) -> Tensor:
        """Return the logits of the next code: `[..., code]`."""
        scores: Tensor = self.inner.generation_head(states)
        return scores

    def pixels(self, codes: Tensor) -> Tensor:
        """Return pictures, `[n, channel, height, width]`."""
        decoded: Tensor = self.inner.vqmodel.decode(codes)
        return decoded

    def codes(self, images: list[Image]) -> Tensor:
        """Return the code of each cell whose entry has the largest cosine with what the encoder says.

        Entries are normalized where pictures are decoded, and so in the original where they are encoded
        (`VectorQuantizer`, `l2_norm`), but not by `encode` of transformers 5.24.
        """
        codec = self.inner.vqmodel
        side = self.grid[0] * 2 ** (len(codec.config.channel_multiplier) - 1)
        seen = self.model.processor.image_processor(
            images, size={"height": side, "width": side}, return_tensors="pt"
        )  # fmt: skip
        pixels = seen["pixel_values"].to(self.model.device, codec.dtype)
        features = nn.functional.normalize(codec.quant_conv(codec.encoder(pixels)).float(), dim=1)
        entries = nn.functional.normalize(codec.quantize.embedding.weight.float(), dim=-1)
        return torch.einsum("ndhw,cd->nhwc", features, entries).argmax(-1).flatten(1)


class Emu3:
    """Emu3: codes are words of the vocabulary, and a word ends each row."""

    guidance = 3.0
    """That of the original's `image_generation.py`. What it guides away from is the empty text."""

    def __init__(self, model: HuggingFaceMLLM) -> None:
        module: Any = model.module
        self.model, self.module, self.language = model, module, module.model.text_model
        processor = model.processor
        height, width = processor.calculate_generate_size(
            processor.ratio, processor.image_area, processor.downsample_ratio
        )
        self.grid = (int(height), int(width))
        mapping = module.vocabulary_mapping
        tokens = [mapping.img2bpe[code] for code in range(len(mapping.img2bpe))]
        self.tokens, self.codebook = torch.tensor(tokens), len(tokens)
        self.row_end, self.placeholder = int(mapping.eol_token_id), int(mapping.image_token_id)

    @cached_property
    def unembedding(self) -> Tensor:
        """The rows of the codes, `[code, d_model]`."""
        weight: Tensor = self.module.lm_head.weight
        return weight[self.tokens.to(weight.device)]

    def write(self, prompts: Sequence[str], *, unconditional: bool) -> tuple[Tensor, Tensor]:
        """Return the prompts as they are, to where a picture begins; then as many empty ones."""
        encoded = self.model.processor(
            text=[*prompts, *([""] * len(prompts) if unconditional else [])], return_for_image_generation=True,
            padding=True, padding_side="left", return_tensors="pt",
        )  # fmt: skip
        return encoded["input_ids"].to(self.model.device), encoded["attention_mask"].to(self.model.device)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the embeddings of the codes' words, `[..., d_model]`."""
        embedded: Tensor = self.module.get_input_embeddings()(self.tokens.to(codes.device)[codes])
        return embedded

    def score(self, states: Tensor) -> Tensor:
        """Return the logits of the next code: `[..., code]`."""
        return nn.functional.linear(states, self.unembedding.to(states.device))

    def pixels(self, codes: Tensor) -> Tensor:
        """Return pictures, `[n, channel, height, width]`."""
        decoded: Tensor = self.module.model.vqmodel.decode(codes.reshape(-1, *self.grid))
        return decoded

    def codes(self, images: list[Image]) -> Tensor:
        """Return the codes of pictures, made as large as the model draws them."""
        codec, scale = self.module.model.vqmodel, self.module.model.vqmodel.spatial_scale_factor
        height, width = (cells * scale for cells in self.grid)
        fitted = [one.resize((width, height)) for one in images]
        pixels = self.model.processor.image_processor(fitted, do_resize=False, return_tensors="pt")["pixel_values"]
        seen = codec.encode(
            pixels.to(self.model.device), image_sizes=torch.tensor([[height, width]] * len(images)), return_dict=True
        )
        return torch.stack([one.flatten() for one in seen.image_tokens]).long()
