"""Whether an edit of some positions means the same however the model generates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.doctor.comparison import SHARE, gap
from kedit.doctor.finding import Finding, above, at_most, first_line
from kedit.doctor.model_under_test import N_NEW, ModelUnderTest, Spoken
from kedit.edit.edit import Edit
from kedit.edit.operators import Scale, Zero
from kedit.internals.positions import Phase, Positions

UNCACHED = {"use_cache": False}


@dataclass(frozen=True)
class Agreement:
    """How far two generations agree."""

    gap: float
    """The largest difference of their logits up to where they part, as a share of the largest."""
    margin: float | None = None
    """How much likelier the first one's token was where they part, in the same unit; None where they do not."""


def cache(under_test: ModelUnderTest) -> Finding:
    """Generate with and without a key-value cache, half of the neurons zeroed in the picture or prompt."""
    return _same(under_test, _limited(under_test), {}, UNCACHED, "without a cache")


def static_cache(under_test: ModelUnderTest) -> Finding:
    """Generate with a growing cache and one of fixed size, half of the neurons zeroed in the picture or prompt."""
    return _same(under_test, _limited(under_test), {}, {"cache_implementation": "static"}, "with a static cache")


def beams(under_test: ModelUnderTest) -> Finding:
    """Search with three beams, with and without a cache, half of the neurons zeroed in the picture or prompt."""
    three = {"num_beams": 3}
    return _same(under_test, _limited(under_test), three, three | UNCACHED, "by beam search without a cache")


def prefill(under_test: ModelUnderTest) -> Finding:
    """Generate with and without a key-value cache, half of the neurons zeroed in the prompt alone."""
    return _same(under_test, _half(under_test, "all", "prefill"), {}, UNCACHED, "without a cache")


def decode(under_test: ModelUnderTest) -> Finding:
    """Generate with and without a key-value cache, half of the neurons zeroed in the generated tokens alone."""
    return _same(under_test, _half(under_test, "all", "decode"), {}, UNCACHED, "without a cache")


def text(under_test: ModelUnderTest) -> Finding:
    """Generate with and without a key-value cache, half of the neurons zeroed in all but pictures."""
    return _same(under_test, _half(under_test, "text"), {}, UNCACHED, "without a cache")


def last(under_test: ModelUnderTest) -> Finding:
    """Generate with and without a key-value cache, half of the neurons zeroed from the last prompt token on."""
    return _same(under_test, _half(under_test, "last"), {}, UNCACHED, "without a cache")


def identity_text(under_test: ModelUnderTest) -> Finding:
    """Generate plainly and while all activations are multiplied by 1, and count the tokens that differ."""
    under_test.needs_generation()
    plain = under_test.generate()
    with Edit(under_test.everything, Scale(1.0)).applied(under_test.module):
        edited = under_test.generate()
    n = plain.tokens.numel()
    if edited.tokens.shape != plain.tokens.shape:
        return at_most(n, 0, f"tokens of {n} that differ", "an edit that changes nothing changes how much is said")
    changed = int((plain.tokens != edited.tokens).sum())
    return at_most(changed, 0, f"tokens of {n} that differ", "an edit that changes nothing changes what is said")


def _same(
    under_test: ModelUnderTest, edit: Edit, one: Mapping[str, Any], other: Mapping[str, Any], how: str
) -> Finding:
    """Compare two ways of generating while the edit acts; `how` names the second one."""
    under_test.needs_generation()
    # An edit of generated tokens shows in the second one at the earliest.
    steps = 2 if edit.phase == "decode" else 1
    briefly = {"min_new_tokens": steps, "max_new_tokens": steps}
    plain = under_test.generate(**one, **briefly)
    try:
        under_test.generate(**other, **briefly)
    except Exception as error:  # whatever it is: the model cannot, edited or not
        return Finding("DEGRADED", f"the model cannot generate {how}: {first_line(error)}")
    with edit.applied(under_test.module):
        first, second = under_test.generate(**one), under_test.generate(**other)
    found = _agreement(first, second)
    what = f"difference of {N_NEW} tokens' logits {how} after {edit.name}, {SHARE}"
    effect = gap(plain.logits[-1], first.logits[steps - 1])
    if effect <= under_test.noise:
        return above(effect, under_test.noise, f"logits changed by {edit.name}, {SHARE}", "the edit does nothing")
    if found.gap <= under_test.tolerance and found.margin is not None:
        why = f"the texts part where two tokens are as likely but for {found.margin:.2g} of the largest logit"
        return Finding("DEGRADED", why, found.gap, under_test.tolerance, "<=", what)
    return at_most(found.gap, under_test.tolerance, what, _blamed(under_test, one, other, how))


def _limited(under_test: ModelUnderTest) -> Edit:
    """Return an edit of some positions of the prompt."""
    if under_test.has_position_of("image"):
        return _half(under_test, "image")
    return _half(under_test, "all", "prefill")


def _half(under_test: ModelUnderTest, positions: Positions, phase: Phase = "both") -> Edit:
    """Return an edit that zeroes half of the neurons at some positions, named by what it does."""
    where = {"prefill": "in the prompt", "decode": "in generated tokens", "both": f"at {positions} positions"}[phase]
    return Edit(under_test.every_second, Zero(), positions, phase, f"zeroing neurons {where}")


def _blamed(under_test: ModelUnderTest, one: Mapping[str, Any], other: Mapping[str, Any], how: str) -> str:
    """Return whether the model itself disagrees, or only while it is edited."""
    unedited = _agreement(under_test.generate(**one), under_test.generate(**other)).gap
    if unedited > under_test.tolerance:
        return f"generating {how} gives other logits, also unedited (by {unedited:.2g})"
    return f"the edit means something else {how}; unedited, the logits agree"


def _agreement(first: Spoken, second: Spoken) -> Agreement:
    if first.scores is not None and second.scores is not None:
        return _beams_agreement(first, second)
    together = first.logits.new_ones(first.logits.shape[1]).bool()
    largest, margins = 0.0, []
    for step in range(min(len(first.logits), len(second.logits))):
        a, b = first.logits[step][together], second.logits[step][together]
        largest = max(largest, gap(a, b))
        parting = together & (first.chosen[step] != second.chosen[step])
        for row in parting.nonzero().flatten().tolist():
            likelier, other = (first.logits[step, row, said.chosen[step, row]] for said in (first, second))
            margins.append(float((likelier - other).abs() / first.logits[step, row].abs().max()))
        together = together & ~parting
        if not together.any():
            break
    return Agreement(largest, max(margins, default=None))


def _beams_agreement(first: Spoken, second: Spoken) -> Agreement:
    """Compare the prompt's logits, which all beams share, and how likely the texts are that won."""
    assert first.scores is not None and second.scores is not None
    largest = max(gap(first.logits[0], second.logits[0]), gap(first.scores, second.scores))
    if first.tokens.shape == second.tokens.shape and bool((first.tokens == second.tokens).all()):
        return Agreement(largest)
    return Agreement(largest, gap(first.scores, second.scores) if math.isfinite(largest) else None)
