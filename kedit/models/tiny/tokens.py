"""A tokenizer that needs no vocabulary file: one token for each byte."""

from collections.abc import Sequence
from typing import Any

PAD, START, END = "<pad>", "<s>", "</s>"


def byte_tokenizer(specials: Sequence[str] = (), **named: str) -> Any:
    """Return a fast tokenizer of bytes; ids count `<pad>`, `<s>`, `</s>`, the `specials`, then the 256 bytes.

    Args:
        specials: Tokens that no text is spelled with, such as `<image>`.
        named: Which of them transformers is to know by a name of its own, such as `mask_token="[MASK]"`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = [PAD, START, END, *specials]
    vocabulary = {piece: number for number, piece in enumerate([*marks, *letters])}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, bos_token=START, eos_token=END, padding_side="left",
        model_max_length=4096, additional_special_tokens=[one for one in specials if one not in named.values()],
        **named,
    )  # fmt: skip
