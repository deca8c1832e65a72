"""A file of facts is dealt out to locating and judging, and what is wrong with it is told in one line."""

from pathlib import Path
from typing import Any

import pytest

import kedit
from kedit.data.prompts import LISTS, Prompts
from kedit.samples import Concept, Split
from tests.tiny_facts import CAPITALS, line, opposite, written


def split(data: Prompts, name: str = "Tokyo", seed: int = 0, **counts: int) -> Split:
    concept = next(one for one in data.concepts if one.name == name)
    return data.split_up_to(concept, **{"locate": 24, "target": 60, "retention": 60, "seed": seed} | counts)


def texts(samples: Any) -> list[str]:
    return [one.text for one in samples]


# --- what is dealt out


def test_an_answer_is_a_concept_of_its_kind(tmp_path: Path) -> None:
    data = Prompts(str(written(tmp_path, line("Japan", answers=["Tokyo", "Edo"], answer=None), opposite("hot"))))
    assert data.concepts == (Concept("Tokyo", ("Tokyo", "Edo"), "capital"), Concept("cold"))
    assert data.questions == ()


@pytest.mark.parametrize("seed", range(4))
def test_half_of_the_phrasings_are_located_with_the_prompt_among_them(tmp_path: Path, seed: int) -> None:
    data = Prompts(str(written(tmp_path)))
    parts = split(data, seed=seed)
    fact = data.facts[0]
    seen, held_out = set(texts(parts.locate)), texts(parts.target)
    assert len(seen) == len(held_out) == 2 and fact.phrasings[0] in seen
    assert seen | set(held_out) == set(fact.phrasings)


def test_each_phrasing_stands_beside_every_other_subject_one_of_each_first(tmp_path: Path) -> None:
    pairs = split(Prompts(str(written(tmp_path)))).locate
    assert len(pairs) == 4
    assert pairs[0].text != pairs[1].text, "first one pair of each phrasing"
    subjects = {one: next(name for name in CAPITALS if name in one.counterfactual) for one in pairs}
    assert {(one.text, subjects[one]) for one in pairs} == {
        (text, other) for text in {one.text for one in pairs} for other in ("Germany", "Italy")
    }
    assert all(one.counterfactual == one.text.replace("Japan", subjects[one]) for one in pairs)


def test_what_an_edit_must_keep_is_near_or_far_and_was_not_seen(tmp_path: Path) -> None:
    parts = split(Prompts(str(written(tmp_path))))
    assert sorted(texts(parts.near)) == ["the capital of China is", "the capital of France is"]
    # Germany and Italy stand in the counterfactuals; China and France are near.
    assert {one.text for one in parts.far if "capital" in one.text} == {"the capital of Peru is"}
    assert len(parts.far) == 5 and parts.skipped == {"seen_while_locating": 2}
    assert {name for one in parts.near for name in one.objects} == {"Beijing", "Paris"}
    assert {one.text for one in parts.questions} == set(texts(parts.locate))


def test_a_neighbour_that_is_no_fact_of_the_file_is_a_word_to_listen_for(tmp_path: Path) -> None:
    parts = split(Prompts(str(written(tmp_path, line("Japan"), opposite("hot")))))
    assert [one.name for one in parts.vocabulary] == ["Beijing", "Paris"]
    assert split(Prompts(str(written(tmp_path)))).vocabulary == ()


def test_neighbours_of_one_name_share_their_words_and_no_name_of_the_file_is_taken(tmp_path: Path) -> None:
    given = {"a": ["cat", "kitten"], "b": ["cat"], "c": ["hot"], "d": ["cold"]}
    near = [{"prompt": prompt, "answers": answers} for prompt, answers in given.items()]
    other = opposite("hot") | {"concept": "hot"}
    parts = split(Prompts(str(written(tmp_path, line("Japan", neighbours=near), other))))
    assert {one.name: set(one.words) for one in parts.vocabulary} == {
        "cat": {"cat", "kitten"}, "hot (neighbour)": {"hot"},
    }  # fmt: skip
    assert {one.text: set(one.objects) for one in parts.near} == {
        "a": {"cat"}, "b": {"cat"}, "c": {"hot (neighbour)"}, "d": {"hot"},
    }  # fmt: skip


def test_a_fact_with_the_same_answer_is_not_asked_as_another_one(tmp_path: Path) -> None:
    same = line("Peru", concept="the capital of Peru", answer="tokyo")
    assert "the capital of Peru is" not in texts(split(Prompts(str(written(tmp_path, line("Japan"), same)))).far)


def test_a_fact_whose_answer_names_the_concept_or_is_named_by_it_is_not_asked_as_another_one(tmp_path: Path) -> None:
    bay = line("Peru", answer="Tokyo Bay")
    data = Prompts(str(written(tmp_path, line("Japan"), bay, opposite("hot"))))
    assert [texts(split(data, one).far) for one in ("Tokyo", "Tokyo Bay")] == [["the opposite of hot is"]] * 2


