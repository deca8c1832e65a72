"""Ask a language model the facts of candidates.json, and write those that it knows as a list for `data=prompts`.

python -m experiments.text_facts.ask /models/SmolLM2-135M-Instruct facts.jsonl
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kedit
from kedit.evaluation.answers import right

CANDIDATES = Path(__file__).with_name("candidates.json")
"""By kind of fact: ways to ask, `{}` for the subject, and for each subject the answers that are right."""
FIRST = 3
"""A subject that is known in none of the first ways is not asked in the others."""
LEAST, MOST = 4, 12
"""Ways in which a fact must be answered right, and may be asked: half of them are located with."""
OTHERS, NEIGHBOURS = 3, 4
"""Subjects that take the fact's place in a counterfactual, and others whose facts an edit should leave."""


def known(model: Any, ways: Sequence[str], answers: Mapping[str, Sequence[str]]) -> dict[str, list[kedit.Question]]:
    """Return the questions that the model answers right by subject; subjects that it does not know are left out."""
    found = _right(model, ways[:FIRST], answers)
    likely = {subject: answers[subject] for subject, some in found.items() if some}
    more = _right(model, ways[FIRST:], likely)
    every = {subject: (found[subject] + more[subject])[:MOST] for subject in likely}
    return {subject: some for subject, some in every.items() if len(some) >= LEAST}


def _right(model: Any, ways: Sequence[str], answers: Mapping[str, Sequence[str]]) -> dict[str, list[kedit.Question]]:
    asked = [(subject, _question(way, subject, answers[subject])) for subject in answers for way in ways]
    said = model.answer([question for _, question in asked])
    found: dict[str, list[kedit.Question]] = {subject: [] for subject in answers}
    for (subject, question), text in zip(asked, said, strict=True):
        if known_here := right(question, text):
            found[subject].append(question)
        print("right" if known_here else "wrong", repr(question.text), repr(text))
    return found


def _question(way: str, subject: str, answers: Sequence[str]) -> kedit.Question:
    text = way.replace("{}", subject)
    return kedit.Question(text[0].upper() + text[1:], answers[0], "fact", others=tuple(answers[1:]))


def facts(kind: str, found: Mapping[str, Sequence[kedit.Question]]) -> Iterator[dict[str, Any]]:
    """Yield a line for each subject: those behind it in a ring are its neighbours, those before it stand in its place.

    Of a kind with too few subjects for both there is none.
    """
    for place, (subject, questions) in enumerate(found.items()):
        ring = [*list(found)[place + 1 :], *list(found)[:place]]
        if len(ring) < NEIGHBOURS + OTHERS:
            return
        # A subject that opens a text is written with a capital there, and cannot be replaced.
        first, *more = sorted(questions, key=lambda one: subject not in one.text)
        yield {
            "id": f"{kind} {subject}",
            "concept": first.answer,
            "kind": kind,
            "prompt": first.text,
            "answers": [first.answer, *first.others],
            "subject": subject,
            "other_subjects": ring[-OTHERS:],
            "paraphrases": [one.text for one in more],
            "neighbours": [
                {"prompt": one.text, "answers": [one.answer, *one.others]}
                for one in (found[other][0] for other in ring[:NEIGHBOURS])
            ],
        }


def main() -> int:
    """Ask, and write the list."""
    path, file = sys.argv[1:]
    model = kedit.load(path, template="none", dtype="float32", batch_size=64, max_new_tokens=6)
    lines: dict[str, dict[str, Any]] = {}
    for kind, told in json.loads(CANDIDATES.read_text(encoding="utf-8")).items():
        for line in facts(kind, known(model, **told)):
            lines.setdefault(line["concept"], line)
    Path(file).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines.values()), "utf-8")
    print(f"{len(lines)} facts: {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
