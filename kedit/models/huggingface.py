"""A model of transformers with its processor, as kedit sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from kedit.arguments import require, require_count
from kedit.internals.positions import image_token
from kedit.internals.sites import Site
from kedit.internals.wrappers import bare, evaluating
from kedit.models import chat, prompting
from kedit.models.fitting import counting
from kedit.models.media import Pictures, given, pictures
from kedit.models.mentions import first_mention
from kedit.models.mllm import STUB, Generated, Mention, TeacherForced
from kedit.models.passes import accepts, declares, input_device
from kedit.models.sequences import Architecture, apart, architecture, columns, filled, onward, refuse_ragged
from kedit.models.special_tokens import MARKED, first_token, mask_token, medium_token, modalities, places
from kedit.models.writing import check_drafts, generate_batch
from kedit.neurons import Scope, SiteName
from kedit.progress import Batched
from kedit.prompts import Medium, Prompt, as_prompts, batches
from kedit.samples import Concept, Progress, Question, silent
from kedit.tested import tell_untested


@dataclass(frozen=True, eq=False)
class HuggingFaceMLLM:
    """Any model of transformers that writes or completes text, with its processor or tokenizer.

    Neither is changed: a module in training mode is put into evaluation mode for each pass and back. Of a compiled,
    checkpointed or adapted model the module inside is taken (`kedit.internals.wrappers.bare`).
    """

    module: nn.Module
    processor: Any
    name: str = "model"
    prompt: str = "Describe this image."
    batch_size: int = 8
    max_new_tokens: int = 60
    template: chat.Template = "chat"
    """How a prompt is written: in the chat format, if the model has one, or as it is (`none`), to be gone on with."""

    def __post_init__(self) -> None:
        tell_untested()
        require(self.module, nn.Module, "module", "a model in memory")
        object.__setattr__(self, "module", bare(self.module))
        for key in ("name", "prompt"):
            require(getattr(self, key), str, key, "a text")
        for key in ("batch_size", "max_new_tokens"):
            require_count(getattr(self, key), key, 1)
        chat.check_template(self.template)
        if self.tokenizer.pad_token_id is None:
            where = "tokenizer" if self.tokenizer is self.processor else "processor.tokenizer"
            raise ValueError(
                f"the tokenizer of `{self.name}` has no padding token, which batches need; "
                f"set `{where}.pad_token = {where}.eos_token`"
            )

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the tokenizer that stands for one."""
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def device(self) -> torch.device:
        """Where the token embedding lives, and so the inputs."""
        return input_device(self.module)

    @cached_property
    def architecture(self) -> Architecture:
        """Where answers stand: behind the prompt, in a sequence of their own, or in place of masks."""
        return architecture(self.module)

    @cached_property
    def media(self) -> frozenset[Medium]:
        """What a prompt may hold beside its text, which is what the configuration names a token for."""
        if self.processor is self.tokenizer:
            return frozenset({"text"})
        return frozenset({"text", *(medium for medium in MARKED if medium_token(self.module, medium) is not None)})

    @cached_property
    def image_token(self) -> int | None:
        """The id of the image token, from the model's configuration; None if its sequence holds no picture."""
        if not isinstance(getattr(self.module.config, "image_token_id", None), int):
            raise LookupError(f"the configuration of {type(self.module).__name__} names no `image_token_id`")
        return image_token(self.module)

    def site(self, name: SiteName = "mid", scope: Scope = "language") -> Site:
        """Return where the neurons of a part of the model live."""
        return Site.of(self.module, name, scope)

    def caption(self, images: Pictures, *, progress: Progress = silent) -> list[Generated]:
        """Return a greedy caption of each picture, which are read in batches; a picture alone has a list of one."""
        self.require("image")
        asked = [Prompt(self.prompt, image) for image in pictures(images)]
        return self.ask(asked, progress=progress, what="captions")

    def answer(self, questions: Question | Sequence[Question], *, progress: Progress = silent) -> list[str]:
        """Return the greedy answer to each question, with its picture, video or sound where it has one."""
        if isinstance(questions, Question):
            questions = [questions]
        for one in questions:
            require(one, Question, "questions", "a list of `Question`; `ask` takes texts")
        return [one.text for one in self.ask([one.prompt for one in questions], progress=progress)]

    def ask(
        self,
        prompts: Prompt | str | Sequence[Prompt | str],
        *,
        progress: Progress = silent,
        what: str = "answers",
        drafts: Sequence[Generated] | None = None,
    ) -> list[Generated]:
        """Return what the model says to each prompt, greedily; those of one medium are read in batches.

        Args:
            prompts: What to ask; texts are prompts without a picture.
            progress: Shows the batches.
            what: What they are called.
            drafts: What each answer may be. It is checked, which is faster than writing it and changes nothing, but
                under an edit that is not `teacher_forceable`: what is read in one pass must be what is written.
        """
        prompts = as_prompts(prompts)
        self._refuse_unwritten(prompts)
        if drafts is not None and len(drafts) != len(prompts):
            raise ValueError(f"there is a draft for each prompt or none, got {len(drafts)} for {len(prompts)} prompts")
        tokens: dict[int, tuple[int, ...]] = {}
        if drafts is not None:
            right = check_drafts(self, prompts, [draft.tokens for draft in drafts], progress)
            tokens = {place: drafts[place].tokens for place in right}
        rest = [place for place in range(len(prompts)) if place not in tokens]
        chunks = batches([prompts[place] for place in rest], self.batch_size)
        for chunk in progress(Batched(chunks, [*map(len, chunks)]), len(chunks), what):
            places = [rest[number] for number in chunk]
            tokens |= zip(places, generate_batch(self, [prompts[place] for place in places]), strict=True)
        return [Generated(self._decode(tokens[place]), tokens[place]) for place in range(len(prompts))]

    def mention(self, caption: Generated, concept: Concept, *, force: bool = False) -> Mention | None:
        """Return the first mention of `concept` in the generated tokens.

        With `force`, a caption that does not name the concept is replaced by "a picture of" and its first word.
        """
        tokens = caption.tokens
        if force and concept.first_mention(caption.text) is None:
            tokens = self._ids(f"{STUB} {concept.words[0]}")
        return first_mention(tokens, concept, self._decode)

    def teacher_forced(self, images: Pictures, prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return the captioning prompt followed by a caption prefix, for each picture."""
        self.require("image")
        return self.read([Prompt(self.prompt, image) for image in pictures(images)], prefixes)

    def read(self, prompts: Sequence[Prompt], prefixes: Sequence[tuple[int, ...]]) -> TeacherForced:
        """Return each prompt, all of one medium, followed by the first tokens of an answer.

        An encoder-decoder has them in its decoder, whose positions are counted behind the encoder's; a masked
        language model in place of the first masks of the prompt, of which one has to be left.
        """
        encoded, pad = self.encode(prompts), int(self.tokenizer.pad_token_id)
        if self.architecture == "encoder":
            inputs = filled(encoded, prefixes, mask_token(self.tokenizer, self.name))
            return self._teacher_forced(inputs, inputs["input_ids"], inputs["attention_mask"], [0] * len(prefixes))
        n_forced = list(map(len, prefixes))
        if self.architecture == "decoder":
            inputs = onward(encoded, prefixes, pad, answer_type=int(prompting.reads_prefix(self.processor)))
            ids, mask = inputs["input_ids"], inputs["attention_mask"]
            if (seen := encoded.get("cross_attention_mask")) is not None:
                before = encoded["attention_mask"]
                inputs["cross_attention_mask"] = prompting.seen_on(seen, before, prefixes, mask.shape[1])
            if self.media == {"text"} and declares(self.module, "position_ids"):
                inputs["position_ids"] = columns(mask)
            return self._teacher_forced(inputs, ids, mask, n_forced)
        refuse_ragged(self.module, prefixes, self.name)
        inputs = apart(encoded, prefixes, first_token(self.module), pad)
        ids = torch.cat([inputs["input_ids"], inputs["decoder_input_ids"]], dim=1)
        mask = torch.cat([inputs["attention_mask"], inputs["decoder_attention_mask"]], dim=1)
        return self._teacher_forced(inputs, ids, mask, n_forced)

    def logits(self, batch: TeacherForced, n_last: int = 1) -> Tensor:
        """Return the logits at the last `n_last` positions: `[batch, n_last, vocab]`, 32-bit.

        Those of a masked language model are at the first mask: `[batch, 1, vocab]`.
        """
        how: dict[str, Any] = {} if self.architecture == "encoder" else {"use_cache": False}
        reader = prompting.reader(self.module, batch.inputs)
        if self.architecture == "decoder" and accepts(reader, "logits_to_keep"):
            how["logits_to_keep"] = n_last
        with evaluating(self.module), counting(self.processor, self.name):
            logits: Tensor = reader(**batch.inputs, **how).logits
        if self.architecture == "encoder":
            return self._at_mask(logits, batch.inputs["input_ids"], n_last)
        return logits[:, -n_last:].float()

    def words(self, tokens: Sequence[int]) -> list[str]:
        """Return each token as text, special ones by their name."""
        return [str(self.tokenizer.decode([token])).strip() for token in tokens]

    def require(self, medium: Medium) -> None:
        """Raise a ValueError unless a prompt may hold `medium`."""
        if medium in self.media:
            return
        kind = type(self.module).__name__
        why = f"the configuration of {kind} names no `{medium}_token_id`"
        if medium_token(self.module, medium) is not None:
            why = f"it was given a tokenizer, and {kind} needs its processor for that"
        needs = ", which captions and locating by pictures need" if medium == "image" else ""
        raise ValueError(f"`{self.name}` reads {' and '.join(sorted(self.media))}, not {medium}{needs}: {why}")

    def _require_all(self, prompts: Sequence[Prompt]) -> None:
        for medium in sorted({one.medium for one in prompts}):
            self.require(medium)

    def _refuse_unwritten(self, prompts: Sequence[Prompt]) -> None:
        """Raise a ValueError, before anything is run, for what the model cannot answer."""
        self._require_all(prompts)
        if self.architecture == "encoder":
            raise ValueError(
                f"`{self.name}` ({type(self.module).__name__}) has no `generate`: it completes masks and writes no "
                "text; `read` a prompt with a mask and take the `logits` there"
            )

    def _teacher_forced(
        self, inputs: dict[str, Tensor], prompt: Tensor, mask: Tensor, n_forced: Sequence[int]
    ) -> TeacherForced:
        return TeacherForced(inputs, *places(modalities(self.module, self.tokenizer, prompt), mask, n_forced))

    def _at_mask(self, logits: Tensor, ids: Tensor, n_last: int) -> Tensor:
        if n_last != 1:
            raise ValueError(f"a masked language model is read at one mask, so `n_last` is 1; got {n_last}")
        first = (ids == mask_token(self.tokenizer, self.name)).int().argmax(1).to(logits.device)
        return logits[torch.arange(len(ids), device=logits.device), first][:, None].float()

    def encode(self, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Return the inputs of a batch of prompts of one medium.

        Where the answer follows the prompt, padding is on the left; elsewhere on the right, where it moves nothing.
        """
        self._require_all(prompts)
        texts = [chat.render(self.processor, one, self.template) for one in prompts]
        side = "left" if self.architecture == "decoder" else "right"
        how: dict[str, Any] = {"padding": True, "padding_side": side, "return_tensors": "pt"}
        if texts and chat.begins_itself(self.processor, texts[0], self.template):
            how["add_special_tokens"] = False
        media = given(self.processor, prompts)
        # Some processors open their chats by themselves, those without a picture, too; others may insist on a picture.
        whole = media or chat.in_chat(self.processor, self.template)
        encoded = self.processor(text=texts, **media, **how) if whole else self.tokenizer(texts, **how)
        inputs = {key: value.to(self.device) for key, value in encoded.items() if isinstance(value, Tensor)}
        prompting.refuse_padded_pictures(self.module, inputs, self.name)
        return prompting.tidied(inputs)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
