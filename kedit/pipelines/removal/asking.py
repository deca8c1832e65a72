"""Other ways to get it said: weights in few bits, other questions, yes or no, how many, a choice among words."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from kedit.data.pope import Pope
from kedit.edit.edit import Edit
from kedit.edit.round_trip import FORMATS, round_trip
from kedit.evaluation.answers import right
from kedit.evaluation.measure import NO_CONTROL
from kedit.evaluation.pope import measure_pope
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.models.mllm import Generated
from kedit.pipelines.benchmarks import poll
from kedit.pipelines.removal.subject import RANDOM, Answer, Subject, about_edit
from kedit.results.cache import of_edit
from kedit.samples import TARGET, Concept, Split
from kedit.words import plural

COUNT = "how many {} are there ?"
NONE = Concept("none", ("zero", "0", "no", "none"))
"""Answers that count nothing."""
NO_RIVAL = "all other things are shown as well, or their words begin with the same token"
SECTION = "other questions"


def quantized_answers(subject: Subject) -> list[Answer]:
    """Return how many pictures name the concept after a round trip of the edited weights, beside the unedited ones."""
    prompts = [one.asked(subject.model.prompt) for one in subject.target]

    def named(edit: Edit | None, form: str) -> list[int]:
        model = subject.edited(edit)
        with round_trip(model.module, form).applied(model):
            answers = model.ask(prompts, drafts=subject.captions if edit is None else None, what="captions")
        return [int(subject.concept.mentioned_in(one.text)) for one in answers]

    wanted: list[tuple[Edit | None, str]] = [(edit, form) for form in FORMATS for edit in (subject.edit, None)]
    abouts = [subject.about | {"form": form} | about_edit(edit) for edit, form in wanted]
    content = subject.cache.many(
        "gone", "a round trip", abouts,
        lambda places: [named(*wanted[place]) for place in subject.progress(places, len(places), "round trips")],
    )  # fmt: skip
    shares = [bootstrap_mean(one, seed=subject.seed) for one in content]
    return [
        Answer("round trips", f"named after {form}", shares[2 * place], shares[2 * place + 1], "unedited, the same")
        for place, form in enumerate(FORMATS)
    ]


def asked_answers(subject: Subject, prompts: Sequence[str]) -> list[Answer]:
    """Return what other ways of asking bring out, beside random neurons edited.

    Of each question, the pictures are those whose unedited answer shows the knowledge.
    """
    concept = subject.concept
    names: Callable[[str], bool] = concept.mentioned_in
    answers = [_asked(subject, f"asked “{one}”: named", one, names) for one in prompts]
    count = COUNT.format(plural(concept.words[0]))
    answers.append(_asked(subject, f"asked “{count}”: not none", count, _counts))
    answers.append(_aliases(subject))
    return [*answers, *_yes_no(subject), _choice(subject), _in_words(subject)]


def _counts(text: str) -> bool:
    return bool(text.strip()) and not NONE.mentioned_in(text)


def _asked(subject: Subject, name: str, question: str, shows: Callable[[str], bool]) -> Answer:
    drafts = subject.captions if question == subject.model.prompt else None
    before, *others = subject.ask(question, subject.target, drafts)
    return _share(subject, name, before, others, shows, "the unedited model does not show it when asked so")


def _share(
    subject: Subject, name: str, before: Sequence[Generated], others: Sequence[Sequence[Generated]],
    shows: Callable[[str], bool], why: str,
) -> Answer:  # fmt: skip
    known = [place for place, one in enumerate(before) if shows(one.text)]
    return _beside(subject, name, [[float(shows(said[place].text)) for place in known] for said in others], why)


def _beside(subject: Subject, name: str, hits: Sequence[Sequence[float]], why: str) -> Answer:
    """Return the share of hits under the edit, and the mean over random ones, `[edit][picture]`; `why` for none."""
    edited, *random = hits
    if not len(edited):
        return _missing(name, why)
    control = bootstrap_mean(np.mean(random, axis=0).tolist(), seed=subject.seed) if random else Measured.missing(
        NO_CONTROL
    )  # fmt: skip
    return Answer(SECTION, name, bootstrap_mean(list(edited), seed=subject.seed), control, RANDOM)


def _missing(name: str, why: str) -> Answer:
    return Answer(SECTION, name, Measured.missing(why), Measured.missing(why), RANDOM)


def _aliases(subject: Subject) -> Answer:
    name, words = "named by another of its words", subject.concept.words[1:]
    if not words:
        return _missing(name, "the data knows no other word for it")
    other = Concept(subject.concept.name, words, unless=subject.concept.unless)
    _, *others = subject.ask(subject.model.prompt, subject.target, subject.captions)
    return _beside(subject, name, [[float(other.mentioned_in(one.text)) for one in said] for said in others], "")


def _yes_no(subject: Subject) -> list[Answer]:
    split = Split((), subject.target, subject.elsewhere, ())
    asked = Pope().questions(subject.data, subject.concept, split, seed=subject.seed)
    questions = [one for one in asked if one.kind == TARGET]
    before, (after, *others) = poll(subject.model, questions, subject.edits, subject.progress, subject.cache)
    report = measure_pope(subject.concept, questions, before, after, others, seed=subject.seed)
    edited, random = (one["text"]["target"] for one in (report.after, report.control))
    names = {"present_yes": "asked whether it is there, and it is: yes", "absent_yes": "... and it is not: yes"}
    return [Answer(SECTION, name, edited[key], random[key], RANDOM) for key, name in names.items()]


def _choice(subject: Subject) -> Answer:
    """Return how often its word is likelier than those of all other things that the picture does not show.

    Compared are first tokens. Things whose words begin as its own do cannot be told from it, and are left out.
    """
    first = {one.name: _first_tokens(subject.model, one) for one in subject.data.concepts}
    own = first[subject.concept.name]
    rivals = {name: ids for name, ids in sorted(first.items()) if not ids & own}
    name = f"multiple choice, its word the likeliest of up to {len(rivals) + 1}"
    abouts = [subject.about | of_edit(edit) for edit in subject.edits]
    hits = subject.cache.many(
        "gone", "multiple choice", abouts,
        lambda places: _chosen(subject, own, rivals, [subject.edits[one] for one in places]),
    )  # fmt: skip
    return _beside(subject, name, hits, NO_RIVAL)


@torch.no_grad()
def _chosen(
    subject: Subject, own: set[int], rivals: Mapping[str, set[int]], edits: Sequence[Edit]
) -> list[list[float]]:
    """Return whether the concept wins under each edit where the unedited caption first names it, `[edit][picture]`.

    Pictures that show all rivals are left out.
    """
    model, hits = subject.model, [list[float]() for _ in edits]
    for start in range(0, len(subject.target), model.batch_size):
        samples = subject.target[start : start + model.batch_size]
        mentions = [model.mention(one, subject.concept) for one in subject.captions[start : start + model.batch_size]]
        batch = model.read([one.asked(model.prompt) for one in samples], [one.prefix for one in mentions])
        absent = [[ids for name, ids in rivals.items() if name not in one.objects] for one in samples]
        for number, edit in enumerate(edits):
            with subject.under(edit):
                rows = model.logits(batch)[:, -1].cpu()
            hits[number] += [float(_wins(row, own, others)) for row, others in zip(rows, absent, strict=True) if others]
    return hits


def _wins(row: torch.Tensor, own: set[int], others: Sequence[set[int]]) -> bool:
    best = row[sorted(own)].max()
    return all(row[sorted(ids)].max() < best for ids in others)


def _first_tokens(model: object, concept: Concept) -> set[int]:
    """Return what the words begin with; a lone blank, with which any word may begin, only where there is no other."""
    tokenizer = model.tokenizer  # type: ignore[attr-defined]
    forms = [blank + form for word in concept.words for form in (word, plural(word)) for blank in ("", " ")]
    first = {ids[0] for form in forms if (ids := tokenizer(form, add_special_tokens=False).input_ids)}
    return {one for one in first - {tokenizer.unk_token_id} if tokenizer.decode([one]).strip()} or first


def _in_words(subject: Subject) -> Answer:
    """Return how many of the text-only questions about it, right before, are right still: no picture is shown."""
    about = [one for one in subject.data.questions if subject.concept.mentioned_in(one.answer)]
    name, why = "asked in words, without a picture: right", "the unedited model answers no such question about it"
    if not about:
        return _missing(name, why)

    def say(edit: Edit | None) -> list[str]:
        with subject.under(edit):
            said: list[str] = subject.model.answer(about)
            return said

    every: list[Edit | None] = [None, *subject.edits]
    abouts = [subject.about | about_edit(one) for one in every]
    before, *others = subject.cache.many(
        "gone", "questions in words", abouts, lambda places: [say(every[one]) for one in places]
    )  # fmt: skip
    known = [place for place, one in enumerate(about) if right(one, before[place])]
    hits = [[float(right(about[place], said[place])) for place in known] for said in others]
    return _beside(subject, name, hits, why)
