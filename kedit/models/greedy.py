"""Greedy decoding, whatever the settings that a checkpoint comes with ask for.

Imported only inside functions, because it subclasses a class of transformers.
"""

from typing import Any

from transformers import GenerationConfig

MARKS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""What a checkpoint's settings are asked for: the tokens that begin an answer, end it and fill what is behind it."""


class Greedy(GenerationConfig):
    """Settings of `generate` under which an answer is one likeliest token after the other.

    `generate` fills what is not set with what the checkpoint's `generation_config` asks for (a repetition penalty,
    beams, tokens to suppress, a text to stop at), and for most of it there is no value that means "nothing". It does so
    by `update(defaults_only=True, ...)`, which takes the tokens of `MARKS` here and leaves all else unset.
    """

    def __init__(self, **given: Any) -> None:
        """Set what `generate` needs to know, and what is `given`."""
        plain: dict[str, Any] = {
            "do_sample": False,
            "num_beams": 1,
            "num_return_sequences": 1,
            "min_length": 0,
            "use_cache": True,
            "return_dict_in_generate": False,
            "disable_compile": True,
        }
        super().__init__(**(plain | given))  # type: ignore[no-untyped-call]

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **given: Any) -> dict[str, Any]:
        """Take what is given; of what is only there to fill gaps, no more than `MARKS`."""
        if defaults_only:
            given = {name: given[name] for name in MARKS if name in given}
        rest: dict[str, Any] = super().update(defaults_only, allow_custom_entries, **given)  # type: ignore[no-untyped-call]
        return rest
