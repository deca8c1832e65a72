"""Pairs of texts stand for pairs of pictures: facts are located, edited and judged by free answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kedit
from kedit.cli import main
from kedit.cli.compare import has_matrix
from kedit.internals.hooks import record
from kedit.locate.shipped import shipped
from kedit.models.chat import own_tokens
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.loading import wrap
from kedit.prompts import Prompt
from kedit.samples import TextPair, TextSample
from tests.tiny_facts import learned, line, opposite, sentences, written

COUNTS = kedit.Counts(controls=2)
AT_ANSWER = kedit.Locator(
    {
        "difference": kedit.Stage(kedit.ActivationDifference("target"), kedit.TopK(512)),
        "gradcam": kedit.Stage(kedit.GradCAM("target"), kedit.TopK(20)),
    }
)
TOKYO = kedit.Concept("Tokyo")


@pytest.fixture(scope="module")
def model() -> HuggingFaceMLLM:
    return wrap(*learned(), name="knows", max_new_tokens=4, template="none")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> kedit.Prompts:
    return kedit.Prompts(str(written(tmp_path_factory.mktemp("facts"))))


@pytest.fixture(scope="module")
def result(model: HuggingFaceMLLM, facts: kedit.Prompts) -> kedit.RunResult:
    return kedit.run(model, facts, "Tokyo", locate=AT_ANSWER, counts=COUNTS, progress=False)


def pair(text: str, other: str) -> TextPair:
    return TextPair(TextSample(text, text, frozenset({"Tokyo"}), other), TOKYO)


# --- how a prompt is written


def test_the_stand_in_knows_its_facts(model: HuggingFaceMLLM) -> None:
    answers = model.ask([asked for asked, _ in sentences()])
    assert [one.text for one in answers] == [f"{answer} ." for _, answer in sentences()]


def test_without_a_template_a_prompt_is_read_as_it_is(model: HuggingFaceMLLM) -> None:
    words = model.processor
    chat = wrap(model.module, words)
    plain, asked = (one.read([Prompt("the capital of Japan is")], [()]).inputs["input_ids"][0] for one in (model, chat))
    assert words.decode(plain) == "the capital of Japan is"
    assert words.decode(asked) == "user : the capital of Japan is"
    assert own_tokens(words, Prompt("the capital of Japan is"), "none") == plain.tolist()
    assert own_tokens(words, Prompt("the capital of Japan is")) == asked.tolist()


def test_a_template_is_saved_nowhere_and_loaded_by_its_name(model: HuggingFaceMLLM, tmp_path: Path) -> None:
    model.module.save_pretrained(tmp_path)  # type: ignore[operator]
    model.processor.save_pretrained(tmp_path)
    loaded = kedit.load(tmp_path, template="none", device="cpu", max_new_tokens=4)
    assert loaded.ask("the capital of Peru is")[0].text == "Lima ."
    with pytest.raises(ValueError, match=r"`template` is chat .* or none .*, got 'chatml'"):
        kedit.load(tmp_path, template="chatml")  # type: ignore[arg-type]


# --- pairs of texts


def test_a_pair_of_texts_is_compared_as_a_pair_of_pictures_is(model: HuggingFaceMLLM) -> None:
    one = pair("the capital of Japan is", "the capital of Italy is")
    locator = kedit.Locator({"difference": kedit.Stage(kedit.ActivationDifference("target"), kedit.TopK(3))})
    found = locator.score(model, [one])["difference"].values
    wanted = []
    for text in (one.sample.text, one.sample.counterfactual or ""):
        batch = model.read([Prompt(text)], [()])
        with torch.no_grad(), record(model.module, model.site()) as activations:
            model.logits(batch)
        wanted.append(torch.stack([activations[layer][0, -1] for layer in (0, 1)]).abs())
    assert torch.allclose(found, wanted[0] - wanted[1], atol=1e-6)


def test_texts_of_several_lengths_agree_at_their_ends_alone(model: HuggingFaceMLLM) -> None:
    short, long = "the capital of Japan is", "the capital city of Italy is"
    located = {
        texts: kedit.Locator({"d": kedit.Stage(kedit.ActivationDifference("target"), kedit.TopK(3))})
        .score(model, [pair(*texts)])["d"]
        .values
        for texts in ((short, long), (short, short))
    }
    assert float(located[short, short].abs().max()) == 0
    assert float(located[short, long].abs().max()) > 0
    everywhere = kedit.Locator({"d": kedit.Stage(kedit.ActivationDifference("all"), kedit.TopK(3))})
    with pytest.raises(ValueError, match=r"have 5 and 6 positions.*\(`positions=target`\)"):
        everywhere.score(model, [pair(short, long)])
    everywhere.score(model, [pair(short, "the capital of Italy is")])


def test_a_batch_of_pairs_is_scored_as_each_alone(model: HuggingFaceMLLM) -> None:
    pairs = [pair("the capital of Japan is", "the capital city of Italy is"),
             pair("the capital city of Japan is", "the capital of Peru is")]  # fmt: skip
    locator = shipped("two_stage_answer")
    together, *alone = (locator.score(model, some) for some in (pairs, pairs[:1], pairs[1:]))
    for stage, scores in together.items():
        mean = (alone[0][stage].values + alone[1][stage].values) / 2
        assert torch.allclose(scores.values, mean, atol=1e-5)


def test_knowledge_neurons_and_causal_effect_read_texts(model: HuggingFaceMLLM) -> None:
    pairs = [pair("the capital of Japan is", "the capital of Italy is")]
    kn = shipped("knowledge_neurons").score(model, pairs)["knowledge_neurons"]
    assert float(kn.provenance["completeness_error"]) < 0.05
    effect = shipped("causal_effect").score(model, pairs)["causal_effect"].values
    layer, index = divmod(int(effect.abs().argmax()), effect.shape[1])
    batch, token = model.read([Prompt("the capital of Japan is")], [()]), model.processor.vocab["Tokyo"]
    with torch.no_grad():
        whole = model.logits(batch)[0, -1, token]
        with kedit.Edit([(layer, index)], kedit.Zero()).applied(model):
            left = model.logits(batch)[0, -1, token]
    assert float(whole - left) == pytest.approx(float(effect[layer, index]), abs=1e-5)


@pytest.mark.parametrize("name", ["two_stage", "gradcam", "activation", "difference", "schwettmann"])
def test_what_looks_at_pictures_refuses_texts_in_one_line(
    model: HuggingFaceMLLM, facts: kedit.Prompts, name: str
) -> None:
    with pytest.raises(ValueError, match=r"^stage `\w+` looks at image tokens, .* \(`positions=target`\)$"):
        kedit.locate_neurons(model, facts, "Tokyo", locate=name, progress=False)


def test_what_needs_pictures_refuses_texts_in_one_line(model: HuggingFaceMLLM, facts: kedit.Prompts) -> None:
    given: dict[str, Any] = {"counts": COUNTS, "progress": False}
    with pytest.raises(ValueError, match="an inpainter fills regions of pictures, and the data are texts"):
        kedit.run(model, facts, "Tokyo", inpaint="mean", **given)
    with pytest.raises(ValueError, match="`kedit inspect` needs pictures, and the data are texts"):
        kedit.inspect(model, facts, "Tokyo", locate="two_stage_answer", progress=False)
    controlled = kedit.ActivationDifference("target", control=True)
    with pytest.raises(ValueError, match="the text `the capital of Japan is` has no control"):
        kedit.Locator({"d": kedit.Stage(controlled, kedit.TopK(1))}).score(
            model, [pair("the capital of Japan is", "the capital of Italy is")]
        )


def test_a_model_of_texts_cannot_be_shown_pictures(model: HuggingFaceMLLM) -> None:
    with pytest.raises(ValueError, match="`knows` reads text, not image"):
        kedit.run(model, kedit.Scenes(), "star", counts=COUNTS, progress=False)


# --- a run


def test_zeroing_what_was_located_takes_the_answer_away(result: kedit.RunResult) -> None:
    drop, control = result.report.suppression["mention_drop"], result.report.control.suppression["mention_drop"]
    assert drop.n == 2 and drop.value == 1.0 and (control.value or 0.0) < 1.0
    assert result.report.retention["near_objects"].n == 2 and result.report.retention["far_objects"].n == 5
    assert result.report.retention["text_about"].n == 2, "the phrasings that were located with"


def test_retention_is_the_weaker_of_neighbours_and_other_facts(result: kedit.RunResult) -> None:
    kept = result.report.retention
    assert result.report.weakest in ("near_objects", "far_objects")
    weaker = min(kept["near_objects"].value or 0.0, kept["far_objects"].value or 0.0)
    assert kept["overall"].value == weaker and kept["bertscore"].value is None


def test_a_right_answer_names_the_whole_word_before_and_after(result: kedit.RunResult) -> None:
    rows = [row for row in result.captions if row.group == "target"]
    assert {row.id for row in rows} <= {asked for asked, answer in sentences() if answer == "Tokyo"}
    assert all(row.before == "Tokyo ." and not TOKYO.mentioned_in(row.after) for row in rows)


def test_so_few_phrasings_are_no_evidence(result: kedit.RunResult) -> None:
    comparison = result.report.control.comparison
    assert not result.report.has_evidence and not comparison.beats and comparison.p == 0.5


def test_a_run_names_what_is_measured_of_texts_and_draws_no_picture(result: kedit.RunResult, tmp_path: Path) -> None:
    table = str(result.table().markdown())
    for name in ("T-generality", "T-locality", "T-reliability"):
        assert name in table
    assert set(result.figures) == {"layers", "scores", "effects"}
    folder = result.save(tmp_path / "run")
    report = json.loads((folder / "report.json").read_text())
    assert report["heat_maps"] == {"why": "the neurons were located with texts, and heat maps are of pictures"}
    assert report["samples"]["target"] == 2 and report["samples"]["skipped"]["seen_while_locating"] == 2
    assert (folder / "figures" / "effects.png").stat().st_size > 5000


def test_the_default_locator_of_texts_reads_where_the_answer_is_predicted(
    model: HuggingFaceMLLM, facts: kedit.Prompts
) -> None:
    named, default = (
        kedit.locate_neurons(model, facts, "Tokyo", locate=one, progress=False) for one in ("two_stage_answer", None)
    )
    assert named.neurons == default.neurons and len(named.neurons)


def test_a_store_knows_texts_by_their_content(model: HuggingFaceMLLM, facts: kedit.Prompts, tmp_path: Path) -> None:
    given: dict[str, Any] = {"counts": COUNTS, "progress": False, "store": tmp_path, "select": kedit.TopK(4)}
    first = kedit.run(model, facts, "Tokyo", **given)
    entries = set(tmp_path.rglob("*"))
    again = kedit.run(model, facts, "Tokyo", **given)
    assert set(tmp_path.rglob("*")) == entries and again.to_json() == first.to_json()
    other = kedit.Prompts(
        str(written(tmp_path, line("Japan", other_subjects=["Peru"]), *map(opposite, ("hot", "big"))))
    )
    kedit.run(model, other, "Tokyo", **given)
    assert set(tmp_path.rglob("*")) > entries


def test_methods_are_compared_on_texts(model: HuggingFaceMLLM, facts: kedit.Prompts) -> None:
    methods = ["two_stage", "gradcam", "act_unembed", "random"]
    found = kedit.compare(
        model, facts, ["Tokyo", "Rome"], methods=methods, budget=8,
        positions="target", counts=kedit.Counts(controls=2), progress=False,
    )  # fmt: skip
    assert {(row.concept, row.method) for row in found.rows if row.effect} == {
        (concept, method)
        for concept in ("Tokyo", "Rome")
        for method in ("two_stage", "gradcam", "act_unembed", "random")
    }


def test_a_sweep_goes_over_texts(model: HuggingFaceMLLM, facts: kedit.Prompts) -> None:
    found = kedit.sweep(
        model, facts, ["Tokyo"], select={"gradcam": [kedit.TopK(2), kedit.TopK(4)]}, counts=COUNTS, progress=False
    )
    assert [len(row.run.neurons) for row in found.rows] == [2, 4]


# --- the command


def test_a_comparison_of_texts_has_a_matrix_of_named_concepts_alone() -> None:
    assert has_matrix(None, "image") and has_matrix(["Tokyo"], "text")
    assert not has_matrix(None, "text") and not has_matrix([], "image")


def test_there_is_nothing_to_paint_in_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data=prompts", f"data.path={written(tmp_path)}", "concept=Tokyo", f"hydra.run.dir={tmp_path / 'run'}"]
    assert main(["inpaint", *words]) == 2
    assert "`kedit inpaint` needs pictures, and the data are texts" in capsys.readouterr().err


def test_the_command_locates_texts_where_the_answer_is_predicted(
    model: HuggingFaceMLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.module.save_pretrained(tmp_path / "model")  # type: ignore[operator]
    model.processor.save_pretrained(tmp_path / "model")
    words = [
        "model=huggingface", f"model.path={tmp_path / 'model'}", "model.template=none", "model.max_new_tokens=4",
        "data=prompts", f"data.path={written(tmp_path)}", "concept=Tokyo", "evaluate.controls=1", "figures=false",
        "store=null", f"hydra.run.dir={tmp_path / 'run'}", "select=budget", "select.k=4",
    ]  # fmt: skip
    assert main(["run", *words]) == 0, capsys.readouterr().err
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["locator"] == "two_stage_answer" and report["suppression"]["mention_drop"]["n"] == 2
    assert main(["run", *words, "concept=Madrid", f"hydra.run.dir={tmp_path / 'none'}"]) == 2
    message = capsys.readouterr().err
    assert "no concept `Madrid` in the data" in message
