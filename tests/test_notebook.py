"""Objects that print themselves in a notebook: all that they say is there, and what strangers wrote stays text."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import kedit
from kedit import notebook
from kedit.doctor.finding import Diagnosis, Finding
from kedit.evaluation.statistics import Measured
from kedit.evaluation.task import judged
from kedit.neurons import NeuronScores
from kedit.pipelines.display import display
from kedit.pipelines.export import Exported
from kedit.pipelines.export_check import Check
from kedit.plots import draw_layers
from kedit.results.table import Table
from tests.page_reader import EVIL, TOLD, read_page

TURNING = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_markup_and_marks_of_direction_are_seen_and_do_nothing() -> None:
    shown = notebook.escape(f"<b>{TURNING}")
    assert shown.startswith("&lt;b&gt;\\u061c\\u200e")
    assert shown.count("\\u") == len(TURNING) and not set(TURNING) & set(shown)
    assert notebook.escape("שלום, عربي, 👩‍🔬") == "שלום, عربي, 👩‍🔬"  # what is written from right to left stays itself


def test_a_result_is_its_sentence_its_tables_and_a_figure_and_says_nothing_twice() -> None:
    table = Table((EVIL, "drop"), ((EVIL, Measured(0.5, 0.25, 0.75, 8)),), EVIL, ("The verdict.", EVIL))
    seen = read_page(display("The verdict.", [table], draw_layers({"": {0: 3}}, {0: 8})), table)
    assert seen.texts.count("The verdict.") == 1 and seen.elements[1] == "strong"
    assert seen.texts.count(TOLD) == 4 and "0.50 [0.25, 0.75]" in seen.texts
    assert len(seen.pictures) == 1 and seen.elements[-1] == "img"
    assert read_page(display("", [table]), table).pictures == []


def test_a_neuron_set_shows_its_neurons_by_layer() -> None:
    neurons = kedit.NeuronSet([(0, 3), (0, 5), *((2, index) for index in range(14))], site="act", scope="vision")
    seen = read_page(neurons._repr_html_())
    assert seen.texts[1] == "16 neurons at `act` of `vision`"
    assert "3, 5" in seen.texts and "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more" in seen.texts
    assert "0 neurons at `mid`" in read_page(kedit.NeuronSet()._repr_html_()).texts


def test_scores_show_the_best_neurons_and_how_many_there_are() -> None:
    values = torch.tensor([[0.5, float("nan"), 3.25], [-1.0, 2.0, 0.0]])
    seen = read_page(NeuronScores(values, EVIL)._repr_html_())
    cells = [text for kind, text in zip(seen.elements, seen.texts, strict=True) if kind == "td"]
    assert cells == ["0", "2", "3.25", "1", "1", "2", "0", "0", "0.5", "1", "2", "0", "1", "0", "-1"]
    assert f"2 layers x 3 neurons at `mid` by {TOLD}" in seen.texts and "the best 5 of 5 scores" in seen.texts
    many = read_page(NeuronScores(torch.randn(4, 64), "x")._repr_html_())
    assert many.elements.count("tr") == 11 and "the best 10 of 256 scores" in many.texts


def test_a_report_of_a_task_shows_every_kind_of_question_and_the_verdict() -> None:
    questions = [kedit.Question("what?", "star", EVIL), kedit.Question("who?", "moon", "fact")]
    report = judged(questions, ["star", "moon"], ["sun", "moon"], [["star", "moon"]], neurons=3)
    seen = read_page(report._repr_html_())
    assert TOLD in seen.texts and report.verdict in seen.texts
    figures = [str(one[kind]) for one in (report.before, report.after, report.control) for kind in one]
    assert set(figures) <= set(seen.texts)


def test_pictures_stand_side_by_side_under_what_they_are_called() -> None:
    sample = kedit.Sample(EVIL, Image.new("RGB", (600, 300)), objects=frozenset({"star"}))
    seen = read_page(sample._repr_html_())
    assert f"{TOLD}: star" in seen.texts and [one.size for one in seen.pictures] == [(256, 128)]
    pair = kedit.Counterfactual(sample, kedit.Concept(EVIL), Image.new("CMYK", (600, 300)))
    seen = read_page(pair._repr_html_())
    assert f"without {TOLD}" in seen.texts and len(seen.pictures) == 2
    controlled = kedit.Counterfactual(sample, kedit.Concept("star"), sample.image, control=sample.image)
    assert len(read_page(controlled._repr_html_()).pictures) == 3


def test_a_diagnosis_shows_what_its_text_says() -> None:
    findings = {"zero": Finding("SUPPORTED", "", 0.002, 0.01), EVIL: Finding("NOT_APPLICABLE", "it has none")}
    found = Diagnosis("m", findings)
    seen = read_page(found._repr_html_())
    assert {"SUPPORTED", "zero", "0.002 <= 0.01", f"not applicable: {TOLD} (it has none)"} <= set(seen.texts)
    assert "0.002 <= 0.01" in str(found)


def test_an_export_shows_what_its_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a & <b>").mkdir()
    exported = Exported(
        Path("a & <b>"), "ia3", Check(prompts=8, tokens=5, difference=0, tolerance=0, captions=8, effect=1)
    )
    assert read_page(exported._repr_html_()).texts == str(exported).splitlines()
