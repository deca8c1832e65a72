"""Where image tokens lie in a picture: in every family, the token that changes most is the one over the change."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from kedit.inspection.grid import ImageGrid, NoGridError, Subgrid, paint, picture_grids, smallest_cell
from kedit.inspection.heatmap import heat_map
from kedit.inspection.responses import at_image
from kedit.internals.hooks import before
from kedit.internals.sites import decoder_path
from kedit.models.huggingface import HuggingFaceMLLM
from kedit.models.image_grid.grid import merged
from kedit.models.image_grid.tiles import Box, places
from kedit.models.mllm import IMAGE
from kedit.models.tiny.families import tiny
from kedit.neurons import NeuronSet

SIZES = ((64, 48), (36, 100))
PATCHES = ("llava", "llava_next", "llava_onevision", "idefics3", "smolvlm", "paligemma", "gemma3", "internvl", "janus")
"""Families whose tokens are made of patches, each of which knows of the others by attention alone."""


@cache
def built(family: str) -> HuggingFaceMLLM:
    return tiny(family)


def picture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    # Of mild contrast, so that a small black or white square is the largest change there can be.
    return np.random.default_rng(seed).integers(100, 156, (size[1], size[0], 3), dtype=np.uint8)


@contextmanager
def without_attention(module: nn.Module) -> Iterator[None]:
    """Let no patch know of another one: the attention of the vision tower adds nothing."""
    handles = []
    for path, one in module.named_modules():
        outermost = "attention" in type(one).__name__.lower() and "vision" in path
        if outermost and not any("attention" in part for part in path.split(".")[:-1]):
            handles.append(one.register_forward_hook(lambda _one, _args, out: _zeros(out)))
    assert handles
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _zeros(out: Any) -> Any:
    return torch.zeros_like(out) if isinstance(out, Tensor) else (torch.zeros_like(out[0]), *out[1:])


@torch.no_grad()
def embedded(model: HuggingFaceMLLM, pixels: NDArray[np.uint8]) -> Tensor:
    """Return what the language model is given at the image tokens of one picture: `[image_pos, d_model]`."""
    batch, seen = model.teacher_forced([Image.fromarray(pixels)], [()]), dict[str, Tensor]()
    with ExitStack() as stack:
        path = decoder_path(model.module)
        stack.enter_context(before(model.module, path, lambda args, kwargs: seen.update(x=kwargs["inputs_embeds"])))
        model.logits(batch)
    return seen["x"][batch.token_types == IMAGE].double()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", PATCHES)
def test_what_changes_most_is_the_token_of_each_subgrid_that_covers_the_change(
    family: str, size: tuple[int, int]
) -> None:
    model, (width, height) = built(family), size
    plain = picture(size)
    (grid,) = picture_grids(model, [Image.fromarray(plain)])
    boxes, cells = grid.boxes(), grid.cells()
    with without_attention(model.module):
        usual = embedded(model, plain)
        assert len(usual) == grid.n_tokens
        for x, y in ((0.13, 0.2), (0.6, 0.37), (0.9, 0.86)):
            column, row = int(x * width), int(y * height)
            changed = plain.copy()
            changed[row - 1 : row + 2, column - 1 : column + 2] = 255
            change = (embedded(model, changed) - usual).norm(dim=-1).numpy()
            assert not change[np.isnan(boxes[:, 0])].any(), "the end of a line and padding show nothing"
            for number in range(len(grid.subgrids)):
                strongest = np.flatnonzero(cells[:, 0] == number)[change[cells[:, 0] == number].argmax()]
                left, top, right, bottom = boxes[strongest]
                # A processor that resizes spreads a pixel over its neighbors, a model that shrinks tokens a patch.
                blur = 0.5 if family == "llava_onevision" else 0
                slack = (1.5 / width + blur * (right - left), 1.5 / height + blur * (bottom - top))
                assert left - slack[0] <= (column + 0.5) / width <= right + slack[0], (x, y, number, boxes[strongest])
                assert top - slack[1] <= (row + 0.5) / height <= bottom + slack[1], (x, y, number, boxes[strongest])


def test_a_picture_written_in_codes_has_one_for_each_cell_and_a_word_at_the_end_of_each_line() -> None:
    model, pixels = built("emu3"), picture((64, 48))
    (grid,) = picture_grids(model, [Image.fromarray(pixels)])
    seen, cells = embedded(model, pixels), grid.cells()
    inputs = model.teacher_forced([Image.fromarray(pixels)], [()]).inputs
    module: Any = model.module
    (codes,) = module.model.vqmodel.encode(inputs["pixel_values"], inputs["image_sizes"]).image_tokens
    assert codes.shape == (4, 5) and grid.n_tokens == 4 * 6

    def word(name: str) -> Tensor:
        found: Tensor = module.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids(name)].double()
        return found

    for token, (subgrid, row, column) in zip(seen, cells.tolist(), strict=True):
        code = f"<|visual token {int(codes[row, column]):06d}|>" if subgrid == 0 else "<|extra_200|>"
        assert torch.equal(token, word(code))
    assert np.flatnonzero(cells[:, 0] < 0).tolist() == [5, 11, 17, 23]


def test_the_tiles_of_a_picture_are_one_subgrid_and_the_whole_is_another() -> None:
    wide = Image.fromarray(picture((64, 32)))
    (tiles,) = picture_grids(built("internvl"), [wide])
    fine, coarse = tiles.subgrids
    assert fine.tokens.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert coarse.tokens.tolist() == [[8, 9], [10, 11]]
    assert fine.box == coarse.box == (0, 0, 1, 1)
    (packed,) = picture_grids(built("llava_next"), [wide])
    base, lines = packed.subgrids
    assert base.tokens.tolist() == np.arange(16).reshape(4, 4).tolist()
    assert lines.tokens.tolist() == [list(range(16 + 9 * row, 24 + 9 * row)) for row in range(4)]
    assert np.flatnonzero(packed.cells()[:, 0] < 0).tolist() == [24, 33, 42, 51]


def test_tokens_on_padding_stand_for_no_place_and_the_others_for_all_of_the_picture() -> None:
    (grid,) = picture_grids(built("janus"), [Image.fromarray(picture((64, 32)))])
    boxes = grid.boxes().reshape(4, 4, 4)
    assert np.isnan(boxes[[0, 3]]).all()
    left, top, right, bottom = np.moveaxis(boxes[1:3], -1, 0)
    assert ((right - left) * (bottom - top)).sum() == pytest.approx(1, abs=0.01)
    assert top[0] == pytest.approx([0] * 4, abs=0.01) and bottom[1] == pytest.approx([1] * 4, abs=0.01)


@pytest.mark.parametrize("family", ["blip2", "instructblip"])
def test_tokens_that_a_q_former_wrote_stand_for_no_place(family: str) -> None:
    with pytest.raises(NoGridError, match=r"`qformer` of .* resamples the picture"):
        picture_grids(built(family), [Image.fromarray(picture((40, 40)))])


def test_a_picture_that_is_looked_at_from_outside_the_sequence_has_no_tokens_to_place() -> None:
    with pytest.raises(NoGridError, match="holds no picture: its layers look at it from outside"):
        picture_grids(built("mllama"), [Image.fromarray(picture((40, 40)))])


@pytest.mark.parametrize("family", [*PATCHES, "emu3"])
def test_pictures_of_many_shapes_in_one_batch_each_have_the_values_of_their_grid(family: str) -> None:
    model = built(family)
    if family == "emu3":  # which reads no pictures of several sizes together
        model = replace(model, batch_size=1)
    images = [Image.fromarray(picture(size)) for size in ((64, 48), (36, 100), (20, 20), (90, 30))]
    some = NeuronSet(((0, 1), (2, 5)))
    seen = at_image(model, model.site("mid"), [some], images)
    for image, one, grid in zip(images, seen, picture_grids(model, images), strict=True):
        heat = heat_map(one.of(some), grid, image.size, part="absolute")
        assert heat.shape == (image.height, image.width)
        assert (heat > 0).all()


# What a processor shows


def cropped(image: Image.Image) -> Tensor:
    """Return the middle square of a picture, as LLaVA 1.5 is shown: `[1, channel, height, width]`."""
    width, height = image.size
    side = min(image.size)
    left, top = (width - side) // 2, (height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((24, 24), Image.Resampling.BICUBIC)
    return tensor(square)[None]


def halves(image: Image.Image) -> Tensor:
    """Return the left and the right half of a picture on a gray canvas that is twice as high, with odd colors."""
    width, height = image.size
    canvas = Image.new("RGB", (width, 2 * height), "gray")
    canvas.paste(image, (0, height // 2))
    return torch.stack([tensor(canvas.crop((x, 0, x + width // 2, 2 * height))) for x in (0, width // 2)]) * -0.3 + 7


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize(
    ("process", "size", "expected"),
    [
        (cropped, (120, 60), [(0.25, 0, 0.75, 1)]),
        (cropped, (50, 80), [(0, 3 / 16, 1, 13 / 16)]),
        (halves, (60, 40), [(0, -0.5, 0.5, 1.5), (0.5, -0.5, 1, 1.5)]),
        (halves, (500, 300), [(0, -0.5, 0.5, 1.5), (0.5, -0.5, 1, 1.5)]),
    ],
)
def test_what_each_tile_covers_is_measured(process: Any, size: tuple[int, int], expected: list[Box]) -> None:
    shown = places(process, size)
    for found, right in zip(shown.boxes(), expected, strict=True):
        assert found == pytest.approx(right, abs=0.004)
    padded = process is halves
    assert shown.shown.double().mean() == pytest.approx(0.5 if padded else 1, abs=0.02)


def test_a_tile_of_padding_alone_covers_nothing_that_could_be_told() -> None:
    def right_half(image: Image.Image) -> Tensor:
        return torch.stack([tensor(image), torch.zeros(3, image.height, image.width)])

    assert places(right_half, (30, 20)).boxes() == [pytest.approx((0, 0, 1, 1), abs=0.01), None]


def test_a_center_crop_leaves_the_sides_of_a_picture_without_tokens_and_without_heat() -> None:
    model = tiny("llava")
    images: Any = model.processor.image_processor
    images.do_center_crop, images.size = True, {"shortest_edge": 32}
    (grid,) = picture_grids(model, [Image.fromarray(picture((128, 64)))])
    (subgrid,) = grid.subgrids
    assert subgrid.box == pytest.approx((0.25, 0, 0.75, 1), abs=0.01)
    heat = heat_map(np.ones((16, 1)), grid, (128, 64))
    assert (heat[:, 34:94] == 1).all() and not heat[:, :30].any() and not heat[:, 98:].any()


# Rasters and painting


def test_tiles_that_fill_a_rectangle_are_one_subgrid_in_whatever_order_they_come() -> None:
    corners = [(0.5, 0.0), (0.0, 0.5), (0.0, 0.0), (0.5, 0.5)]
    tiles = [Subgrid(np.arange(4).reshape(2, 2) + 4 * n, (x, y, x + 0.5, y + 0.5)) for n, (x, y) in enumerate(corners)]
    whole = Subgrid(np.arange(16, 20).reshape(2, 2))
    one, other = merged([*tiles, whole])
    assert one.tokens.tolist() == [[8, 9, 0, 1], [10, 11, 2, 3], [4, 5, 12, 13], [6, 7, 14, 15]]
    assert one.box == (0, 0, 1, 1) and other is whole
    assert merged(tiles[:3]) == tiles[:3], "three tiles fill no rectangle"
    assert merged([whole, whole]) == [whole, whole], "a place that is shown twice is in two subgrids"


def test_every_token_of_a_grid_has_its_cell_and_its_part_of_the_picture() -> None:
    grid = ImageGrid(8, (Subgrid(np.array([[1, 2], [4, 5]]), (0.0, 0.0, 1.0, 0.5)), Subgrid(np.array([[7]]))))
    assert grid.cells().tolist() == [
        [-1] * 3, [0, 0, 0], [0, 0, 1], [-1] * 3, [0, 1, 0], [0, 1, 1], [-1] * 3, [1, 0, 0],
    ]  # fmt: skip
    boxes = grid.boxes()
    assert boxes[5].tolist() == [0.5, 0.25, 1, 0.5] and boxes[7].tolist() == [0, 0, 1, 1]
    assert np.isnan(boxes[[0, 3, 6]]).all()


def test_a_pixel_gets_the_mean_of_the_subgrids_that_cover_it_and_none_where_none_does() -> None:
    halves_of_it = Subgrid(np.array([[0, 1]]), (0.0, 0.0, 1.0, 0.5))
    left = Subgrid(np.array([[2], [3]]), (0.0, 0.0, 0.5, 1.0))
    painted = paint(np.array([2.0, 4.0, 6.0, 8.0]), ImageGrid(4, (halves_of_it, left)), (4, 2), "nearest")
    assert painted.tolist() == [[4, 4, 4, 4], [8, 8, 0, 0]]
    assert smallest_cell(ImageGrid(4, (halves_of_it, left)), (100, 60)) == 30


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_painting_one_subgrid_over_the_whole_is_interpolating_it(mode: Any) -> None:
    values = np.random.default_rng(0).normal(size=15)
    how: dict[str, Any] = (
        {"mode": "bilinear", "align_corners": False} if mode == "bilinear" else {"mode": "nearest-exact"}
    )
    cells = torch.from_numpy(values).reshape(1, 1, 3, 5)
    expected = torch.nn.functional.interpolate(cells, size=(17, 23), **how)[0, 0].numpy()
    assert np.allclose(paint(values, ImageGrid.of(3, 5), (23, 17), mode), expected, atol=1e-12)


def test_a_heat_map_needs_a_value_for_each_token_of_the_grid() -> None:
    grid = ImageGrid(13, (Subgrid(np.arange(12).reshape(3, 4)[:, :3]), Subgrid(np.array([[12]]))))
    with pytest.raises(ValueError, match=r"grid of 3 x 3 and 1 x 1 needs values `\[13, neuron\]`, got \[9, 1\]"):
        heat_map(np.ones((9, 1)), grid, (8, 8))
    assert heat_map(np.full((13, 1), 2.0), grid, (8, 8)).tolist() == np.full((8, 8), 2.0).tolist()
