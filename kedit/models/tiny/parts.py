"""What the tiny picture models have in common: sizes, a vision tower, a chat format, processors without videos."""

from types import SimpleNamespace
from typing import Any

WIDTH, NEURONS, LAYERS = 16, 24, 3
"""Of the language model: its hidden size, and how many neurons each of its layers has."""


def text_sizes(tokenizer: Any, **other: Any) -> dict[str, Any]:
    """Return the sizes of a tiny language model in the words of most of transformers' configurations."""
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": NEURONS, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return sizes | other


def vision_sizes(side: int, patch: int) -> dict[str, Any]:
    """Return the sizes of a tiny vision tower that reads squares of `side` pixels in patches of `patch`."""
    return {
        "image_size": side, "patch_size": patch, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip


def chat_template(image: str = "<image>") -> str:
    """Return a chat format in which `image` stands for a picture."""
    return (
        "{% for message in messages %}{{ message.role | upper }}: {% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image}{{% else %}} {{{{ part.text }}}}{{% endif %}}"
        "{% endfor %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )


def without_videos(processor_class: Any) -> Any:
    """Return `processor_class` for texts and pictures alone; it takes None for its `video_processor`.

    transformers builds no video processor, and so no processor that wants one, where torchvision is missing.
    """
    wanted = [name for name in processor_class.get_attributes() if name != "video_processor"]
    changed = {
        "get_attributes": classmethod(lambda cls: wanted),
        "video_processor": SimpleNamespace(num_frames=None, fps=None),
    }
    return type(processor_class.__name__, (processor_class,), changed)
