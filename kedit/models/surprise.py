"""How unlikely a model finds what was said: what tells language from words that only follow one another."""

from collections.abc import Sequence

import torch

from kedit.models.mllm import MLLM, Generated
from kedit.models.special_tokens import MARKED, medium_token
from kedit.prompts import Prompt
from kedit.samples import Progress, silent

LEAST = 4
"""Tokens of the shortest text that is judged: of a shorter one, a single word in place of another is the most."""
MOST_COLUMNS = 640
"""Columns of logits that are held at once: 0.4 GB of them with 152,000 tokens."""


@torch.no_grad()
def surprises(
    model: MLLM, prompts: Sequence[Prompt], texts: Sequence[Generated], *, progress: Progress = silent
) -> list[float | None]:
    """Return the negative log-probability, in nats, of the median token of each text behind its prompt.

    The median and not the mean, because one word in place of another, which is what an edit is for, is as unlikely as
    a word that is none; where most tokens are unlikely, the text is no language. Of an even number of tokens, the
    lower of the two in the middle. Read teacher-forced, in batches of one medium.

    Args:
        model: The model, as it is now.
        prompts: What was asked.
        texts: What was said, by this model or by an edited one.
        progress: Shows the batches.

    Returns:
        A number for each text; None for one of fewer than `LEAST` tokens.
    """
    media = {medium_token(model.module, medium) for medium in MARKED}
    # A token that stands for a picture is no text, and a prompt that has it twice cannot be read.
    tokens = [tuple(token for token in one.tokens if token not in media) for one in texts]
    found: list[float | None] = [None] * len(texts)
    chunks = _chunks(model, prompts, tokens)
    for chunk in progress(chunks, len(chunks), "surprise"):
        some = [tokens[place] for place in chunk]
        longest = max(map(len, some))
        # Filled behind their ends, which they do not see, so that decoders with learned positions read them together.
        filled = [(*one, *one[-1:] * (longest - len(one))) for one in some]
        rows = model.read([prompts[place] for place in chunk], [one[:-1] for one in filled])
        logits = model.logits(rows, longest)
        chosen = logits.gather(-1, torch.tensor(filled, device=logits.device)[..., None])[..., 0]
        unlikely = (logits.logsumexp(-1) - chosen).cpu()
        for place, row in zip(chunk, unlikely, strict=True):
            found[place] = float(row[: len(tokens[place])].median())
    return found


def _chunks(model: MLLM, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the places of the texts that are judged in batches of one medium, those of about one length together."""
    places = [place for place, one in enumerate(texts) if len(one) >= LEAST]
    places.sort(key=lambda place: (prompts[place].medium, len(texts[place])))
    chunks: list[list[int]] = []
    for place in places:
        last = chunks[-1] if chunks else []
        full = len(last) >= min(model.batch_size, max(1, MOST_COLUMNS // len(texts[place])))
        if not last or full or prompts[last[0]].medium != prompts[place].medium:
            chunks.append([])
        chunks[-1].append(place)
    return chunks
