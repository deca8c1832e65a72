"""Whatever decides a result is in its key: what is changed under the same name, in size and time alike, counts."""

import functools
import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from kedit import fingerprints
from kedit.cli.sweep_folder import key_of
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.locate.gradcam import GradCAM
from kedit.locate.locator import Locator, Stage
from kedit.locate.nam import NAM
from kedit.locate.selection import TopK
from kedit.models.encoder import OwnLayers
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.identity import identity, reading_digest, weights_digest
from kedit.models.planted import STAR_CONCEPT, picture, planted, without
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronId, NeuronSet
from kedit.pipelines.locate import check_given, locate
from kedit.pipelines.preparation import usable
from kedit.pipelines.provenance import ScoresError
from kedit.prompts import Prompt
from kedit.results.cache import of_edit, of_encoder, scorers
from kedit.samples import silent
from kedit.settings import of_settings

NEURONS = NeuronSet((NeuronId(0, 3),))


def change(file: Path) -> None:
    """Write another content of the same length, and set the old time."""
    times = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


# --- the files of a job of a sweep

FILES = (
    *(
        "data/pictures.jsonl",
        "data/concepts.jsonl",
        "data/questions.jsonl",
        "data/deep/er/1.png",
        "data/masks/deep/1.png",
    ),
    *("elsewhere/2.png", "elsewhere/3.png", "elsewhere/frames/1.png", "asked/questions.jsonl", "asked/about.png"),
    *(
        "coco/annotations/instances_val.json",
        "coco/val/1.jpg",
        "coco_notes/captions_val.json",
        "coco_pictures/val/2.jpg",
    ),
    *("coco_pictures/aside/3.jpg", "painter/unet/weights.safetensors", "painter/model_index.json"),
    *("segmenter/model.safetensors", "segmenter/preprocessor_config.json", "encoder/model.safetensors"),
    *("model/model.safetensors", "model/config.json", "model/preprocessor_config.json", "model/tokenizer.json"),
    *("model/chat_template.jinja", "model/generation_config.json", "adapter/adapter_model.safetensors"),
    *("adapter/adapter_config.json", "language/model.safetensors", "scores.safetensors"),
    *("hub/models--some--body/snapshots/0a1b/model.safetensors",),
)
LINES = {
    "data/pictures.jsonl": [{"image": "deep/er/1.png"}, {"image": "../elsewhere/2.png"}],
    "data/questions.jsonl": [{"question": "?", "answer": "!", "video": "../elsewhere/frames"}],
    "asked/questions.jsonl": [{"question": "/", "answer": "/", "image": "../elsewhere/3.png"}],
    "coco/annotations/instances_val.json": [{"images": [{"file_name": "../../coco_pictures/aside/3.jpg"}]}],
}
"""Paths in a list start at the data's folder, wherever the list is."""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings that name files in all the ways there are."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        lines = LINES.get(name, [{"one": 1}])
        (tmp_path / name).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "hub/models--some--body/refs").mkdir()
    (tmp_path / "hub/models--some--body/refs/main").write_text("0a1b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    coco = {"instances": "annotations/instances_{subset}.json", "captions": "../coco_notes/captions_{subset}.json"}
    return {
        "data": {
            "folder": "data",
            "questions_file": "../asked/questions.jsonl",
            "about": str(tmp_path / "asked/about.png"),
        },
        "others": [{"folder": "coco", "subset": "val", **coco, "images": "../coco_pictures/{subset}"}],
        "inpaint": {"path": "painter", "steps": 20, "cache": str(tmp_path / "cache")},
        "segment": {"path": "segmenter"},
        "evaluate": {"encoder": {"path": "encoder", "layer": 1}},
        "model": {"path": "model", "language": str(tmp_path / "language"), "prompt": "{} or .. or /"},
        "adapter": {"path": "adapter"},
        "donor": {"path": "some/body"},
        "scores": "scores.safetensors",
    }


def key(settings: dict[str, Any]) -> str:
    return key_of(settings, OmegaConf.create({"job": {"config_name": "run"}, "runtime": {"choices": {}}}))


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_a_job_reads_is_in_its_key(job: dict[str, Any], tmp_path: Path, name: str) -> None:
    before = key(job)
    os.utime(tmp_path / name, (1, 1))
    assert key(job) == before
    change(tmp_path / name)
    assert key(job) != before


def test_what_a_job_writes_is_not_in_its_key(job: dict[str, Any], tmp_path: Path) -> None:
    before = key(job)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "entry").write_text("one")
    (tmp_path / "unnamed.png").write_text("one")
    assert key(job) == before


# --- the model