def test_several_lines_may_be_about_one_concept(tmp_path: Path) -> None:
    second = line("China", id="more", concept="Tokyo", answer="Tokyo", other_subjects=["Italy"], neighbours=[])
    parts = split(Prompts(str(written(tmp_path, line("Japan"), second))))
    prompts = {"the capital of Japan is", "the capital of China is"}
    assert prompts <= set(texts(parts.locate)) and len(parts.target) == 4


@pytest.mark.parametrize("seed", range(6))
def test_a_text_of_two_lines_is_located_with_or_judged_on_and_counts_once(tmp_path: Path, seed: int) -> None:
    shared = ["in Japan the capital is", "the capital city of Japan is", "the first city of Japan is", "Japan 's is"]
    second = {"id": "more", "prompt": shared[0], "paraphrases": ["the capital of Japan is", *shared[1:]]}
    data = Prompts(str(written(tmp_path, line("Japan", paraphrases=shared), line("Japan", **second))))
    parts = split(data, seed=seed)
    asked = texts(parts.target)
    assert sorted(asked) == sorted(set(asked) - set(texts(parts.locate))) and len(asked) == 3
    assert sorted(texts(parts.questions)) == ["in Japan the capital is", "the capital of Japan is"]
    assert texts(split(data, seed=seed, locate=1).target) == asked


def test_a_paraphrase_that_is_a_counterfactual_elsewhere_is_not_judged_on(tmp_path: Path) -> None:
    asked = ["the capital of Peru is", "the capital city of Japan is"]
    parts = split(Prompts(str(written(tmp_path, line("Japan", paraphrases=asked, other_subjects=["Peru"])))))
    assert texts(parts.target) == ["the capital city of Japan is"] and parts.skipped == {"seen_while_locating": 1}


def test_without_a_text_to_judge_on_what_is_missing_is_told(tmp_path: Path) -> None:
    first, second = "the capital of Japan is", "in Japan the capital is"
    lines = [line("Japan", paraphrases=[second]), line("Japan", id="more", prompt=second, paraphrases=[first])]
    with pytest.raises(ValueError, match=r"`Tokyo` has no phrasing in .* that is not located with.*`paraphrases`"):
        split(Prompts(str(written(tmp_path, *lines))))


def test_counts_limit_what_is_taken_and_a_strict_split_refuses_fewer(tmp_path: Path) -> None:
    data = Prompts(str(written(tmp_path)))
    parts = data.split("Tokyo", locate=2, target=1, retention=1)
    assert [len(getattr(parts, name)) for name in ("locate", "target", "near", "far")] == [2, 1, 1, 1]
    with pytest.raises(ValueError, match=r"`Tokyo` has 2 texts for `target` in .*, and 3 are asked for"):
        data.split("Tokyo", locate=2, target=3, retention=1)


def test_a_subject_is_a_whole_word(tmp_path: Path) -> None:
    told = line("Peru", prompt="the Peruvian capital of Peru is", paraphrases=["the Peruvian capital is"])
    (fact,) = Prompts(str(written(tmp_path, told))).facts
    assert fact.counters == {
        "the Peruvian capital of Peru is": ("the Peruvian capital of Japan is", "the Peruvian capital of Germany is")
    }


@pytest.mark.parametrize(
    ("subject", "other", "prompt", "answer"),
    [
        ("日本", "法国", "日本的首都是", "东京"),
        ("フランス", "イタリア", "ええと、フランスの首都は", "パリ"),
        ("한국", "일본", "한국의 수도는", "서울"),
        ("-5", "-7", "the opposite of -5 is", "five"),
    ],
)
def test_a_subject_may_stand_without_spaces_in_scripts_that_have_none(
    tmp_path: Path, subject: str, other: str, prompt: str, answer: str
) -> None:
    told = line(
        "Japan", prompt=prompt, answer=answer, subject=subject, other_subjects=[other], paraphrases="?", neighbours=None
    )
    (fact,) = Prompts(str(written(tmp_path, told))).facts
    assert fact.counters == {prompt: (prompt.replace(subject, other),)}


def test_without_a_subject_the_prompt_alone_is_located_with(tmp_path: Path) -> None:
    told = line("Japan", subject=None, other_subjects=None, counter_prompt=["the capital of Peru is"])
    parts = split(Prompts(str(written(tmp_path, told))))
    assert texts(parts.locate) == ["the capital of Japan is"] and len(parts.target) == 3


def test_too_few_phrasings_for_evidence_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    split(Prompts(str(written(tmp_path))))
    assert caplog.messages == ["`Tokyo` has 2 phrasings to judge an edit on: of fewer than 6, no result is evidence"]
    caplog.clear()
    split(Prompts(str(written(tmp_path))), target=1)
    more = [f"{number} : the capital of Japan is" for number in range(11)]
    split(Prompts(str(written(tmp_path, line("Japan", paraphrases=more)))))
    assert not caplog.messages


