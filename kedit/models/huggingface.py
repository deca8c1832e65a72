"""A model of transformers with its processor, as kedit sees it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.models.mllm import IMAGE, MODALITIES, PADDING, STUB, TEXT, Forced, Generated, Mention
from kedit.neurons import Scope, SiteName
from kedit.prompts import Medium, Prompt
from kedit.samples import Concept, Progress, Question, silent
from kedit.sites import Site

KEYWORDS: dict[Medium, str] = {"image": "images", "video": "videos", "audio": "audio"}
"""The argument by which processors take a medium."""


@dataclass(frozen=True, eq=False)
class HuggingFaceMLLM:
    """Any image-text-to-text model of transformers with its processor.

    Neither is changed, except that the module is put into evaluation mode.
    """

    module: nn.Module
    processor: Any
    name: str = "model"
    prompt: str = "Describe this image."
    batch_size: int = 16
    max_new_tokens: int = 40

    def __post_init__(self) -> None:
        self.module.eval()
        if self.tokenizer.pad_token_id is None:
            raise ValueError(
                f"the tokenizer of `{self.name}` has no padding token, which batches need; "
                "set `processor.tokenizer.pad_token = processor.tokenizer.eos_token`"
            )

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        """Where the token embedding lives, and so the inputs."""
        return next(self.module.parameters()).device

    @cached_property
    def image_token(self) -> int:
        """The id of the image token, from the model's configuration."""
        found = getattr(self.module.config, "image_token_id", None)
        if not isinstance(found, int):
            raise LookupError(f"the configuration of {type(self.module).__name__} names no `image_token_id`")
        return found

    def site(self, name: SiteName = "mid", scope: Scope = "language") -> Site:
        """Return where the neurons of a part of the model live."""
        return Site.of(self.module, name, scope)

    def caption(self, images: Sequence[Image], *, progress: Progress = silent) -> list[Generated]:
        """Return a greedy caption of each picture, which are read in batches."""
        return self.ask([Prompt(self.prompt, image) for image in images], progress=progress, what="captions")

    def answer(self, questions: Sequence[Question], *, progress: Progress = silent) -> list[str]:
        """Return the greedy answer to each question, with its picture where it has one."""
        asked = [Prompt(one.text, one.sample.image if one.sample else None) for one in questions]
        return [one.text for one in self.ask(asked, progress=progress)]

    def ask(self, prompts: Sequence[Prompt], *, progress: Progress = silent, what: str = "answers") -> list[Generated]:
        """Return what the model says to each prompt, greedily; those of one medium are read in batches."""
        told: dict[int, Generated] = {}
        for medium in dict.fromkeys(one.medium for one in prompts):
            places = [place for place, one in enumerate(prompts) if one.medium == medium]
            chunks = list(_batched(places, self.batch_size))
            for chunk in progress(chunks, len(chunks), what):
                said = self._generate([prompts[place] for place in chunk])
                told |= dict(zip(chunk, said, strict=True))
        return [told[place] for place in range(len(prompts))]

    def mention(self, caption: Generated, concept: Concept, *, force: bool = False) -> Mention | None:
        """Return the first mention of `concept` in the generated tokens.

        With `force`, a caption that does not name the concept is replaced by "a picture of" and its first word.
        """
        tokens = caption.tokens
        if force and concept.first_mention(caption.text) is None:
            tokens = self._ids(f"{STUB} {concept.words[0]}")
        text = self._decode(tokens)
        span = concept.first_mention(text)
        if span is None:
            return None
        read = [self._decode(tokens[: n + 1]) for n in range(len(tokens))]
        first = next(n for n, part in enumerate(read) if len(part) > span[0])
        # By content, not length: a character of several tokens has its length before its last token.
        last = next(n for n, part in enumerate(read) if part.startswith(text[: span[1]]))
        return Mention(tokens[:first], tokens[first : last + 1])

    def forced(self, images: Sequence[Image], prefixes: Sequence[tuple[int, ...]]) -> Forced:
        """Return the captioning prompt followed by a caption prefix, for each picture."""
        return self.read([Prompt(self.prompt, image) for image in images], prefixes)

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> Forced:
        """Return each prompt, all of one medium, followed by the first tokens of an answer."""
        inputs = self._encode(prompts)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        filler = {"input_ids": int(self.tokenizer.pad_token_id)}
        rows = [[*row[keep.bool()].tolist(), *prefix] for row, keep, prefix in zip(ids, mask, prefixes, strict=True)]
        width = max(map(len, rows))
        for key in [key for key, value in inputs.items() if value.shape == ids.shape]:
            old = inputs[key]
            values = [
                [*row[keep.bool()].tolist(), *_tail(key, prefix)]
                for row, keep, prefix in zip(old, mask, prefixes, strict=True)
            ]
            padded = [[filler.get(key, 0)] * (width - len(row)) + row for row in values]
            inputs[key] = torch.tensor(padded, dtype=old.dtype, device=old.device)
        kinds = torch.where(inputs["input_ids"] == self.image_token, IMAGE, TEXT)
        padding = inputs["attention_mask"] == 0
        n_forced = torch.tensor([[len(prefix)] for prefix in prefixes], device=padding.device)
        prompt = ~padding & (torch.arange(width, device=padding.device) < width - n_forced)
        modalities = self._modalities(inputs["input_ids"]).masked_fill(padding, 0)
        return Forced(inputs, kinds.masked_fill(padding, PADDING), modalities, prompt)

    def logits(self, batch: Forced, n_last: int = 1) -> Tensor:
        """Return the logits at the last `n_last` positions: `[batch, n_last, vocab]`, 32-bit."""
        output = self.module(**batch.inputs, use_cache=False, logits_to_keep=n_last)
        logits: Tensor = output.logits[:, -n_last:]
        return logits.float()

    def words(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as text, special ones by their name."""
        return [str(self.tokenizer.decode([token])).strip() for token in tokens]

    def _modalities(self, ids: Tensor) -> Tensor:
        """Return what each token stands for, as indices into `MODALITIES`."""
        config = self.module.config
        found = torch.full_like(ids, MODALITIES.index("text"))
        special = torch.tensor(sorted(self.tokenizer.all_special_ids), dtype=ids.dtype, device=ids.device)
        found[torch.isin(ids, special)] = MODALITIES.index("special")
        for name in ("image", "video", "audio"):
            token = getattr(config, f"{name}_token_id", None)
            if isinstance(token, int):
                found[ids == token] = MODALITIES.index(name)
        return found

    @torch.no_grad()
    def _generate(self, prompts: Sequence[Prompt]) -> list[Generated]:
        inputs = self._encode(prompts)
        written = self.module.generate(  # type: ignore[operator]
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=self.tokenizer.pad_token_id,
            disable_compile=True,
        )
        special = set(self.tokenizer.all_special_ids)
        new = written[:, inputs["input_ids"].shape[1] :].tolist()
        kept = [tuple(token for token in row if token not in special) for row in new]
        return [Generated(self._decode(tokens), tokens) for tokens in kept]

    def _encode(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Return the inputs of a batch of prompts of one medium, padded on the left."""
        texts = [self._render(one) for one in prompts]
        how = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
        media = _media(prompts)
        encoded = self.processor(text=texts, **media, **how) if media else self.tokenizer(texts, **how)
        return {key: value.to(self.device) for key, value in encoded.items() if isinstance(value, Tensor)}

    def _render(self, prompt: Prompt) -> str:
        """Return the prompt in the model's chat format; without one, the token of its medium goes first."""
        content: list[dict[str, str]] = [] if prompt.medium == "text" else [{"type": prompt.medium}]
        content.append({"type": "text", "text": prompt.text})
        if getattr(self.processor, "chat_template", None) is None:
            if prompt.medium == "text":
                return prompt.text
            return f"{getattr(self.processor, f'{prompt.medium}_token')}\n{prompt.text}"
        chat = [{"role": "user", "content": content}]
        rendered = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return str(rendered).removeprefix(self.tokenizer.bos_token or "")

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _tail(key: str, prefix: tuple[int, ...]) -> Iterable[int]:
    """Return what a per-token input holds at the caption prefix: its ids, or that they are plain text."""
    if key == "input_ids":
        return prefix
    return [1 if key == "attention_mask" else 0] * len(prefix)


def _media(prompts: Sequence[Prompt]) -> dict[str, list[Any]]:
    """Return what the processor is given beside the texts: pictures in color, frames or waves."""
    media = {one.medium for one in prompts}
    if len(media) > 1:
        raise ValueError(f"the prompts of a batch have one medium, got {', '.join(sorted(media))}")
    found: list[Any] = [one.image.convert("RGB") for one in prompts if one.image is not None]
    found += [list(one.video.frames) for one in prompts if one.video is not None]
    found += [one.sound.wave for one in prompts if one.sound is not None]
    return {KEYWORDS[medium]: found for medium in media if found}


def _batched(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))
