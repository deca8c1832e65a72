"""Whether a prompt is written as the model's own documented way writes it."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

from kedit.doctor.finding import Finding, NotApplicableError, at_most, first_line
from kedit.doctor.model_under_test import ModelUnderTest
from kedit.models.chat import Template, in_chat, own_tokens
from kedit.prompts import Prompt


def chat(under_test: ModelUnderTest) -> Finding:
    """Compare the tokens of each prompt with those of `apply_chat_template`, or of the processor without a format."""
    processor: Any = getattr(under_test.model, "processor", None)
    template: Template = getattr(under_test.model, "template", "chat")
    asked = [*under_test.prompts, *([Prompt(under_test.prompts[0].text)] if under_test.medium != "text" else [])]
    differ, n_tokens, seen = 0, 0, ""
    for prompt in asked:
        try:
            wanted = own_tokens(processor, prompt, template)
        except LookupError as error:
            raise NotApplicableError(str(error)) from error
        except Exception as error:  # whatever it is: the model's own way fails, and nothing can be compared
            return Finding("DEGRADED", f"the processor's own way to write a prompt fails: {first_line(error)}")
        made = _tokens(under_test, prompt)
        differ, n_tokens = differ + _apart(made, wanted), n_tokens + len(wanted)
        if made != wanted and not seen:
            seen = _first_difference(under_test, made, wanted)
    by = "apply_chat_template" if in_chat(processor, template) else "the processor"
    return at_most(
        differ, 0, f"tokens of {n_tokens} that are not those of {by}",
        f"the model is asked otherwise than its chat format says, {seen}",
    )  # fmt: skip


def _tokens(under_test: ModelUnderTest, prompt: Prompt) -> list[int]:
    """Return the tokens of a prompt as kedit makes them, without padding."""
    inputs = under_test.model.read([prompt], [()]).inputs
    kept = inputs["attention_mask"][0].bool()
    return [int(token) for token in inputs["input_ids"][0][kept]]


def _apart(made: Sequence[int], wanted: Sequence[int]) -> int:
    """Return how many tokens are in one of the two and not, at its place, in the other."""
    same = sum(block.size for block in SequenceMatcher(None, made, wanted, autojunk=False).get_matching_blocks())
    return max(len(made), len(wanted)) - same


def _first_difference(under_test: ModelUnderTest, made: Sequence[int], wanted: Sequence[int]) -> str:
    """Return where two rows of tokens part, in words."""
    place = next(n for n in range(max(len(made), len(wanted)) + 1) if made[n : n + 1] != wanted[n : n + 1])
    names = [under_test.model.words(row[place : place + 1]) or ["the end"] for row in (made, wanted)]
    return f"first at token {place}: {names[0][0]!r} in place of {names[1][0]!r}"