# --- what is wrong


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "line 1: `prompt` is a text, got None"),
        ({"answer": None}, "line 1: `answer` is a text, got None"),
        ({"answer": 3}, "line 1: `answer` is a text or a list of texts, got 3"),
        ({"answers": [""]}, "line 1: `answers` is a text or a list of texts"),
        ({"paraphrase": "x"}, "line 1: no key `paraphrase`; did you mean `paraphrases`?"),
        ({"zzz": "x"}, "line 1: no key `zzz`; there are id, concept"),
        ({"subject": None, "other_subjects": None}, "line 1: there is no counterfactual; give a `counter_prompt`"),
        ({"other_subjects": None}, "line 1: there is no counterfactual"),
        ({"counter_prompt": "x"}, "a counterfactual is a `counter_prompt` or a `subject`, and both are given"),
        ({"subject": "Spain"}, "the `subject` 'Spain' does not stand in the prompt 'the capital of Japan is'"),
        ({"other_subjects": ["Peru", "Japan"]}, "'Japan' is the `subject` and one of the `other_subjects`"),
        (
            {"subject": None, "other_subjects": None, "counter_prompt": "the capital of Japan is"},
            "the `counter_prompt` is the prompt itself",
        ),
        ({"paraphrases": []}, "`paraphrases` has no text, and edits are judged on them"),
        ({"paraphrases": ["the capital of Japan is"]}, "'the capital of Japan is' is there twice"),
        ({"prompt": "Japan 's TOKYO is"}, "the answer 'TOKYO' stands in the prompt"),
        ({"paraphrases": ["Tokyo , Japan 's capital , is"]}, "the answer 'Tokyo' stands in the prompt"),
        ({"id": "a,b"}, "an `id` has no comma, got 'a,b'"),
        ({"neighbours": "Rome"}, "`neighbours` is a list of objects with `prompt` and `answer`, got 'Rome'"),
        ({"neighbours": [{"prompt": "a"}]}, "line 1, neighbour 1: `answer` is a text, got None"),
        ({"neighbours": [{"prompt": "a", "anser": "b"}]}, "neighbour 1: no key `anser`; did you mean `answer`?"),
        ({"neighbours": [{"prompt": "Rome is", "answer": "Rome"}]}, "the answer 'Rome' stands in the prompt 'Rome is'"),
        ({"neighbours": [{"prompt": "x", "answer": "tokyo"}]}, "'tokyo' names this answer and that of the fact itself"),
    ],
)
def test_a_line_that_cannot_be_used_is_told_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        _ = Prompts(str(written(tmp_path, line("Japan", **changes)))).facts
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("own", "other"), [("Tokyo", "Tokyo Bay"), ("Tokyo Bay", "tokyo")])
def test_a_neighbour_whose_answer_names_the_facts_is_left_out(
    own: str, other: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = [{"prompt": "x", "answer": other}, {"prompt": "The capital of Italy is", "answer": "Rome"}]
    (fact,) = Prompts(str(written(tmp_path, line("Japan", answer=own, neighbours=asked)))).facts
    assert [one.answers for one in fact.neighbours] == [("Rome",)]
    assert "neighbour 1: left out, since 'Tokyo Bay' names the answer of the fact itself, too" in caplog.text


def test_lines_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: the `id` 'Japan' is also that of .*line 1"):
        _ = Prompts(str(written(tmp_path, line("Japan"), line("Peru", id="Japan")))).facts
    with pytest.raises(ValueError, match=r"line 2: `Tokyo` has other answers in .*line 1"):
        _ = Prompts(str(written(tmp_path, line("Japan"), line("Peru", concept="Tokyo")))).facts


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file `nowhere` of facts, .*kedit ships smollm2"):
        _ = Prompts("nowhere").facts
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no line, so no fact"):
        _ = Prompts(str(tmp_path / "empty.jsonl")).facts
    (tmp_path / "broken.jsonl").write_text("{}\nno JSON\n")
    with pytest.raises(ValueError, match=r"line 1: no key|line 1: `prompt` is a text"):
        _ = Prompts(str(tmp_path / "broken.jsonl")).facts


# --- the list that ships


def test_the_shipped_list_has_eighty_facts_each_with_all_that_a_run_needs() -> None:
    data = kedit.Prompts("smollm2")
    assert (LISTS / "smollm2.jsonl").is_file()
    assert len(data.facts) >= 80 and len(data.concepts) == len(data.facts)
    assert all(len(fact.phrasings) >= 3 and len(fact.neighbours) >= 2 and fact.kind for fact in data.facts)
    for concept in data.concepts:
        parts = data.split_up_to(concept, locate=24, target=60, retention=60, seed=0)
        assert parts.locate and len(parts.target) >= 2 and len(parts.near) >= 2 and len(parts.far) >= 40
