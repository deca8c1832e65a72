"""How the drawing model is trained: codes of cells, rows, the tokenizer's halves, and what the shipped one draws."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.training.draw import codes as cells
from experiments.training.draw import evaluation, export, eye, model, objective, rows, tokenizer
from experiments.training.draw import run as train_draw
from experiments.training.scenes.loop import Schedule, train
from experiments.training.scenes.tower import IGNORED, pixel_values
from kedit.data import grammar
from kedit.data.finder import find
from kedit.data.grammar import BACKGROUNDS, CAPTION_PROMPT, COLORS
from kedit.data.scene import Scene, scene
from kedit.models.drawing import drawer
from kedit.models.drawings import Drawings
from kedit.models.loading import load, wrap
from kedit.models.shipped import HERE

SHIPPED = HERE / "scenes_draw"
SEEDS = range(20_000_000, 20_000_006)
needs_weights = pytest.mark.skipif(not SHIPPED.is_dir(), reason="the drawing model is not in this checkout")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed) for seed in SEEDS]


@pytest.fixture(scope="module")
def centers() -> Tensor:
    """Centers of parts of a few scenes."""
    return cells.fit_parts([scene(seed) for seed in range(30_000_000, 30_000_040)], seed=0, rounds=5)


@pytest.fixture(scope="module")
def processor() -> Any:
    return model.processor()


@pytest.fixture(scope="module")
def untrained(processor: Any, centers: Tensor) -> Any:
    torch.manual_seed(0)
    drawing = model.janus(processor.tokenizer).eval()
    model.start_codes(drawing, cells.codebook(centers, tokenizer.EMBEDDING))
    return drawing


@pytest.fixture(scope="module")
def maker(processor: Any) -> rows.RowMaker:
    return rows.RowMaker(processor.tokenizer.get_vocab())


# Codes


def test_a_cell_without_an_object_has_the_code_of_the_background(scenes: list[Scene], centers: Tensor) -> None:
    for one in scenes:
        touched = np.max([cells.mask(thing) for thing in one.things], 0)
        share = touched.reshape(8, 8, 8, 8).mean((1, 3)).ravel()
        found = cells.codes(one, centers)
        assert (found[share == 0] == BACKGROUNDS.index(one.background)).all()
        assert (found[share > 0.2] >= len(BACKGROUNDS)).all()
        assert found.max() < cells.N_CODES


def test_a_clean_picture_is_the_scene_up_to_tint_noise_texture_and_shade(scenes: list[Scene]) -> None:
    for one in scenes:
        plain = replace(one, texture="plain")
        assert np.abs(cells.clean(one) - plain.pixels()).mean() < 20


def test_a_snapped_scene_has_the_same_objects_apart_from_each_other(scenes: list[Scene]) -> None:
    for number, one in enumerate(scenes):
        other = cells.snapped(one, np.random.default_rng(number))
        assert other.phrases == one.phrases
        assert {thing.radius for thing in other.things} == {cells.SNAPPED_RADIUS}
        touched = np.sum([cells.mask(thing) > 0 for thing in other.things], 0)
        assert touched.max() == 1
        assert find(other.image()).scene.phrases == one.phrases


def test_stamped_codes_are_those_of_the_snapped_scene(scenes: list[Scene], centers: Tensor) -> None:
    table = cells.stamps(centers)
    for number, one in enumerate(scenes):
        other = cells.snapped(one, np.random.default_rng(number))
        assert np.array_equal(cells.stamped(other, table), cells.codes(other, centers))


def test_a_recolored_scene_has_the_same_objects(scenes: list[Scene]) -> None:
    changed = 0
    for number, one in enumerate(scenes):
        other = rows.recolored(one, np.random.default_rng(number))
        assert sorted(p.category for p in other.phrases) == sorted(p.category for p in one.phrases)
        assert len({t.color for t in other.things}) == len({t.color for t in one.things})
        changed += other.phrases != one.phrases
    assert changed


def test_entries_of_the_codebook_are_unit_vectors_and_colors_are_near(centers: Tensor) -> None:
    book = cells.codebook(centers, tokenizer.EMBEDDING)
    torch.testing.assert_close(book.norm(dim=1), torch.ones(cells.N_CODES))
    red, green = (book[4 + cells.PARTS * color : 4 + cells.PARTS * (color + 1)] for color in (0, 1))
    assert ((red @ red.T).mean() - (red @ green.T).mean()).item() > 0.2


# The picture tokenizer


def test_the_decoder_in_training_decodes_as_the_stock_class_does(untrained: Any, centers: Tensor) -> None:
    torch.manual_seed(1)
    whole = tokenizer.tokenizer(cells.codebook(centers, tokenizer.EMBEDDING), model.WIDTH)
    some = torch.randint(cells.N_CODES, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.Decoder(whole)(some), whole.decode(some), atol=2e-5, rtol=1e-4)


def test_the_encoder_in_training_chooses_the_codes_that_the_stock_class_does(centers: Tensor) -> None:
    torch.manual_seed(1)
    whole = tokenizer.tokenizer(3 * cells.codebook(centers, tokenizer.EMBEDDING), model.WIDTH)
    tokenizer.settle(whole)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        chosen = tokenizer.Encoder(whole)(pixels).argmax(-1)
        assert torch.equal(chosen.flatten(), whole.encode(pixels, return_dict=True).image_tokens)


# Rows and what is learned of them


def test_a_prompt_to_draw_is_the_one_that_the_processor_writes(
    processor: Any, maker: rows.RowMaker, scenes: list[Scene], centers: Tensor
) -> None:
    drawn = maker.drawn(scenes, cells.stamps(centers), np.random.default_rng(1))
    marks = processor.tokenizer
    for token, end in zip(drawn.token.tolist(), drawn.end.tolist(), strict=True):
        assert (token[0], token[end - 1]) == (marks.bos_token_id, marks.boi_token_id)
        words = marks.convert_ids_to_tokens(token[1 : end - 1])
        again = processor(text=" ".join(words), generation_mode="image").input_ids[0].tolist()
        assert again == token[:end]


def test_a_drawing_shows_what_its_prompt_asks_for_in_its_colors(
    processor: Any, maker: rows.RowMaker, scenes: list[Scene], centers: Tensor
) -> None:
    table = cells.stamps(centers)
    for seed in range(5):
        drawn = maker.drawn(scenes, table, np.random.default_rng(seed))
        for row, end, shown in zip(drawn.token, drawn.end.tolist(), drawn.codes, strict=True):
            words = processor.tokenizer.convert_ids_to_tokens(row[1 : end - 1].tolist())
            asked = {word for word in words if word in COLORS}
            used = {COLORS[(code - 4) // cells.PARTS] for code in shown.tolist() if code >= 4}
            assert asked in (used, set())


def test_what_is_said_is_a_caption_or_an_answer_behind_the_processors_prompt(
    processor: Any, maker: rows.RowMaker, scenes: list[Scene]
) -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = processor(text=text, images=scenes[0].image(), return_tensors="pt").input_ids[0].tolist()
    n_captions = 0
    for seed in range(5):
        said = maker.said(scenes, np.random.default_rng(seed))
        for one, token, target in zip(scenes, said.token, said.target, strict=True):
            asked = target != IGNORED
            assert torch.equal(target[:-1][asked[:-1]], token[1:][asked[:-1]])
            if token[: len(prompt)].tolist() == prompt:
                n_captions += 1
                assert processor.tokenizer.decode(target[asked], skip_special_tokens=True) in one.captions()
    assert n_captions > 10


def test_the_surprise_of_codes_is_that_of_the_pass_that_reads_a_drawing(
    untrained: Any, processor: Any, maker: rows.RowMaker, scenes: list[Scene], centers: Tensor
) -> None:
    reader = drawer(wrap(untrained, processor, name="untrained"))
    codes = torch.from_numpy(np.stack([cells.codes(one, centers) for one in scenes[:3]]))
    asked = ["a red star", "a green ring and two blue moons", "a picture of an orange heart"]
    prompts = [[maker.words["<bos>"], *maker.tokens(f"{one} answer :"), maker.words["<boi>"]] for one in asked]
    token = torch.zeros(3, max(map(len, prompts)), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        token[row, : len(prompt)] = torch.tensor(prompt)
    drawn = rows.Drawn(token, torch.tensor([*map(len, prompts)]), codes)
    with torch.no_grad():
        surprise = objective.surprise_of_codes(untrained, drawn)
        pictures = tuple(one.image() for one in scenes[:3])
        forced = reader.teacher_forced(Drawings(tuple(asked), pictures, codes, 0))
        torch.testing.assert_close(surprise, -forced.log_probs().mean(), atol=1e-4, rtol=1e-4)


def test_the_surprise_of_words_is_that_of_the_stock_model(
    untrained: Any, maker: rows.RowMaker, scenes: list[Scene]
) -> None:
    said = maker.said(scenes, np.random.default_rng(2))
    pixels = pixel_values(scenes)
    with torch.no_grad():
        mine = objective.surprise_of_words(untrained, said, eye.Eye(untrained.model)(pixels))
        shown = (said.token == untrained.config.image_token_id).any(1)
        assert int(shown.sum()) > 0
        logits = untrained(input_ids=said.token, pixel_values=pixels[shown]).logits
        stock = torch.nn.functional.cross_entropy(logits.flatten(0, 1), said.target.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(mine, stock, atol=1e-4, rtol=1e-4)


def test_a_steady_rate_warms_up_stays_and_falls_to_nothing() -> None:
    schedule = objective.Steady(100, 2.0, warmup=10, falls_from=80)
    assert [schedule.rate(step) for step in (0, 9, 50, 80, 90, 100)] == pytest.approx([0.2, 2, 2, 2, 1, 0])


def test_each_stage_learns_in_a_few_steps_and_goes_on_from_its_checkpoint(
    untrained: Any, maker: rows.RowMaker, scenes: list[Scene], centers: Tensor, tmp_path: Path
) -> None:
    captioner = load("scenes_plain").module
    table = cells.stamps(centers)

    def surprises(folder: Path, *, stop: int | None = None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        drawing = model.janus(processor_words).train()
        model.take_over(drawing, captioner, pixel_values(scenes))
        learner = objective.Language(drawing)
        losses = objective.objective(drawing, maker, scenes, table, 4, lambda some: eye.taught(captioner, some))
        for done in train("language", learner, Schedule(6, 1e-3, warmup=1), losses, folder, save_every=3):
            if done == stop:
                break
        return {name: weight.detach().clone() for name, weight in learner.named_parameters()}

    processor_words = model.processor().tokenizer
    whole = surprises(tmp_path / "whole")
    surprises(tmp_path / "cut", stop=3)
    again = surprises(tmp_path / "cut")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


# The command and what ships


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_leaves_a_model_that_draws_and_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [
        f"{stage}.{what}=2"
        for stage in ("sketch", "decoder", "encoder", "eye", "language")
        for what in ("steps", "batch")
    ]
    small = (
        "parts.scenes=20",
        "language.pool=8",
        "exam.scenes=48",
        "exam.codec=2",
        "language.falls_from=1",
        "eye.batch=4",
    )
    monkeypatch.setattr(sys, "argv", ["run.py", f"folder={tmp_path}", *few, *small])
    assert train_draw.main() == 0
    out = tmp_path / "scenes_draw"
    assert {"model.safetensors", "config.json", "README.md", "drawings.png"} <= {one.name for one in out.iterdir()}
    assert "(n = 48)" in (out / "README.md").read_text()
    assert drawer(load(out)).draw("a red star", seed=0).codes.shape == (1, 64)


@needs_weights
def test_the_shipped_folder_is_small_and_its_card_has_its_figures() -> None:
    assert export.size(SHIPPED) <= 8_000_000
    card = (SHIPPED / "README.md").read_text()
    assert "# scenes_draw" in card
    assert "(n = 500)" in card


@needs_weights
def test_the_shipped_model_draws_a_star_and_says_so() -> None:
    shipped = load("scenes_draw")
    drawn = drawer(shipped).draw(["a yellow star"] * 3 + ["a blue star"] * 3, seed=0)
    shown = [find(one).scene.categories for one in drawn.images]
    assert sum(one == {"star"} for one in shown) >= 4
    assert shipped.prompt == CAPTION_PROMPT
    assert sum("star" in caption.text for caption in shipped.caption(list(drawn.images))) >= 4


@needs_weights
def test_the_shipped_model_captions_scenes() -> None:
    from experiments.training.scenes.evaluation import caption_scores

    scores = caption_scores(load("scenes_draw"), [scene(seed) for seed in range(40)])
    assert scores["objects"].value >= 0.9


def test_what_a_caption_asks_for_is_what_the_finder_sees_in_its_scene(scenes: list[Scene]) -> None:
    scores = evaluation.found_scores([one.image() for one in scenes], scenes)
    assert {name: score.value for name, score in scores.items()} == dict.fromkeys(scores, 1.0)
    wrong = evaluation.found_scores([one.image() for one in scenes], scenes[1:] + scenes[:1])
    assert wrong["counts"].value < 0.5
    assert grammar.CATEGORIES
