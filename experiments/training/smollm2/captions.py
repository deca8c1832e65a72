"""Stage three: the projector learns to show pictures so that the language model, frozen, describes them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from experiments.training.scenes.loop import Losses
from experiments.training.scenes.tower import IGNORED, pixel_values
from experiments.training.smollm2.codes import Eye
from kedit.data.scene import scene


def objective(
    eye: Eye, language: torch.nn.Module, processor: object, prompt: str, first_seed: int, size: int
) -> Callable[[int], Losses]:
    """Return the loss of the caption's tokens, the end included, by step; each step has scenes of its own."""
    tokenizer = processor.tokenizer  # type: ignore[attr-defined]
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    text = processor.apply_chat_template(asked, add_generation_prompt=True)  # type: ignore[attr-defined]
    before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in text.split(processor.image_token))  # type: ignore[attr-defined]

    def losses(step: int) -> Losses:
        start = first_seed + step * size
        batch = [scene(seed) for seed in range(start, start + size)]
        said = [tokenizer(one.captions()[0] + tokenizer.eos_token).input_ids for one in batch]
        pictures = eye(pixel_values(batch))
        tokens = _padded([[*after, *one] for one in said], tokenizer.pad_token_id)
        target = _padded([[*[IGNORED] * (len(after) - 1), *one, IGNORED] for one in said], IGNORED)
        hidden = _read(language, before, pictures, tokens)[:, -tokens.shape[1] :]
        counted = target != IGNORED
        logits = functional.linear(hidden[counted], language.get_input_embeddings().weight)
        return {"words": functional.cross_entropy(logits.float(), target[counted])}

    return losses


def _read(language: torch.nn.Module, before: list[int], pictures: Tensor, tokens: Tensor) -> Tensor:
    """Return the last hidden states of prompt, picture and caption, `[batch, pos, width]`; what is padded is last."""
    embed = language.get_input_embeddings()  # type: ignore[operator]
    first = embed(torch.tensor(before)).expand(len(tokens), -1, -1)
    embedded = torch.cat([first, pictures.to(first.dtype), embed(tokens)], 1)
    return language(inputs_embeds=embedded, use_cache=False).last_hidden_state


def _padded(rows: list[list[int]], filler: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])
