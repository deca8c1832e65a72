"""The study of NAM on drawings: every table, on a tiny Janus that draws at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL.Image import Image

from experiments.nam_2024 import run, tables
from kedit.data.scenes import Scenes
from kedit.models.encoder import OwnLayers
from kedit.models.tiny.families import tiny
from kedit.pipelines.artist import Artist
from kedit.pipelines.seers import Seen
from kedit.samples import Concept

CONFIG = OmegaConf.create(
    {
        "turns": {"star": "moon", "moon": "star"},
        "methods": ["nam_image", "signed", "nam_act", "nam_grat"],
        "k": 3,
        "sizes": [2, 4],
        "seeds": 2,
        "strengths": [1, 4],
        "turned": 3,
        "evaluate": {"locate": 4, "target": 5, "retention": 1, "controls": 1, "strict": False},
        "encoder": None,
        "clip": None,
        "inpaint": {"_target_": "kedit.data.inpaint.Exact"},
        "seed": 0,
    }
)


class Most:
    """Sees stars and moons in most random drawings, by which parts are brighter, and all else in all."""

    def __call__(self, picture: Image, concepts: Sequence[Concept]) -> Seen:
        pixels = np.asarray(picture.convert("L"), float)
        parts = [part.mean() for part in np.array_split(pixels, 4, axis=1)]
        there = {"star": parts[0] < max(parts), "moon": parts[1] < max(parts)}
        return Seen({one.name: pixels >= np.median(pixels) for one in concepts if there.get(one.name, True)}, True)


@pytest.fixture(scope="module")
def artist() -> Artist:
    return Artist(tiny("janus", batch_size=16, max_new_tokens=3), Most())


@pytest.fixture(scope="module")
def found(artist: Artist) -> dict[str, Any]:
    return {name: run.located(CONFIG, artist, Scenes(), name, missing="force") for name in CONFIG.turns}


@pytest.mark.parametrize("name", run.TABLES)
def test_a_table_has_a_row_for_each_method_or_concept(name: str, artist: Artist, found: dict[str, Any]) -> None:
    if name == "relevance":
        pytest.importorskip("ot", reason="POT is not installed")
    table = getattr(tables, name)(CONFIG, artist, found)
    n_methods, n_concepts = len(CONFIG.methods), len(CONFIG.turns)
    rows = {
        "layers": 3 * len(CONFIG.sizes), "words": n_concepts, "relevance": n_methods + 1,
        "specificity": n_methods, "invariance": n_methods,
        "edits": (n_concepts + 1) * (n_methods + 2), "turns": n_concepts * (n_methods + 1),
    }  # fmt: skip
    assert len(table.rows) == rows[name]
    assert table.markdown()
    assert table.to_json()


def test_relevance_is_the_mean_over_captions_and_pictures_and_has_clip_where_there_is_one(artist: Artist) -> None:
    pytest.importorskip("ot", reason="POT is not installed")
    captions = {"data": ["a red star", "a moon"], "drawn": ["a red star"]}
    pictures = {"data": [1, 3], "drawn": [5]}

    def clip(texts: Sequence[str], images: Sequence[int]) -> list[list[float]]:
        return [[float(one) for one in images] for _ in texts]

    scores = tables.near("a red star", captions, pictures, OwnLayers(artist.model), clip)
    assert (scores["CLIPScore, data"], scores["CLIPScore, drawn"]) == (2, 5)
    assert scores["BERTScore, drawn"] == scores["MoverScore, drawn"] == 1
    assert scores["BERTScore, data"] < 1 and scores["MoverScore, data"] < 1
    assert not [name for name in tables.near("a", captions, pictures, OwnLayers(artist.model), None) if "CLIP" in name]


def test_what_drawings_are_located_with_is_scored_by_every_method(found: dict[str, Any]) -> None:
    for one in found.values():
        assert list(one.scores) == list(CONFIG.methods)
        assert all(len(some) == 3 for some in one.sets(3).values())
