"""Where a text names a concept, in tokens."""

from collections.abc import Callable, Sequence

from kedit.models.mllm import Mention
from kedit.samples import Concept

UNFINISHED = "\ufffd"
"""What the first bytes of a character read as."""


def first_mention(tokens: tuple[int, ...], concept: Concept, decode: Callable[[Sequence[int]], str]) -> Mention | None:
    """Return the tokens before the first mention of `concept` and those of the word; None where there is none."""
    text = decode(tokens)
    span = concept.first_mention(text)
    if span is None:
        return None
    read = [decode(tokens[: n + 1]) for n in range(len(tokens))]
    first = next(n for n, part in enumerate(read) if _reaches(part, text, span[0]))
    # By content, not length: a character of several tokens has its length before its last token.
    last = next(n for n, part in enumerate(read) if part.startswith(text[: span[1]]))
    return Mention(tokens[:first], tokens[first : last + 1])


def _reaches(part: str, text: str, place: int) -> bool:
    """Return whether `part`, what the first tokens of `text` read as, has some of the character at `place`.

    By content, not length: some tokenizers set a space before a quote as long as nothing follows it.
    """
    begun = part.endswith(UNFINISHED) and part.rstrip(UNFINISHED) == text[:place]
    return begun or part.startswith(text[: place + 1])
