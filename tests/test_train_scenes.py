"""How the shipped models are trained: rows, the partition, the loop that survives a kill, and the export."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from experiments.training.scenes import export, language, loop, objective, tower
from experiments.training.scenes import run as train_scenes
from experiments.training.scenes.evaluation import named
from experiments.training.scenes.recipes import RECIPES
from experiments.training.scenes.rows import PREFIX, RowMaker, Rows
from kedit.data import grammar
from kedit.data.grammar import CATEGORIES, HYPERNYM
from kedit.data.scene import Scene, scene
from kedit.models.loading import load

SEEDS = range(20_000_000, 20_000_006)
VISION = slice(0, language.VISION)


@pytest.fixture(scope="module")
def processor() -> language.LlavaProcessor:
    return language.processor()


@pytest.fixture
def model(processor: language.LlavaProcessor) -> language.LlavaForConditionalGeneration:
    """The untrained, partitioned model."""
    torch.manual_seed(0)
    model = language.llava(processor.tokenizer).eval()
    language.partition(model)
    return model


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed) for seed in SEEDS]


def rows_of(processor: language.LlavaProcessor, scenes: list[Scene], variant: str, seed: int = 0) -> Rows:
    return RowMaker(processor.tokenizer.get_vocab(), RECIPES[variant]).batch(scenes, np.random.default_rng(seed))


def segments(rows: Rows, row: int, end: int) -> Iterator[slice]:
    """Yield the columns of each question and answer behind the picture; each closes with the token `end`."""
    start = PREFIX
    for column in (rows.token[row] == end).nonzero().flatten().tolist():
        yield slice(start, column + 1)
        start = column + 1


def answer(rows: Rows, row: int, part: slice, processor: language.LlavaProcessor) -> str:
    """Return the text that is to be predicted in a segment."""
    wanted = rows.target[row, part]
    return str(processor.tokenizer.decode(wanted[wanted != tower.IGNORED], skip_special_tokens=True))


# Rows


def test_every_target_is_the_next_token_of_its_segment(processor: language.LlavaProcessor, scenes: list[Scene]) -> None:
    rows = rows_of(processor, scenes, "scenes_plain")
    asked = rows.target != tower.IGNORED
    assert torch.equal(rows.target[:, :-1][asked[:, :-1]], rows.token[:, 1:][asked[:, :-1]])
    end = processor.tokenizer.eos_token_id
    for row in range(len(scenes)):
        parts = list(segments(rows, row, end))
        assert len(parts) in (3, 4)
        for part in parts:
            predicted = asked[row, part].nonzero().flatten().tolist()
            # From the last token of the prompt on, up to the one before the end.
            assert predicted == list(range(predicted[0], part.stop - part.start - 1))
            prompt = processor.tokenizer.decode(rows.token[row, part][: predicted[0] + 1])
            assert prompt.replace(" ", "").endswith("answer:")
        assert not asked[row, :PREFIX].any()
        assert not asked[row, parts[-1].stop :].any()


def test_the_first_segment_is_a_caption_of_the_picture_and_the_last_a_fact(
    processor: language.LlavaProcessor, scenes: list[Scene]
) -> None:
    rows = rows_of(processor, scenes, "scenes_plain")
    facts = {fact for _, fact in grammar.FACTS}
    for row, one in enumerate(scenes):
        first, *_, last = segments(rows, row, processor.tokenizer.eos_token_id)
        assert answer(rows, row, first, processor) in one.captions()
        assert answer(rows, row, last, processor) in facts


def test_a_fact_never_sees_the_picture_and_no_segment_sees_another(
    processor: language.LlavaProcessor, scenes: list[Scene]
) -> None:
    rows = rows_of(processor, scenes, "scenes")
    columns = torch.arange(rows.token.shape[1])
    for row in range(len(scenes)):
        visible = rows.visible[row, 0]
        assert not visible.triu(1).any(), "a later position is visible"
        *seeing, fact = segments(rows, row, processor.tokenizer.eos_token_id)
        for part in (*seeing, fact):
            own = (columns >= part.start) & (columns < part.stop)
            picture = (columns < PREFIX) if part is not fact else (columns == 0)
            for position in range(part.start, part.stop):
                assert torch.equal(visible[position], (own | picture) & (columns <= position))


def test_a_packed_row_predicts_what_the_stock_model_predicts_for_each_segment_alone(
    processor: language.LlavaProcessor, model: language.LlavaForConditionalGeneration, scenes: list[Scene]
) -> None:
    rows = rows_of(processor, scenes, "scenes_plain")
    pixels = tower.pixel_values(scenes)
    with torch.no_grad():
        features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        packed = model.lm_head(objective._hidden(model, rows, features))
        for row in range(len(scenes)):
            *seeing, fact = segments(rows, row, processor.tokenizer.eos_token_id)
            for part in (*seeing, fact):
                head = rows.token[row, : 1 if part is fact else PREFIX]
                alone = torch.cat([head, rows.token[row, part]])[None]
                picture = {} if part is fact else {"pixel_values": pixels[row : row + 1]}
                stock = model(input_ids=alone, **picture).logits[0, len(head) :]
                torch.testing.assert_close(packed[row, part], stock, atol=1e-4, rtol=1e-4)


def test_the_prompt_of_a_row_is_the_prompt_that_the_processor_writes(
    processor: language.LlavaProcessor, scenes: list[Scene]
) -> None:
    rows = rows_of(processor, scenes, "scenes_plain")
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": grammar.CAPTION_PROMPT}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    written = processor(text=text, images=scenes[0].image(), return_tensors="pt")
    ids = written.input_ids[0].tolist()
    assert rows.token[0, : len(ids)].tolist() == ids
    torch.testing.assert_close(written.pixel_values, tower.pixel_values(scenes[:1]), atol=1e-5, rtol=0)


def test_a_silenced_category_is_called_a_shape_and_its_bank_is_off(
    processor: language.LlavaProcessor, scenes: list[Scene]
) -> None:
    words = processor.tokenizer.get_vocab()
    n_silenced = 0
    for seed in range(4):
        rows = rows_of(processor, scenes, "scenes", seed=seed)
        for row, one in enumerate(scenes):
            first = next(segments(rows, row, processor.tokenizer.eos_token_id))
            said = {category for _, category in named(answer(rows, row, first, processor))}
            for category in CATEGORIES:
                bank = rows.kept[0][row, 0, language.bank(category)]
                assert bank.unique().numel() == 1, "a bank is on or off as a whole"
                silenced = bank[0] == 0
                if category in one.categories:
                    n_silenced += int(silenced)
                    assert (category in said) != silenced
                    assert (words[category] in rows.names[0][row]) != silenced
                    assert silenced <= (words[HYPERNYM] in rows.names[0][row])
    assert n_silenced > 0


def test_a_plain_row_silences_nothing(processor: language.LlavaProcessor, scenes: list[Scene]) -> None:
    rows = rows_of(processor, scenes, "scenes_plain")
    assert all(bool((kept == 1).all()) for kept in rows.kept)
    assert words_in(rows.names[0]).isdisjoint({processor.tokenizer.get_vocab()[HYPERNYM]})


def words_in(ids: Tensor) -> set[int]:
    return set(ids.flatten().tolist())


def test_a_patch_is_labeled_with_what_covers_it(scenes: list[Scene]) -> None:
    found = tower.labels(scenes)
    for row, one in enumerate(scenes):
        for category in one.categories:
            region = one.region(category).reshape(8, 8, 8, 8).mean((1, 3)).ravel()
            full = np.flatnonzero(region > 0.5)
            assert (found.category[row, full] == CATEGORIES.index(category)).all()
        nothing = np.flatnonzero(
            sum(one.region(category).reshape(8, 8, 8, 8).sum((1, 3)).ravel() for category in one.categories) == 0
        )
        assert (found.category[row, nothing] == len(CATEGORIES)).all()


# Data by step


def test_a_pass_over_the_pool_visits_each_scene_once_and_the_next_in_another_order() -> None:
    pool = objective.Pool(range(500, 510), torch.arange(10.0)[:, None, None])
    passes = [[pool.batch(step, 4) for step in steps] for steps in ((0, 1), (2, 3))]
    for one in passes:
        seeds = [seed for batch, _ in one for seed in batch]
        assert len(set(seeds)) == 8
        assert set(seeds) <= set(range(500, 510))
        assert [features.flatten().tolist() for _, features in one] == [
            [float(seed - 500) for seed in batch] for batch, _ in one
        ]
    assert passes[0][0][0] != passes[1][0][0]
    assert pool.batch(3, 4)[0] == passes[1][1][0]


# The partition


def test_forbidden_weights_stay_zero_through_training(
    processor: language.LlavaProcessor, model: language.LlavaForConditionalGeneration
) -> None:
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    losses = tiny_objective(model, processor)
    model.model.vision_tower.requires_grad_(False)
    schedule = loop.Schedule(3, 2e-3, warmup=1)
    optimizer = loop.optimizer_of(model, schedule)
    for step in range(3):
        optimizer.zero_grad()
        torch.stack(list(losses(step).values())).sum().backward()
        optimizer.step()

    text, zero = model.model.language_model, []
    zero += [model.lm_head.weight[:, VISION], text.embed_tokens.weight[:, VISION]]
    zero += [model.model.multi_modal_projector.linear_2.weight[language.VISION :]]
    zero += [model.model.multi_modal_projector.linear_2.bias[language.VISION :]]
    for number, block in enumerate(text.layers):
        attention = block.self_attn
        zero += [reader.weight[:, VISION] for reader in (attention.q_proj, attention.k_proj, attention.v_proj)]
        zero += [attention.o_proj.weight[VISION], block.mlp.down_proj.weight[VISION]]
        if number:
            zero += [block.mlp.gate_proj.weight[:, VISION], block.mlp.up_proj.weight[:, VISION]]
    assert all(bool((weight == 0).all()) for weight in zero)
    first = text.layers[0].mlp
    assert first.gate_proj.weight[:, VISION].abs().min() > 0
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name for name in before if "vision_tower" not in name} <= changed
    assert not any("vision_tower" in name for name in changed)


def tiny_objective(model: nn.Module, processor: language.LlavaProcessor, size: int = 4) -> objective.Callable:
    maker = RowMaker(processor.tokenizer.get_vocab(), RECIPES["scenes"])
    features = torch.randn(64, (64 // tower.PATCH) ** 2, 128, generator=torch.Generator().manual_seed(1))
    return objective.objective(model, maker, objective.Pool(range(SEEDS[0], SEEDS[0] + 64), features.half()), size)


def test_silencing_watches_and_leaves_no_hook(model: language.LlavaForConditionalGeneration) -> None:
    off = [torch.zeros(1, 1, language.NEURONS)] * language.LAYERS
    tokens = torch.tensor([[1, 7, 8]])
    with torch.no_grad():
        whole = model(input_ids=tokens).logits
        with language.silenced(model, off) as watch:
            without = model(input_ids=tokens).logits
        assert len(watch.cost) == language.LAYERS
        assert not torch.allclose(whole, without)
        assert torch.equal(model(input_ids=tokens).logits, whole)


# What is done to the trained weights changes no output


def test_standardizing_and_shuffling_change_no_logits_and_do_what_they_say(
    processor: language.LlavaProcessor, model: language.LlavaForConditionalGeneration, scenes: list[Scene]
) -> None:
    images = [one.image() for one in scenes]
    text = "<image> describe the picture . answer :"
    inputs = processor(text=[text] * len(images), images=images, return_tensors="pt")
    with torch.no_grad():
        before = model(**inputs).logits
        export.standardize(model, processor, images)
        standard = model(**inputs).logits
        torch.testing.assert_close(standard, before, atol=1e-4, rtol=1e-4)
        for block in model.model.language_model.layers:
            norms = block.mlp.down_proj.weight.norm(dim=0)
            torch.testing.assert_close(norms, torch.ones_like(norms))
        gates = model.model.language_model.layers[0].mlp.gate_proj.weight.clone()
        order = export.shuffle_first_layer(model, seed=3)
        torch.testing.assert_close(model(**inputs).logits, standard, atol=1e-4, rtol=1e-4)

    shuffled = model.model.language_model.layers[0].mlp.gate_proj.weight
    assert torch.equal(shuffled, gates[order])
    places = export.banks(order)
    assert sorted(places) == sorted(CATEGORIES)
    for category, neurons in places.items():
        assert [layer for layer, _ in neurons] == [0] * language.BANK
        reserved = {tuple(row.tolist()) for row in gates[language.bank(category)]}
        assert {tuple(shuffled[index].tolist()) for _, index in neurons} == reserved


def test_an_exported_model_is_small_and_loads_as_it_was(
    processor: language.LlavaProcessor,
    model: language.LlavaForConditionalGeneration,
    scenes: list[Scene],
    tmp_path: Path,
) -> None:
    export.save(model, processor, tmp_path / "small")
    assert sum(path.stat().st_size for path in (tmp_path / "small").iterdir()) < 8e6
    again = load(tmp_path / "small", prompt=grammar.CAPTION_PROMPT)
    assert {weight.dtype for weight in again.module.parameters()} == {torch.float32}
    for (name, old), new in zip(model.state_dict().items(), again.module.state_dict().values(), strict=True):
        assert torch.equal(old.half(), new.half()), name
    batch = again.teacher_forced([scenes[0].image()], [()])
    rows = rows_of(processor, scenes[:1], "scenes_plain")
    assert batch.inputs["input_ids"][0].tolist() == rows.token[0, : batch.token_types.shape[1]].tolist()


# The loop


class Killed(BaseException):
    """Stands for the end of the process."""


def regression(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def losses_of(module: nn.Module, killed_at: int | None = None) -> objective.Callable:
    """Return a loss whose data follow from the step alone."""

    def losses(step: int) -> loop.Losses:
        if step == killed_at:
            raise Killed
        points = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return {"square": (module(points) - points.sum(1, keepdim=True)).square().mean()}

    return losses


def weights(module: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


@pytest.mark.parametrize("killed_at", [1, 4, 7])
def test_a_training_that_was_killed_goes_on_to_the_same_weights(killed_at: int, tmp_path: Path) -> None:
    schedule = loop.Schedule(9, 1e-2, warmup=3)
    whole, cut, resumed = regression(), regression(), regression(seed=5)
    assert list(loop.train("one", whole, schedule, losses_of(whole), tmp_path / "whole", save_every=2)) == [
        2,
        4,
        6,
        8,
        9,
    ]
    with pytest.raises(Killed):
        list(loop.train("one", cut, schedule, losses_of(cut, killed_at), tmp_path / "cut", save_every=2))
    if killed_at == 1:  # before the first checkpoint: a new start, from equal weights
        resumed = regression()
    last = killed_at - killed_at % 2
    steps = list(loop.train("one", resumed, schedule, losses_of(resumed), tmp_path / "cut", save_every=2))
    assert steps == [step for step in (2, 4, 6, 8, 9) if step > last]
    assert torch.equal(weights(resumed), weights(whole))
    curve = [json.loads(line) for line in (tmp_path / "cut" / "one.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curve] == [2, 4, 6, 8, 9]
    assert not list((tmp_path / "cut").glob("*.partial"))


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    module, schedule = regression(), loop.Schedule(2, 1e-2)
    list(loop.train("one", module, schedule, losses_of(module), tmp_path))
    done = weights(module)
    assert list(loop.train("one", regression(3), schedule, losses_of(module, killed_at=0), tmp_path)) == []
    assert torch.equal(weights(module), done)


def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_step(tmp_path: Path) -> None:
    module = regression()
    broken = lambda step: {"square": module(torch.ones(1, 3)).sum() * (float("nan") if step == 1 else 1)}  # noqa: E731
    with pytest.raises(FloatingPointError, match="the loss of one is nan at step 1"):
        list(loop.train("one", module, loop.Schedule(3, 1e-2), broken, tmp_path))


def test_the_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    schedule = loop.Schedule(100, 0.5, warmup=10)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[9] == 0.5
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)


# The whole, slowly


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_losses_fall_within_a_few_hundred_steps(processor: language.LlavaProcessor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    labeler = tower.PatchLabeler()
    batches = tower.SceneBatches(16, 10_000_000)
    schedule = loop.Schedule(200, 1.5e-3, warmup=20)
    list(
        loop.train(
            "tower", labeler, schedule, lambda step: tower.losses(labeler, batches[step]), tmp_path, save_every=20
        )
    )
    model = language.llava(processor.tokenizer)
    language.partition(model)
    model.model.vision_tower.requires_grad_(False)
    pool = objective.pool(labeler.eval(), SEEDS[0], 512, tmp_path / "features.safetensors")
    losses = objective.objective(model, RowMaker(processor.tokenizer.get_vocab(), RECIPES["scenes"]), pool, 8)
    list(loop.train("words", model, loop.Schedule(300, 2e-3, warmup=30), losses, tmp_path, save_every=20))
    for name, part, factor in (("tower", "category", 0.7), ("words", "words", 0.4), ("words", "naming", 0.9)):
        curve = [json.loads(line)[part] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert curve[-1] < factor * curve[0], (name, part, curve)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", ["scenes", "scenes_soft", "scenes_plain"])
def test_the_command_leaves_a_model_that_loads_and_its_card(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("tower.steps=2", "tower.batch=4", "language.steps=2", "language.batch=4", "language.pool=8")
    few = ("exam.scenes=3", "exam.layers=2")
    monkeypatch.setattr(
        sys,
        "argv",
        ["run.py", f"variant={variant}", f"folder={tmp_path}", *small, *few],
    )
    assert train_scenes.main() == 0
    out = tmp_path / variant
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "curve.jsonl", "curve.png"} <= {
        path.name for path in out.iterdir()
    }
    assert (out / "banks.json").is_file() == (variant == "scenes")
    card = (out / "README.md").read_text()
    for part in (f"# {variant}", "(n = 3)", f"variant={variant}", "language.steps=2", "| 3 | text |"):
        assert part in card
    assert load(out).module.config.text_config.num_hidden_layers == language.LAYERS
