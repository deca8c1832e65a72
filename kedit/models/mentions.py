"""Where a text names a concept, in tokens."""

from collections.abc import Callable, Sequence

from kedit.models.mllm import Mention
from kedit.samples import Concept


def first_mention(tokens: tuple[int, ...], concept: Concept, decode: Callable[[Sequence[int]], str]) -> Mention | None:
    """Return the tokens before the first mention of `concept` and those of the word; None where there is none."""
    text = decode(tokens)
    span = concept.first_mention(text)
    if span is None:
        return None
    read = [decode(tokens[: n + 1]) for n in range(len(tokens))]
    first = next(n for n, part in enumerate(read) if len(part) > span[0])
    # By content, not length: a character of several tokens has its length before its last token.
    last = next(n for n, part in enumerate(read) if part.startswith(text[: span[1]]))
    return Mention(tokens[:first], tokens[first : last + 1])
