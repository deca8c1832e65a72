"""How a prompt is written in a model's chat format, and what tokens transformers itself makes of it."""

from typing import Any, Literal, get_args

from kedit.models import prompting
from kedit.models.media import given
from kedit.prompts import Prompt

Template = Literal["chat", "none"]
"""How a prompt is written: as a question in the model's chat format, if it has one, or as it is, to be gone on with."""


def check_template(template: object) -> None:
    """Raise a ValueError unless `template` says how a prompt is written."""
    if template not in get_args(Template):
        raise ValueError(
            f"`template` is chat (a question in the chat format) or none (the prompt as it is), got {template!r:.60}"
        )


def in_chat(processor: Any, template: Template) -> bool:
    """Return whether prompts are written in a chat format."""
    return template == "chat" and getattr(processor, "chat_template", None) is not None


def render(processor: Any, prompt: Prompt, template: Template = "chat") -> str:
    """Return the prompt in the model's chat format; without one, the token of its medium goes first."""
    if not in_chat(processor, template):
        return prompting.plain(processor, prompt.medium, prompt.text)
    chat = _conversation(processor, prompt, {"type": prompt.medium})
    rendered = str(processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
    if _is_of_transformers(processor):
        return rendered
    # MiniGPT-4's tokenizer always adds the mark that its chats with Llama 2 begin with, too.
    tokenizer = processor.tokenizer
    adds = list(tokenizer("").input_ids)[:1] == [tokenizer.bos_token_id]
    return rendered.removeprefix(tokenizer.bos_token) if adds else rendered


def begins_itself(processor: Any, text: str, template: Template = "chat") -> bool:
    """Return whether `text`, as `render` wrote it, has the marks of its beginning, so that none may be added.

    As transformers decides it: a tokenizer adds none to a chat, and a processor none to one that begins with its
    `bos_token`.
    """
    if not in_chat(processor, template) or not _is_of_transformers(processor):
        return False
    tokenizer = getattr(processor, "tokenizer", processor)
    opening = tokenizer.bos_token
    return tokenizer is processor or (opening is not None and text.startswith(opening))


def own_tokens(processor: Any, prompt: Prompt, template: Template = "chat") -> list[int]:
    """Return the tokens that the model's documented way makes of one prompt.

    That is `apply_chat_template(..., tokenize=True)`; without a chat format, a call of the processor or tokenizer.

    Raises:
        LookupError: The processor has no such way.
    """
    if not _is_of_transformers(processor):
        raise LookupError(f"a {type(processor).__name__} is none of transformers, which have their own way to compare")
    if not in_chat(processor, template):
        media = given(processor, [prompt])
        text = render(processor, prompt, template)
        encoded = processor(text=[text], **media) if media else getattr(processor, "tokenizer", processor)([text])
    else:
        part = {"type": prompt.medium, prompt.medium: _content(prompt)}
        chat = _conversation(processor, prompt, part)
        encoded = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)
    ids = encoded["input_ids"]
    first = ids[0] if not isinstance(ids[0], int) else ids
    return [int(token) for token in first]


def _is_of_transformers(processor: Any) -> bool:
    return hasattr(processor, "save_pretrained")


def _content(prompt: Prompt) -> Any:
    if prompt.video is not None:
        return list(prompt.video.frames)
    return prompt.image if prompt.sound is None else prompt.sound.wave


def _conversation(processor: Any, prompt: Prompt, medium: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one question of a user; `medium` stands for what is not text."""
    if not hasattr(processor, "tokenizer"):
        # The templates of text models take the text itself.
        return [{"role": "user", "content": prompt.text}]
    content = [] if prompt.medium == "text" else [medium]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt.text}]}]
