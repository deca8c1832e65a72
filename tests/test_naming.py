"""The located neurons by name, with their scores and words, in the foot of a table and in neurons.csv."""

import csv
import io
from pathlib import Path

import pytest
import tiny_families
import torch

from kedit.inspection.decode import decode, strongest_words
from kedit.internals.sites import Site
from kedit.models.planted import Planted
from kedit.neurons import NeuronId, NeuronScores, NeuronSet
from kedit.pipelines.locate import Located, leave
from kedit.pipelines.naming import MOST_READ, N_SHOWN, N_WORDS, NamedNeuron, name_neurons
from kedit.results.run_folder import Run

NAN = float("nan")


def scores_of(planted: Planted) -> dict[str, NeuronScores]:
    """Return scores of two stages that rank the neurons the other way round, the last one none of the first layer's."""
    site = planted.model.site("mid")
    values = torch.arange(float(site.n_neurons)).reshape(len(site.widths), -1)
    late = -values
    late[0, 0] = NAN
    return {"first": NeuronScores(values, "a"), "last": NeuronScores(late, "b")}


def test_the_best_of_the_last_stage_comes_first_with_every_stages_score_and_the_decoded_words(
    planted: Planted,
) -> None:
    neurons, scores, model = NeuronSet(((0, 0), (0, 2), (1, 1))), scores_of(planted), planted.model
    named = name_neurons(neurons, scores, model, model.site("mid"))
    width = scores["first"].values.shape[1]
    assert [row.name for row in named.rows] == ["0.2", "1.1", "0.0"]
    assert [row.scores for row in named.rows] == [
        {"first": 2.0, "last": -2.0}, {"first": width + 1.0, "last": -width - 1.0}, {"first": 0.0, "last": None},
    ]  # fmt: skip
    decoded = {one.neuron: one.words for one in decode(model, neurons, N_WORDS)}
    assert {row.neuron: tuple(word.strip("'") for word in row.words) for row in named.rows} == decoded
    assert named.why == ""


def test_a_line_has_the_name_the_scores_and_the_words() -> None:
    row = NamedNeuron("0.21", NeuronId(0, 21), {"difference": 1.234, "gradcam": None}, ("star", "stars"))
    assert row.line == "0.21 (difference 1.23): star, stars"
    assert NamedNeuron("0.21", NeuronId(0, 21), {}, ()).line == "0.21"


def test_the_foot_has_the_first_ones_and_says_how_many_more_there_are(planted: Planted) -> None:
    model, scores = planted.model, scores_of(planted)
    for n in (0, 1, N_SHOWN, N_SHOWN + 3):
        lines = name_neurons(NeuronSet(tuple((1, i) for i in range(n))), scores, model, model.site("mid")).lines
        assert [line.split()[0] for line in lines[:N_SHOWN]] == [f"1.{i}" for i in range(min(n, N_SHOWN))]
        assert lines[N_SHOWN:] == (("  and 3 more in neurons.csv",) if n > N_SHOWN else ())


def test_the_file_has_a_row_for_each_neuron(planted: Planted, tmp_path: Path) -> None:
    neurons, scores, model = NeuronSet(((0, 0), (1, 1))), scores_of(planted), planted.model
    named = name_neurons(neurons, scores, model, model.site("mid"))
    with Run(tmp_path / "run") as run:
        leave(Located(scores, {"last": neurons}, model.site("mid").widths, {}, named=named), run)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run" / "neurons.csv").read_text())))
    assert list(rows[0]) == ["neuron", "layer", "index", "first", "last", "words"]
    assert NeuronSet(tuple((int(row["layer"]), int(row["index"])) for row in rows)) == neurons
    assert [row["words"] for row in rows] == [" ".join(one.words) for one in named.rows]
    assert rows[1]["neuron"] == "0.0" and rows[1]["last"] == ""


def test_a_model_without_words_leaves_them_out_and_says_why(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    site, scores = planted.model.site("mid"), scores_of(planted)
    outside = name_neurons(NeuronSet(((0, 0),), scope="vision"), scores, planted.model, site)
    assert outside.rows[0].words == ()
    assert "`vision` do not write into the stream" in outside.lines[-1]
    unknown = name_neurons(NeuronSet(((0, 0),)), scores)
    assert unknown.lines == ("  0.0 (first 0)", "  no words: the scores come without a model")
    monkeypatch.setattr(type(planted.model.module), "get_output_embeddings", lambda self: None)
    blank = name_neurons(NeuronSet(((0, 0),)), scores, planted.model, site)
    assert blank.rows[0].words == () and "has no output matrix" in blank.why
    assert blank.table().rows[0][-1] == ""


def test_only_the_best_of_very_many_are_read(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedit.pipelines.naming.MOST_READ", 2)
    named = name_neurons(NeuronSet(((0, 1), (0, 2), (0, 3))), scores_of(planted), planted.model)
    assert [bool(row.words) for row in named.rows] == [True, True, False]
    assert named.why == "words of the best 2 neurons alone" and MOST_READ > 100


def test_a_neuron_of_an_expert_is_named_by_it() -> None:
    module = tiny_families.mixtral()
    site = Site.of(module, "mid")
    one = site.of_expert(min(site.blocks), 1, 2)
    (row,) = name_neurons(NeuronSet((one,)), {}, None, site).rows
    assert row.name == f"{one.layer}.e1.2" == site.label(one)


def test_words_stay_on_one_line(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(planted.model), "words", lambda self, tokens: [" a", "\n", ",", "\x1b[2J"][: len(tokens)])
    (words,) = strongest_words(planted.model, NeuronSet(((0, 0),)), 4).values()
    assert words == ("a", "'\\n'", "','", "'\\x1b[2J'")
