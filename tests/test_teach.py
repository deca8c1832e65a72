"""Teaching a tiny model: the data are what their annotation says, and what was taught is read back."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.training.tiny import blocks, teach
from experiments.training.tiny.lesson import Lesson, caption_loss, examined
from experiments.training.tiny.pictures import COLORS, KINDS, NOTHING, write_blocks
from kedit.cli import run
from kedit.data.coco import Coco
from kedit.data.inpaint_diffusers import DiffusersFill
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.measure import measure
from kedit.evaluation.metrics import Similarity
from kedit.locate.two_stage import two_stage
from kedit.models.tiny.families import tiny
from kedit.pipelines.locate import locate
from kedit.pipelines.outputs import collect_outputs
from kedit.pipelines.preparation import Counts, prepare
from kedit.samples import Sample, mentioned, silent
from tests.tiny_minigpt4 import tiny_minigpt4

Command = Callable[..., int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("blocks") / "data"
    write_blocks(made, 60, seed=0)
    return made


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    return list(Coco(str(folder)).pictures())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(recipe: Callable[[], int], *words: str) -> int:
        monkeypatch.setattr("sys.argv", ["kedit", *words])
        return recipe()

    return call


def test_a_block_lies_where_its_outline_says_in_its_color(samples: list[Sample]) -> None:
    assert len(samples) == 60
    for sample in samples:
        pixels = np.asarray(sample.image).astype(int)
        blocks_at = np.zeros(pixels.shape[:2], dtype=bool)
        for name, region in sample.regions.items():
            assert np.abs(pixels[region] - np.asarray(COLORS[name])).max() <= 15
            assert not (blocks_at & region).any()
            blocks_at |= region
        assert ((pixels[~blocks_at] >= 100) & (pixels[~blocks_at] < 156)).all()


def test_a_caption_names_what_is_there_and_nothing_else(folder: Path, samples: list[Sample]) -> None:
    concepts = Coco(str(folder)).concepts
    assert all(mentioned(concepts, one.references[0]) == one.objects for one in samples)
    shown = [len(one.objects) for one in samples]
    assert {0, 1, 2} == set(shown)
    assert all(one.references[0] == NOTHING for one in samples if not one.objects)
    assert {name for one in samples for name in one.objects} == set(KINDS)


def test_equal_seeds_write_equal_files(tmp_path: Path, folder: Path) -> None:
    write_blocks(tmp_path, 60, seed=0)
    for path in folder.rglob("*.*"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert command(blocks.main, f"folder={tmp_path}") == 2
    assert "is not empty; give a new one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_loss_is_the_mean_of_the_captions_own_tokens(samples: list[Sample]) -> None:
    model = tiny("llava")
    images = [one.image for one in samples[:2]]
    captions = [(30, 40, 50), (60,)]
    nats = []
    for image, caption in zip(images, captions, strict=True):
        for place, token in enumerate(caption):
            spread = model.logits(model.teacher_forced([image], [caption[:place]]))[0, -1].log_softmax(-1)
            nats.append(-spread[token])
    assert caption_loss(model, images, captions).item() == pytest.approx(torch.stack(nats).mean().item(), abs=1e-5)


def test_a_lesson_is_learned_by_every_part_and_leaves_the_model_frozen(samples: list[Sample]) -> None:
    model = tiny("llava", max_new_tokens=4)
    before = {name: weight.clone() for name, weight in model.module.named_parameters()}
    begun = Lesson(1, 3e-3, 8, seed=0).give(tiny("llava"), samples, silent)
    ended = Lesson(40, 3e-3, 8, seed=0).give(model, samples, silent)
    assert ended < 0.6 * begun
    for part in ("vision_tower.encoder", "multi_modal_projector", "language_model.layers", "lm_head"):
        moved = [not torch.equal(before[name], now) for name, now in model.module.named_parameters() if part in name]
        assert moved
        assert all(moved)
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.module.parameters())


def test_too_few_pictures_are_said_before_the_model_is_built(
    tmp_path: Path, folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("pictures=50", "exam=20", f"data.folder={folder}", f"folder={tmp_path / 'taught'}")
    assert command(teach.main, *asked) == 2
    assert "`pictures` and `exam` ask for 70 pictures with captions, and the data has 60" in capsys.readouterr().err
    assert not (tmp_path / "taught" / "config.json").exists()


def test_what_was_taught_is_saved_as_transformers_does(
    tmp_path: Path, folder: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "taught"
    asked = ("steps=2", "pictures=16", "exam=4", f"data.folder={folder}", f"folder={out}")
    assert command(teach.main, *asked) == 0
    assert "captions right: 0.00" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["model_type"] == "llava"
    assert (out / "model.safetensors").is_file()


ASKED = (
    *("evaluate.target=20", "evaluate.retention=10", "evaluate.controls=2", "inpaint=scenes_diffusion"),
    *("locate.stages.difference.select.q=0.5", "locate.stages.gradcam.select.q=0.5"),
)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("family", ["llava", "blip2", "qwen2_vl"])
def test_a_family_learns_the_blocks_and_the_main_job_runs_on_it(
    tmp_path: Path, command: Command, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, run_at = tmp_path / "data", tmp_path / "taught", tmp_path / "run"
    assert command(blocks.main, f"folder={data}") == 0
    assert command(teach.main, f"model.family={family}", f"data.folder={data}", f"folder={out}") == 0
    assert float(capsys.readouterr().out.split("captions right: ")[1][:4]) >= 0.9
    chosen = ("model=huggingface", f"model.path={out}", "data=coco2017", f"data.folder={data}", "concept=dog")
    assert command(run.main, *chosen, *ASKED, f"inpaint.cache={tmp_path}", f"hydra.run.dir={run_at}") == 0
    report = json.loads((run_at / "report.json").read_text())
    assert report["neurons"]["count"] > 0
    assert report["suppression"]["mention_drop"]["n"] >= 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_minigpt4_learns_the_blocks_and_the_main_job_runs_on_it(tmp_path: Path) -> None:
    write_blocks(tmp_path, 300, seed=0)
    data = Coco(str(tmp_path))
    model = tiny_minigpt4("vicuna", system="", prompt="what?", max_new_tokens=24)
    pictures = list(data.pictures())
    Lesson(200, 3e-3, 16, seed=0).give(model, pictures[:250], silent)
    right = examined(model, pictures[250:], silent)
    assert right.value is not None
    assert right.value >= 0.9

    inpaint, locator = DiffusersFill("scenes_inpainter"), two_stage().limited(16)
    evaluation_set, pairs, _ = prepare(data, "dog", inpaint, Counts(locate=12, target=16, retention=8))
    located = locate(model, locator, pairs, silent)
    assert 0 < len(located.neurons) <= 16
    sets = [located.neurons, located.neurons.layer_matched(model.site().widths, seed=0)]
    outputs = collect_outputs(model, evaluation_set, [Edit(one, Zero()) for one in sets], silent)
    report = measure(evaluation_set, *outputs, Similarity(None), neurons=len(located.neurons)).to_json()
    assert report["suppression"]["mention_drop"]["n"] >= 12
    assert report["retention"]["objects"]["value"] is not None
