"""What is plain is taken: names, single things, pairs and tuples. Whatever else comes is told in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kedit
from kedit.edit.operators import Zero
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.media import pictures
from kedit.models.planted import STAR_CONCEPT, Planted, picture, without
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines import given
from kedit.prompts import Prompt, as_prompts
from kedit.samples import find_concept

SCENES = kedit.Scenes()
GRAY = Image.new("RGB", (32, 32), "gray")
SELECT = {"gradcam": kedit.TopK(1)}


@pytest.fixture(scope="module")
def model(planted: Planted) -> HuggingFaceMLLM:
    return planted.model


# --- what is taken


@pytest.mark.parametrize(
    "neurons",
    [
        [(0, 3), (0, 5), (2, 1)],
        ((2, 1), [0, 3], (0, 5)),
        {0: [3, 5], 2: 1},
        {0: range(3, 6, 2), 2: (1,)},
        np.array([(0, 3), (0, 5), (2, 1)]),
        torch.tensor([(0, 3), (0, 5), (2, 1)]),
        (NeuronId(0, 5), NeuronId(0, 3), NeuronId(2, 1)),
        NeuronSet([(0, 3), (0, 5), (2, 1)]),
    ],
    ids=["pairs", "tuples", "by layer", "ranges", "numpy", "torch", "identifiers", "set"],
)
def test_an_edit_takes_neurons_in_every_plain_form(neurons: Any) -> None:
    wanted = NeuronSet((NeuronId(0, 3), NeuronId(0, 5), NeuronId(2, 1)))
    edit = kedit.Edit(neurons, Zero())
    assert edit.neurons == wanted
    assert all(type(number) is int for one in edit.neurons for number in one)


def test_an_edit_of_indices_by_layer_edits_them(model: HuggingFaceMLLM) -> None:
    whole = {layer: range(width) for layer, width in model.site().widths.items()}
    batch = model.teacher_forced(GRAY, [()])
    with torch.no_grad():
        plain = model.logits(batch)
        with kedit.Edit(whole, Zero()).applied(model):
            assert not torch.equal(model.logits(batch), plain)


def test_a_picture_a_file_and_a_list_of_both_have_captions(model: HuggingFaceMLLM, tmp_path: Path) -> None:
    file, drawn = tmp_path / "star.png", picture("star", (5,)).image
    drawn.save(file)
    wanted = model.caption([drawn])
    assert len(wanted) == 1
    for asked in (drawn, file, str(file), [file], (drawn,)):
        assert model.caption(asked) == wanted
    assert model.caption([drawn, str(file)]) == wanted * 2
    assert torch.equal(*(model.logits(model.teacher_forced(one, [()])) for one in ([drawn], file)))


def test_a_file_is_turned_upright_and_read_in_color(tmp_path: Path) -> None:
    turned = Image.new("L", (6, 4), 90)
    exif = turned.getexif()
    exif[0x0112] = 6  # turned by a quarter
    turned.save(tmp_path / "turned.png", exif=exif)
    found = pictures(tmp_path / "turned.png")[0]
    assert (found.size, found.mode) == ((4, 6), "RGB")


def test_texts_are_prompts(model: HuggingFaceMLLM) -> None:
    assert model.ask("the picture :") == model.ask([Prompt("the picture :")]) == model.ask(("the picture :",))
    assert [one.text for one in as_prompts(["a", Prompt("b")])] == ["a", "b"]


def test_the_name_of_a_concept_stands_for_it() -> None:
    star = find_concept(SCENES.concepts, "star")
    by_name, by_value = (SCENES.split(one, locate=2, target=1, retention=1) for one in ("star", star))
    assert [one.id for one in by_name.locate] == [one.id for one in by_value.locate]
    assert find_concept(SCENES.concepts, star) == star
    pair = without(picture("star", (5,)), STAR_CONCEPT)
    assert kedit.Counterfactual(pair.sample, "star", pair.image).concept == kedit.Concept("star")
    assert kedit.EvaluationSet("star", (), (picture("star", (5,)),)).concept == kedit.Concept("star")


def test_a_split_has_counts_of_its_own() -> None:
    split, counts = SCENES.split("star"), kedit.Counts()
    assert (len(split.locate), len(split.target), len(split.near)) == (counts.locate, counts.target, counts.retention)


def test_one_text_is_one_reference_and_one_object() -> None:
    sample = kedit.Sample("1", GRAY, "a dog", "dog")  # type: ignore[arg-type]
    assert (sample.references, sample.objects) == (("a dog",), frozenset({"dog"}))


def test_pipelines_take_names(model: HuggingFaceMLLM) -> None:
    assert given.as_locator("two_stage") == given.as_locator(kedit.two_stage())
    assert given.as_locator(None) == kedit.two_stage()
    assert given.as_inpainter("mean") == kedit.MeanFill()
    assert given.as_inpainter(None) is None
    asked = ("star", ["star"], (kedit.Concept("star"),))
    assert {given.names_of_concepts(SCENES, one) for one in asked} == {("star",)}
    assert kedit.Method("mine", "gradcam").locator == kedit.Method.of("gradcam").locator


def test_the_names_of_inpainters_are_those_of_the_command_line() -> None:
    from kedit.paths import conf_dir

    assert set(given.INPAINTERS) <= {file.stem for file in (conf_dir() / "inpaint").glob("*.yaml")}


# --- what is told

Call = Callable[[HuggingFaceMLLM], object]
NONE = kedit.Edit([(0, 0)], Zero())
PAIR = without(picture("star", (5,)), STAR_CONCEPT)
TOLD: dict[str, list[tuple[Call, type[Exception], str]]] = {
    "load": [
        (lambda m: kedit.load("scene"), FileNotFoundError, "did you mean `scenes`? no folder `scene`"),
        (lambda m: kedit.load(3), TypeError, "`path` is a folder, the name of a shipped model or an id; `wrap`"),
        (lambda m: kedit.load(m.module), TypeError, "`path` is a folder"),
        (lambda m: kedit.load("scenes", batch_size=0), ValueError, "`batch_size` is 1 or more, got 0"),
        (lambda m: kedit.load("scenes", max_new_tokens="8"), TypeError, "`max_new_tokens` is a whole number, 1 or"),
    ],
    "wrap": [
        (lambda m: kedit.wrap("scenes", m.processor), ValueError, "`module` is a model in memory, got str"),
        (lambda m: kedit.wrap(m, m.processor), ValueError, "`module` is a model in memory, got HuggingFaceMLLM"),
        (lambda m: kedit.wrap(m.module, "processor"), ValueError, "needs a processor or a tokenizer of transformers"),
        (lambda m: kedit.wrap(m.module, m.processor, prompt=7), TypeError, "`prompt` is a text, got int 7"),
    ],
    "caption": [
        (lambda m: m.caption(3), TypeError, "`images` is a picture of Pillow, a file of one, or a list of these"),
        (lambda m: m.caption([None]), TypeError, "`images` is a picture of Pillow, a file of one"),
        (lambda m: m.caption("nowhere.png"), FileNotFoundError, "nowhere.png"),
        (lambda m: m.caption(np.zeros((4, 4, 3))), TypeError, "`images` is a picture of Pillow, a file of one"),
    ],
    "ask": [
        (lambda m: m.ask(3), TypeError, "`prompts` is a list of `Prompt` or of texts, got int 3"),
        (lambda m: m.ask([GRAY]), TypeError, "`prompts` is a list of `Prompt` or of texts"),
        (lambda m: m.answer("what is it?"), TypeError, "`questions` is a list of `Question`; `ask` takes texts"),
        (lambda m: Prompt("what?", "picture.png"), TypeError, "`image` is a picture of Pillow, got str"),
    ],
    "run": [
        (lambda m: kedit.run("scenes", SCENES, "star"), TypeError, "`model` is a model with its processor: `kedit"),
        (lambda m: kedit.run(m.module, SCENES, "star"), TypeError, "`kedit.wrap(module, processor)` makes one of it"),
        (lambda m: kedit.run(m, "scenes", "star"), TypeError, "`data` is a data set, such as `kedit.Scenes()`"),
        (lambda m: kedit.run(m, SCENES, 3), TypeError, "`concept` is the name of a concept, got int 3"),
        (lambda m: kedit.run(m, SCENES, "stern"), LookupError, "no concept `stern` in the data; nearest: star"),
        (lambda m: kedit.run(m, SCENES, "star", counts=8), TypeError, "`counts` is a `kedit.Counts`, such as `kedit."),
        (lambda m: kedit.run(m, SCENES, "star", seed="0"), TypeError, "`seed` is a whole number, 0 or more, got str"),
        (lambda m: kedit.run(m, SCENES, "star", edit="zero"), TypeError, "an operator is an object such as `Zero()`"),
        (lambda m: kedit.run(m, SCENES, "star", edit=Zero), TypeError, "got the class Zero: write `Zero(...)`"),
        (lambda m: kedit.run(m, kedit.Scenes, "star"), TypeError, "`data` is the class Scenes, and no data set yet"),
        (lambda m: kedit.run(m, SCENES, "star", locate="gradcan"), LookupError, "`locate`: no method `gradcan`; near"),
        (lambda m: kedit.run(m, SCENES, "star", locate=kedit.GradCAM()), TypeError, "`locate` is a `Locator`, such as"),
        (lambda m: kedit.run(m, SCENES, "star", inpaint="grey"), LookupError, "`inpaint` is one of exact, mean, blur"),
        (lambda m: kedit.run(m, SCENES, "star", inpaint=kedit.MeanFill), TypeError, "`inpaint` is an object such as"),
    ],
    "locate_neurons": [
        (lambda m: kedit.locate_neurons(None, SCENES, "star"), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.locate_neurons(m, None, "star"), TypeError, "`data` is a data set"),
        (lambda m: kedit.locate_neurons(m, SCENES, ["star"]), TypeError, "`concept` is the name of a concept, got"),
    ],
    "rank_planted": [
        (lambda m: kedit.rank_planted(["gradcan"]), LookupError, "no method `gradcan`; nearest"),
        (lambda m: kedit.rank_planted("gradcam", variants=["plane"]), ValueError, "`planted.variants` names some of"),
        (lambda m: kedit.rank_planted(["gradcam"], models=0), ValueError, "`models` is 1 or more, got 0"),
        (lambda m: kedit.rank_planted(["gradcam"], pictures="8"), TypeError, "`pictures` is a whole number"),
    ],
    "compare": [
        (lambda m: kedit.compare(m, SCENES, 3), TypeError, "`concepts` is a list of names of concepts, or one name"),
        (lambda m: kedit.compare(m, SCENES, ["star"], methods=["gradcan"]), LookupError, "no method `gradcan`; near"),
        (lambda m: kedit.compare(m, SCENES, ["star"], counts=3), TypeError, "`counts` is a `kedit.Counts`"),
        (lambda m: kedit.Method(3, kedit.two_stage()), TypeError, "`name` is what the row is called, got int 3"),
    ],
    "sweep": [
        (lambda m: kedit.sweep("m", SCENES, ["star"], SELECT), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.sweep(m, SCENES, "star", SELECT), ValueError, "`concepts` is a list of names, at least one"),
        (lambda m: kedit.sweep(m, SCENES, [3], SELECT), TypeError, "`concept` is the name of a"),
    ],
    "evaluate": [
        (lambda m: kedit.evaluate("m", SCENES, "star", edit=NONE), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.evaluate(m, SCENES, "star", edit=3), TypeError, "`edit` is an `Edit`, a folder or a module"),
        (lambda m: kedit.evaluate(m, SCENES, "stern", edit=NONE), LookupError, "no concept `stern` in the data"),
    ],
    "export": [
        (lambda m: kedit.export(Zero(), m, "x"), TypeError, "`edit` is an `Edit` of neurons, such as `Edit(result"),
        (lambda m: kedit.export(NONE, "m", "x"), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.export(NONE, m, 3), TypeError, "`folder` is where the export goes, got int 3"),
        (lambda m: kedit.export(NONE, m, "x", to="lorra"), ValueError, "`to` is one of merged, ia3, lora, delta, got"),
    ],
    "gone": [
        (lambda m: kedit.gone(3, m, SCENES, "star"), TypeError, "`edit` is an `Edit` of neurons, such as"),
        (lambda m: kedit.gone(NONE, "m", SCENES, "star"), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.gone(NONE, m, SCENES, "stern"), LookupError, "no concept `stern` in the data; nearest: star"),
        (lambda m: kedit.gone(NONE, m, SCENES, "star", lessons=3), TypeError, "`lessons` is a `kedit.Lessons`, such"),
        (lambda m: kedit.gone(NONE, m, SCENES, "star", never_knew="x"), TypeError, "`model` is a model with its pro"),
        (lambda m: kedit.gone(NONE, m, SCENES, "star", prompts="say"), TypeError, "`prompts` is a list of texts, got"),
        (lambda m: kedit.Lessons(pictures=0), ValueError, "`pictures` is 1 or more, got 0"),
    ],
    "apply_delta": [
        (lambda m: kedit.apply_delta("m", "x"), TypeError, "`model` is a module, or holds one as `.module`; got str"),
        (lambda m: kedit.apply_delta(m, 3), TypeError, "`folder` is a folder with a delta, got int 3"),
        (lambda m: kedit.apply_delta(m, "/no/where"), FileNotFoundError, "there is no `delta.safetensors` in `/no/wh"),
    ],
    "revert_delta": [
        (lambda m: kedit.revert_delta(None, "x"), TypeError, "`model` is a module, or holds one as `.module`; got No"),
        (lambda m: kedit.revert_delta(m, None), TypeError, "`folder` is a folder with a delta, got NoneType None"),
        (lambda m: kedit.revert_delta(m, "/no/where"), FileNotFoundError, "there is no `delta.safetensors` in `/no/w"),
    ],
    "inspect": [
        (lambda m: kedit.inspect(m, SCENES, "star", 3), TypeError, "`ids` are pairs of layer and index"),
        (lambda m: kedit.inspect(m, SCENES, "star", looks=3), TypeError, "`looks` is a `kedit.Looks`, such as"),
        (lambda m: kedit.inspect(m, SCENES, None), TypeError, "`concept` is the name of a concept, got NoneType None"),
        (lambda m: kedit.Looks(words="ten"), TypeError, "`words` is a whole number, 1 or more, got str 'ten'"),
    ],
    "check_folder": [
        (lambda m: kedit.check_folder(3), TypeError, "`folder` is a folder, or a `Folder` or `Coco`, got int 3"),
        (lambda m: kedit.check_folder("/no/where"), FileNotFoundError, "/no/where"),
        (lambda m: kedit.check_folder(SCENES), TypeError, "`folder` is a folder, or a `Folder` or `Coco`, got Scenes"),
    ],
    "task": [
        (lambda m: kedit.task("m", SCENES), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.task(m, "scenes"), TypeError, "`questions` is a data set with questions, such as"),
        (lambda m: kedit.task(m, SCENES, counts=24), TypeError, "`counts` is a `kedit.Counts`, such as"),
        (lambda m: kedit.Counts(locate="all"), TypeError, "`locate` is a whole number, 1 or more"),
        (lambda m: kedit.Counts(controls=-1), ValueError, "`controls` is 0 or more, got -1"),
    ],
    "drawer": [
        (lambda _: kedit.drawer("m"), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.drawer(m.module), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.drawer(m), ValueError, "draws no pictures; models that do are Janus, Emu3"),
    ],
    "draw": [
        (lambda m: kedit.draw("m", SCENES, "star"), TypeError, "`model` is a model with its processor"),
        (lambda m: kedit.draw(m, SCENES, "star"), ValueError, "draws no pictures; models that do are Janus, Emu3"),
        (lambda m: kedit.draw(m, SCENES, "star", locate="gradkam"), LookupError, "no method `gradkam`; nearest"),
        (lambda m: kedit.draw(m, SCENES, "star", counts=24), TypeError, "`counts` is a `kedit.Counts`, such as"),
    ],
    "diagnose": [
        (lambda m: kedit.diagnose("scenes"), TypeError, "`model` is a model with its processor, as `load` and `wrap`"),
        (lambda m: kedit.diagnose(m.module), TypeError, "wrap it: `HuggingFaceMLLM(module, processor)`"),
        (lambda m: kedit.diagnose(m, 3), TypeError, "`checks` is the name of a check, or a list of them, got int 3"),
    ],
    "counts": [
        (lambda m: kedit.Counts(locate="8"), TypeError, "`locate` is a whole number, 1 or more, got str '8'"),
        (lambda m: kedit.Counts(target=0), ValueError, "`target` is 1 or more, got 0"),
        (lambda m: kedit.Counts(2.5), TypeError, "`locate` is a whole number, 1 or more, got float 2.5"),
    ],
    "samples": [
        (lambda m: kedit.Concept(3), TypeError, "`name` is the name of a concept, got int 3"),
        (lambda m: kedit.Concept("dog", (3,)), TypeError, "the words of `dog` are texts, got int 3"),
        (lambda m: kedit.Concept("dog", "dogs"), TypeError, "the words of `dog` are a sequence, got 'dogs'"),
        (lambda m: kedit.Sample("1", "picture.png"), TypeError, "`image` is a picture of Pillow, got str"),
        (lambda m: kedit.Counterfactual("1", "star", GRAY), TypeError, "`sample` is a `Sample`, got str '1'"),
        (lambda m: kedit.Counterfactual(PAIR.sample, 3, PAIR.image), TypeError, "`concept` is a `Concept`, or its"),
        (lambda m: kedit.Counterfactual(PAIR.sample, "star", "mean"), TypeError, "`image` is a picture of Pillow, got"),
        (lambda m: SCENES.split("stern"), LookupError, "no concept `stern` in the data; nearest: star"),
        (lambda m: SCENES.split(3), TypeError, "`concept` is the name of a concept, got int 3"),
    ],
    "prompts": [
        (lambda m: kedit.Prompts(3), TypeError, "`path` is a file of JSON lines, or the name of a list that"),
        (lambda m: kedit.Prompts("nowhere").facts, FileNotFoundError, "no file `nowhere` of facts, and no list"),
        (lambda m: kedit.Prompts("smollm2").split("Tokio"), LookupError, "no concept `Tokio` in the data; nea"),
        (lambda m: kedit.wrap(m.module, m.processor, template="raw"), ValueError, "`template` is chat (a question in"),
    ],
    "locator": [
        (lambda m: kedit.Locator([kedit.GradCAM()]), TypeError, "`stages` is a `Stage` for each name of one"),
        (lambda m: kedit.Locator({"a": kedit.GradCAM()}), TypeError, "`stages['a']` is a `Stage` of a scorer and a"),
        (lambda m: kedit.Locator({}), ValueError, "a locator needs at least one stage, got none"),
        (lambda m: kedit.Stage(kedit.GradCAM, kedit.TopK(1)), TypeError, "`scorer` is an object such as `GradCAM()`"),
        (lambda m: kedit.Stage(kedit.GradCAM(), 0.99), TypeError, "`select` is an object such as `Quantile(0.99)`"),
        (lambda m: kedit.two_stage("0.9"), ValueError, "`q` is a quantile between 0 and 1, got 0.9"),
        (lambda m: kedit.two_stage(of_max="0.2"), ValueError, "`of_max` is a share of the maximum"),
        (lambda m: kedit.RatioOfMax(None), ValueError, "`ratio` is a share of the maximum"),
        (lambda m: kedit.TopK("3"), ValueError, "`k` is a number of neurons, 0 or more, got '3'"),
    ],
    "edit": [
        (lambda m: kedit.Edit(3, Zero()), TypeError, "`ids` are pairs of layer and index, such as [(0, 3)], got 3"),
        (lambda m: kedit.Edit([0, 3], Zero()), TypeError, "a neuron is a pair of layer and index, such as (0, 3)"),
        (lambda m: kedit.Edit([("a", 3)], Zero()), TypeError, "a neuron is a pair of layer and index"),
        (lambda m: kedit.Edit("0.3", Zero()), TypeError, "`ids` are pairs of layer and index"),
        (
            lambda m: kedit.Edit([(0, 3)], Zero),
            TypeError,
            "an operator is an object, got the class Zero: write `Zero(...)`",
        ),
        (lambda m: kedit.Edit([(0, 3)], "zero"), TypeError, "an operator is an object such as `Zero()`, got 'zero'"),
        (lambda m: kedit.Edit([(0, 3)], Zero()).applied("m").__enter__(), TypeError, "`model` is a module, or holds"),
        (lambda m: kedit.Edit([(99, 3)], Zero()).applied(m).__enter__(), LookupError, "no layer 99 with neurons"),
        (lambda m: kedit.Scale("2"), ValueError, "`factor` is a finite number, got '2'"),
        (lambda m: kedit.amplify("2"), ValueError, "`amplify` needs a factor > 1, got 2"),
        (lambda m: kedit.Patch("mean"), ValueError, "the reference is a finite number, got 'mean'"),
        (lambda m: kedit.Patch({0: [1.0]}), TypeError, "the reference has a tensor `[neuron]` for each layer, got"),
    ],
    "evaluation_set": [
        (lambda m: kedit.EvaluationSet(3, (), ()), TypeError, "`concept` is a `Concept`, or its name, got int 3"),
        (
            lambda m: kedit.EvaluationSet(STAR_CONCEPT, (), (GRAY,)),
            TypeError,
            "`target` is a list of `Sample`, got Image",
        ),
        (
            lambda m: kedit.EvaluationSet(STAR_CONCEPT, ("star",), ()),
            TypeError,
            "`vocabulary` is a list of `Concept`, got str",
        ),
        (lambda m: kedit.Outputs("a star"), TypeError, "`target` is a list of texts, got the text 'a star'"),
    ],
}
EVERY = [(name, number) for name, calls in TOLD.items() for number in range(len(calls))]


@pytest.mark.parametrize(("name", "number"), EVERY, ids=[f"{name} {number}" for name, number in EVERY])
def test_what_is_something_else_is_told_in_one_line(name: str, number: int, model: HuggingFaceMLLM) -> None:
    call, kind, message = TOLD[name][number]
    with pytest.raises(kind) as raised:
        call(model)
    told = str(raised.value.args[0]) if kind is not FileNotFoundError else str(raised.value)
    assert message in told
    assert "\n" not in told


def test_every_public_function_is_tried_with_three_wrong_inputs() -> None:
    functions = {name for name in kedit.__all__ if name.islower() and not name.startswith("_")}
    tried = {name for name, calls in TOLD.items() if len(calls) >= 3} | {"two_stage", "amplify", "measure"}
    assert functions <= tried
