"""What kedit measures, under the names that the literature on model editing has for it.

There (MMEdit, Cheng et al. 2023, and after it) reliability, generality and locality are teacher-forced: the share of
tokens that are the likeliest, or of the ten likeliest that stay in place. Such figures can be 1 where what the model
writes by itself shows nothing, so here each is of what it writes, and the teacher-forced one stands beside it.

| there | here |
|---|---|
| M-generality: other pictures | `mention_drop` on held-out pictures |
| M-generality teacher-forced | `logprob_drop` of the word, in nats |
| T-generality: other words for the request | `denied` of POPE: yes before and no after, asked whether it is there |
| T-locality: text alone | `text`: text-only questions that are answered right still |
| M-locality: a random picture | `objects` of pictures without the concept that are named still |
| locality without a picture | `alone` of POPE: answers without a picture that stay |
| locality on the same picture: asked about something else | `same_picture` of POPE, or `others` of the captions |
| cross-modal gap | how far `mention_drop` and the drop of right answers in words, 1 - `text_about`, are apart |
"""

from collections.abc import Mapping
from dataclasses import dataclass

from kedit.evaluation.pope import PopeReport
from kedit.evaluation.report import EditReport, Figures
from kedit.evaluation.statistics import Measured

NO_POPE = "the concept is asked for in other words, and without a picture, by POPE alone: `evaluate.pope=true`"


@dataclass(frozen=True)
class Term:
    """A figure under its name in the literature, and what it is in report.json."""

    figure: Measured
    source: str

    def to_json(self) -> dict[str, object]:
        """Return the figure, and under `is` where else it stands."""
        return {**self.figure.to_json(), "is": self.source}


def editing_terms(report: EditReport, pope: PopeReport | None = None) -> dict[str, Term]:
    """Return what the literature calls generality, locality and cross-modal gap; see the table above.

    Args:
        report: What the edit did to the captions and to the text-only questions.
        pope: What it did to the answers about pictures, if they were asked.
    """
    suppression, retention = report.suppression, report.retention
    asked: dict[str, Figures] = {} if pope is None else dict(pope.after["text"])
    denied, alone, same = (
        asked.get(section, {}).get(name, Measured.missing(NO_POPE))
        for section, name in (("target", "denied"), ("kept", "alone"), ("kept", "same_picture"))
    )
    on_picture = Term(same, "pope/after/text/kept/same_picture") if pope else Term(
        retention["others"], "retention/others"
    )  # fmt: skip
    return {
        "M-generality": Term(suppression["mention_drop"], "suppression/mention_drop"),
        "M-generality teacher-forced": Term(suppression["logprob_drop"], "suppression/logprob_drop"),
        "T-generality": Term(denied, "pope/after/text/target/denied"),
        "T-locality": Term(retention["text"], "retention/text"),
        "M-locality": Term(retention["objects"], "retention/objects"),
        "locality without a picture": Term(alone, "pope/after/text/kept/alone"),
        "locality on the same picture": on_picture,
        "cross-modal gap": Term(
            cross_modal_gap(suppression["mention_drop"], retention["text_about"]),
            "|suppression/mention_drop - (1 - retention/text_about)|",
        ),
    }


def terms_json(terms: Mapping[str, Term]) -> dict[str, object]:
    """Return the "literature" part of report.json."""
    return {name: term.to_json() for name, term in terms.items()}


def cross_modal_gap(drop: Measured, kept_in_words: Measured) -> Measured:
    """Return how far the drop with a picture is from the drop in words, |drop - (1 - kept)|.

    Its interval joins the ends of both intervals, which is conservative.

    Args:
        drop: The share of pictures of which the concept is no longer said.
        kept_in_words: Of the text-only questions about it that were answered right, the share that are right still.
    """
    for figure, name in ((drop, "asked with a picture"), (kept_in_words, "asked in words")):
        if figure.value is None:
            return Measured.missing(f"no drop {name}: {figure.why}")
    low, value, high = (
        None if one is None or other is None else one - (1 - other)
        for one, other in ((drop.low, kept_in_words.low), (drop.value, kept_in_words.value),
                           (drop.high, kept_in_words.high))
    )  # fmt: skip
    n = min(drop.n, kept_in_words.n)
    assert value is not None
    if low is None or high is None:
        return Measured(abs(value), None, None, n, drop.why or kept_in_words.why)
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Measured(abs(value), nearest, max(abs(low), abs(high)), n)