class Wrapped(nn.Module):
    """Around a linear map, as adapters are."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.scaling, self._active_adapter = base_layer, {"default": 2.0}, ["default"]
        self._disable_adapters = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) * self.scaling["default"]


def llava() -> HuggingFaceMLLM:
    model = tiny("llava")
    model.module.lm_head = Wrapped(model.module.lm_head)  # type: ignore[arg-type]
    return model


def last_weight(model: Any) -> None:
    weight = model.module.lm_head.base_layer.weight
    weight.data.view(-1)[-1] += 1e-3


def second_tokenizer(model: Any) -> None:
    model.processor.qformer_tokenizer = tiny("bert").processor


def activation(model: Any) -> None:
    model.module.model.language_model.layers[1].mlp.act_fn = nn.ReLU()


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "one weight": (last_weight, "weights"),
    "an adapter's scaling": (lambda model: model.module.lm_head.scaling.update(default=3.0), "reading"),
    "which adapter is on": (lambda model: model.module.lm_head._active_adapter.clear(), "reading"),
    "adapters switched off": (lambda model: setattr(model.module.lm_head, "_disable_adapters", True), "reading"),
    "an activation function": (activation, "reading"),
    "the processor's mean": (
        lambda model: setattr(model.processor.image_processor, "image_mean", [0, 0, 0]),
        "reading",
    ),
    "the processor's size": (
        lambda model: setattr(model.processor.image_processor, "size", {"height": 9, "width": 9}),
        "reading",
    ),
    "the chat template": (lambda model: setattr(model.processor, "chat_template", "{{ 1 }}"), "reading"),
    "a word of the tokenizer": (lambda model: model.tokenizer.add_tokens(["another"]), "reading"),
    "a second tokenizer": (second_tokenizer, "reading"),
    "generation": (lambda model: setattr(model.module.generation_config, "repetition_penalty", 1.5), "reading"),
    "the configuration": (lambda model: setattr(model.module.config, "vision_feature_layer", 0), "reading"),
    "attention": (lambda model: model.module.set_attn_implementation("eager"), "running"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_a_model_under_its_name_changes_what_tells_it(name: str) -> None:
    (act, part), model, same = CHANGES[name], llava(), llava()
    before = weights_digest(model.module), reading_digest(model), identity(model)
    assert before == (weights_digest(same.module), reading_digest(same), identity(same))
    act(model)
    after = weights_digest(model.module), reading_digest(model), identity(model)
    assert [old != new for old, new in zip(before, after, strict=True)] == [part == "weights", part == "reading", True]


@pytest.mark.parametrize("package", ["pillow", "torchvision", "numpy", "accelerate", "bitsandbytes"])
def test_a_library_that_reads_pictures_or_runs_weights_tells_a_model(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llava")
    before = identity(model)
    release = fingerprints._version
    monkeypatch.setattr(fingerprints, "_version", lambda name: "99" if name == package else release(name))
    assert identity(model) != before


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_weights_of_eight_bits_count() -> None:
    digests = []
    for weight in (1.0, 2.0):
        linear = nn.Linear(3, 3)
        linear.weight.data.fill_(weight)
        linear.bias.data.zero_()
        module = nn.Sequential(linear)
        digests.append(weights_digest(torch.ao.quantization.quantize_dynamic(module, {nn.Linear})))
    assert digests[0] != digests[1]


def test_the_prompt_is_how_a_model_reads_and_its_name_and_batches_are_not() -> None:
    model = llava()
    assert reading_digest(replace(model, prompt="what?")) != reading_digest(model)
    assert reading_digest(replace(model, name="a", batch_size=1, max_new_tokens=3)) == reading_digest(model)


@pytest.mark.parametrize(
    "family", ["llava", "blip2", "mllama", "gemma3", "qwen2_5_vl", "qwen2_audio", "mixtral", "gpt2", "t5", "bert"]
)
def test_a_model_is_the_same_after_it_was_used(family: str) -> None:
    model = tiny(family)
    before = reading_digest(model)
    model.logits(model.read([Prompt("a [MASK] b [MASK]")], [(30,)]))
    if "image" in model.media:
        model.caption([picture("one", (3,)).image])
    assert reading_digest(model) == before


# --- what is scored, edited and embedded with


def with_code(add: int) -> Any:
    """Return an object of a class that somebody writes anew under the same name."""

    @dataclass(frozen=True)
    class Mine:
        factor: float = 1.0

        def __call__(self, values: torch.Tensor, layer: int, indices: torch.Tensor) -> torch.Tensor:
            return values + 1 if add == 1 else values + add

    other: Callable[..., Any] = lambda self, values, layer, indices: values * 2  # noqa: E731
    if add == 2:
        Mine.__call__ = other  # type: ignore[method-assign]
    return Mine()


def adding(number: int) -> Callable[[int], int]:
    return lambda value: value + number


def region(last: float) -> torch.Tensor:
    """Return a vector so long that its `repr` leaves out what differs."""
    values = torch.zeros(4000)
    values[2000] = last
    return values


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (NAM(region=region(1.0)), NAM(region=region(1.0)), NAM(region=region(2.0))),
        (GradCAM("all"), GradCAM("all"), GradCAM("target")),
        (with_code(1), with_code(1), with_code(2)),
        (with_code(1), with_code(1), replace(with_code(1), factor=2.0)),
        ({"a": [Path("x"), {1, 2}]}, {"a": [Path("x"), {2, 1}]}, {"a": [Path("x"), {1, 3}]}),
        (adding(1), adding(1), adding(2)),
    ],
    ids=["a long tensor", "an option", "code", "a field", "containers", "a closure"],
)
def test_settings_are_equal_where_all_that_they_do_is(one: Any, same: Any, other: Any) -> None:
    assert of_settings(one) == of_settings(same) != of_settings(other)
    json.dumps(of_settings(one))


MINE = {
    "a method under a decorator": "class Op:\n @torch.no_grad()\n def __call__(self, v): return v * NOW\nop = Op()",
    "a function under a decorator": "@torch.no_grad()\ndef op(v): return v * NOW",
    "a default of a method": "class Op:\n def __call__(self, v, f=NOW): return v * f\nop = Op()",
    "a default by keyword": "def op(v, *, f=NOW): return v * f",
    "a constant of the module": "F = NOW\nclass Op:\n def __call__(self, v): return v * F\nop = Op()",
    "a function that is called": "def double(v): return v * NOW\ndef op(v): return double(v)",
    "a list on the class": "class Op:\n f = [NOW]\n def __call__(self, v): return v * self.f[0]\nop = Op()",
    "a value around a class": (
        "def make(k):\n class Op:\n  def __call__(self, v): return v * k\n return Op()\nop = make(NOW)"
    ),
    "a cached property": "class Op:\n @functools.cached_property\n def f(self): return NOW\nop = Op()",
    "a static method": "class Op:\n @staticmethod\n def f(v): return v * NOW\nop = Op()",
    "a class that is inherited": "class Base:\n def f(self): return NOW\nclass Op(Base): pass\nop = Op()",
    "a field that is set later": "@dataclass\nclass Op:\n f: float = field(init=False)\nop = Op()\nop.f = NOW",
    "a further attribute": "@dataclass\nclass Op:\n f: float = 0\nop = Op()\nop.g = NOW",
    "an attribute of a mapping": "class Op(dict): pass\nop = Op()\nop.f = NOW",
    "a slot": "class Base:\n __slots__ = ('__f',)\n def __init__(self, f): self.__f = f\nop = Base(NOW)",
    "a slot that is inherited": (
        "class Base:\n __slots__ = 'f'\nclass Op(Base):\n __slots__ = ()\nop = Op()\nop.f = NOW"
    ),
    "a long pattern": "op = re.compile('a' * 300 + str(NOW))",
    "a part": "op = functools.partial(max, NOW)",
    "a tensor of a module": "class Op(torch.nn.Module):\n pass\nop = Op()\nop._f = [torch.ones(1) * NOW]",
    "a method of a value": "op = torch.tensor(float(NOW)).mul",
    "a text of a class": "class Op(str):\n def __call__(self, v): return v * NOW\nop = Op('it')",
    "a method that is cached": "class Op:\n @functools.lru_cache\n def __call__(self, v): return v * NOW\nop = Op()",
    "a method that is a part": (
        "class Op:\n def f(self, v, k): return v * k\n __call__ = functools.partialmethod(f, k=NOW)\nop = Op()"
    ),
    "an attribute of a function": "def op(v): return v * op.k\nop.k = NOW",
}


def written(source: str, now: int) -> Any:
    names: dict[str, Any] = {"torch": torch, "re": re, "functools": functools, "dataclass": dataclass, "field": field}
    names["__name__"] = "mine"
    exec(source.replace("NOW", str(now)), names)
    return of_settings(names["op"])


def test_values_around_a_function_of_kedits_count() -> None:
    def inside(number: int) -> Any:
        made = adding(number)
        made.__module__ = "kedit.example"
        return of_settings(made)

    assert inside(1) == inside(1) != inside(2)


@pytest.mark.parametrize("source", MINE.values(), ids=MINE)
def test_all_that_code_of_ones_own_uses_tells_it_apart(source: str) -> None:
    assert written(source, 2) == written(source, 2) != written(source, 3)
    json.dumps(written(source, 2))


def test_what_code_does_not_look_up_does_not_count() -> None:
    one, other = ({"torch": torch, "__name__": "mine", "model": number} for number in (1, 2))
    for names in (one, other):
        exec("class Op:\n def __call__(self, v): return v * self.model\nop = Op()", names)
    assert of_settings(one["op"]) == of_settings(other["op"])


def test_what_is_too_deep_to_tell_equals_itself_alone() -> None:
    def linked() -> Any:
        first = None
        for _ in range(2000):
            first = SimpleNamespace(next=first)
        return first

    one = linked()
    assert of_settings(one) == of_settings(one) != of_settings(linked())


def test_a_part_that_knows_its_model_comes_to_an_end() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.around: list[Any] = []

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(Part() for _ in range(4))
            for part in self.parts:
                part.around.append(self)

    assert of_settings(Whole()) == of_settings(Whole())


def test_an_object_that_shows_nothing_equals_itself_alone() -> None:
    one = object()
    assert of_settings(one) == of_settings(one) != of_settings(object())


def test_objects_that_hold_each_other_come_to_an_end() -> None:
    class Node:
        def __init__(self) -> None:
            self.others: list[Any] = [self]

    assert of_settings(Node()) == of_settings(Node())


def test_a_long_region_and_code_written_anew_have_scores_and_edits_of_their_own() -> None:
    by_region = [Locator({"nam": Stage(NAM(region=region(last)), TopK(1))}) for last in (1.0, 2.0)]
    assert scorers(by_region[0]) != scorers(by_region[1])
    assert of_edit(Edit(NEURONS, with_code(1))) != of_edit(Edit(NEURONS, with_code(2)))
    assert of_edit(Edit(NEURONS, Zero())) == of_edit(Edit(NEURONS, Zero()))


def test_an_encoder_is_told_by_its_layer_and_the_weights_of_its_model() -> None:
    model, other = llava(), llava()
    last_weight(other)
    told = [of_encoder(one) for one in (OwnLayers(model), OwnLayers(model, layer=1), OwnLayers(other))]
    assert of_encoder(OwnLayers(llava())) == told[0]
    assert told[0] != told[1] and told[0] != told[2]


# --- scores that are given

PAIRS = [without(picture(f"p{n}", star=(n,), house=(n + 4,)), STAR_CONCEPT) for n in range(3)]
ONE_STAGE = Locator({"gradcam": Stage(GradCAM(), TopK(2))})


def other_weights(model: HuggingFaceMLLM) -> HuggingFaceMLLM:
    module: Any = planted().model.module
    module.lm_head.weight.data[-1, -1] += 1e-4
    return replace(model, module=module)


def other_pictures() -> list[Any]:
    """Return pairs of the same names, painted in another way."""
    moved = PAIRS[0].image.copy()
    moved.putpixel((0, 0), (9, 9, 9))
    return [replace(PAIRS[0], image=moved), *PAIRS[1:]]


def test_scores_of_another_model_or_of_other_pictures_of_the_same_names_are_refused() -> None:
    model = planted().model
    given = locate(model, ONE_STAGE, PAIRS, silent).scores
    found = usable(model, PAIRS, silent)
    check_given(given, model, ONE_STAGE, found)
    for other, pairs, why in (
        (
            other_weights(model),
            PAIRS,
            "`scores` do not fit: the model's weights are not the same, though the names may",
        ),
        (replace(model, prompt="what is this :"), PAIRS, "processor or prompt are not the same"),
        (model, other_pictures(), "the pictures or what paints the concept out are not the same"),
    ):
        with pytest.raises(ScoresError, match=why):
            check_given(given, other, ONE_STAGE, found._replace(pairs=pairs))


def test_scores_without_marks_are_used_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model = planted().model
    made = locate(model, ONE_STAGE, PAIRS, silent).scores
    marks = ("weights", "reading", "pictures", "scorers")
    old = {
        name: replace(one, provenance={key: told for key, told in one.provenance.items() if key not in marks})
        for name, one in made.items()
    }
    with caplog.at_level(logging.WARNING):
        found = locate(model, ONE_STAGE, PAIRS, silent, given=old)
    assert len(found.neurons) == 2
    assert [one.message for one in caplog.records] == [
        "nothing proves that `scores` fit: they do not tell the model's weights, the model's adapter, configuration, "
        "processor or prompt, the pictures or what paints the concept out, the scorers' settings"
    ]
