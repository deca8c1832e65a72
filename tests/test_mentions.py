"""Where a caption names a concept, in tokens of tokenizers that tidy spaces up."""

from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kedit.models.mentions import first_mention
from kedit.samples import Concept


def word_pieces(*, tidy: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer as BERT, BLIP and GIT have one."""
    words = ["[UNK]", "the", "word", "'", "stop", "on", "a", "sign", "shirt", "that", "says", "star", "big"]
    core = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=tidy, unk_token="[UNK]")


@pytest.mark.parametrize("tidy", [False, True])
@pytest.mark.parametrize(
    ("word", "text"),
    [("stop", "the word 'stop' on a sign"), ("star", "a shirt that says 'star'"), ("star", "a big star")],
)
def test_the_word_is_the_target_and_not_the_quote_before_it(tidy: bool, word: str, text: str) -> None:
    # huggingface/transformers#40088: decoding takes the space before a quote away, once something follows it
    tokenizer = word_pieces(tidy=tidy)

    def read(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    tokens = tuple(tokenizer(text, add_special_tokens=False).input_ids)
    mention = first_mention(tokens, Concept(word), read)
    assert mention is not None
    assert tokenizer.convert_ids_to_tokens(list(mention.word)) == [word]
    assert mention.prefix + mention.word == tokens[: len(mention.prefix) + 1]
