"""Parts of scores: files, what merging refuses, and that what is merged is what one job would have found."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kedit.locate.causal_effect import CausalEffect
from kedit.locate.difference import ActivationDifference
from kedit.locate.gradcam import GradCAM
from kedit.locate.joining import joined
from kedit.locate.locator import Locator, Stage
from kedit.locate.miner import Miner
from kedit.locate.nam import NAM
from kedit.locate.parts import Part, PartError, Shard
from kedit.locate.random import LayerMatched
from kedit.locate.reduction import Vote
from kedit.locate.selection import TopK
from kedit.locate.target import Target
from kedit.models.mllm import Generated
from kedit.models.planted import HOUSE_CONCEPT, STAR_CONCEPT, picture, planted, without
from kedit.neurons import NeuronScores
from kedit.samples import Counterfactual

LOCATOR = Locator(
    {
        "difference": Stage(ActivationDifference(over_samples="max"), TopK(8)),
        "gradcam": Stage(GradCAM(over_samples=Vote(0.9)), TopK(4)),
    }
)
SMALL = Locator({"gradcam": Stage(GradCAM(), TopK(4))})
PICTURES = [picture(name, (number,), (15 - number,)) for number, name in enumerate("abcde")]
PAIRS = [without(one, STAR_CONCEPT) for one in PICTURES]


@cache
def told() -> list[Generated]:
    return planted().model.caption([one.image for one in PICTURES])


def part(index: int, count: int, locator: Any = SMALL, pairs: Sequence[Counterfactual] = PAIRS, **options: Any) -> Part:
    shard, model = Shard(index, count), options.pop("model", planted().model)
    captions = options.pop("captions", told())
    made: Part = locator.part(model, shard.of(pairs), captions=shard.of(captions), shard=shard, **options)
    return made


def assert_same(found: dict[str, NeuronScores], expected: dict[str, NeuronScores]) -> None:
    assert list(found) == list(expected)
    for name, one in found.items():
        other = expected[name]
        assert torch.equal(one.values.view(torch.int32), other.values.view(torch.int32))
        assert (one.ties is None) == (other.ties is None)
        assert one.ties is None or (other.ties is not None and torch.equal(one.ties, other.ties))
        assert dict(one.provenance) | {"seconds": ""} == dict(other.provenance) | {"seconds": ""}
        assert (one.method, one.site, one.scope) == (other.method, other.site, other.scope)


@pytest.mark.parametrize("locator", [LOCATOR, Miner(), LayerMatched(SMALL)], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_parts_from_files_in_any_order_give_the_scores_of_one_job(locator: Any, count: int, tmp_path: Path) -> None:
    expected = locator.score(planted().model, PAIRS, captions=told())
    parts = []
    for index in reversed(range(count)):
        path = tmp_path / f"{index}.safetensors"
        part(index, count, locator, model=replace(planted().model, batch_size=1 + index)).save(path)
        parts.append(Part.load(path))
    merged = locator.merged(parts)
    assert_same(merged, expected)
    assert locator.select(merged) == locator.select(expected)


def test_a_loaded_part_is_the_one_that_was_saved(tmp_path: Path) -> None:
    made = replace(part(1, 2, LOCATOR), left_out={"unreadable": 2}, unnamed="a house")
    made.stages["gradcam"].note({"error": 0.5})
    made.save(tmp_path / "part.safetensors")
    found = Part.load(tmp_path / "part.safetensors")
    assert {**vars(found), "stages": None} == {**vars(made), "stages": None}
    for name, tally in found.stages.items():
        mine = made.stages[name]
        assert {**vars(tally), "sums": None} == {**vars(mine), "sums": None}
        assert tally.sums.how == mine.sums.how
        tensors = mine.sums.tensors()
        assert {name: one.tolist() for name, one in tally.sums.tensors().items()} == {
            name: one.tolist() for name, one in tensors.items()
        }


def test_parts_add_up_what_they_took_and_what_was_left_out() -> None:
    parts = [replace(part(index, 2), left_out={"unreadable": index, "blank": 0}) for index in range(2)]
    whole = joined(parts)
    assert (whole.forwards, whole.backwards) == (len(PAIRS), len(PAIRS))
    assert whole.left_out == {"unreadable": 1, "blank": 0}
    assert whole.samples == dict(enumerate("abcde"))
    assert whole.shard == Shard()


def test_a_part_in_which_no_caption_names_the_concept_is_legal_and_counts_as_skipped() -> None:
    captions = [Generated("nothing", ()) if number % 2 else one for number, one in enumerate(told())]
    empty = part(1, 2, captions=captions)
    assert (empty.stages, empty.samples, empty.skipped) == ({}, {}, {1: "b", 3: "d"})
    expected = SMALL.score(planted().model, PAIRS, captions=captions)
    assert_same(SMALL.merged([part(0, 2, captions=captions), empty]), expected)
    assert expected["gradcam"].provenance["skipped"] == "2"


def test_only_if_all_parts_are_empty_it_is_the_usual_error() -> None:
    captions = [Generated(f"nothing {number}", ()) for number in range(len(PAIRS))]
    parts = [part(index, 2, captions=captions) for index in range(2)]
    with pytest.raises(ValueError, match=r"none of the model's 5 captions names `star` \(the first: 'nothing 0'\)"):
        SMALL.merged(parts)
    with pytest.raises(ValueError, match="nothing to locate in"):
        SMALL.merged([part(index, 2, pairs=[], captions=[]) for index in range(2)])


def test_parts_that_do_not_belong_together_are_refused_with_what_differs() -> None:
    one = part(0, 2)
    strangers = {
        "`weights` is": part(1, 2, model=planted(seed=1).model),
        "`model` is 'planted' in one and 'another' in another": part(
            1, 2, model=replace(planted().model, name="another")
        ),
        "`scorers` is": part(1, 2, Locator({"gradcam": Stage(GradCAM("all"), TopK(1))})),
        "`target` is": part(1, 2, replace(SMALL, target=Target("prob"))),
        "`site` is 'mid' in one and 'act' in another": part(1, 2, replace(SMALL, site="act")),
        "one concept are merged, got `house` and `star`": replace(part(1, 2), concept=HOUSE_CONCEPT.name),
    }
    for message, other in strangers.items():
        with pytest.raises(PartError) as refused:
            SMALL.merged([one, other])
        assert message in str(refused.value)


def test_parts_of_another_locator_are_refused() -> None:
    parts = [part(index, 2) for index in range(2)]
    for other in (LOCATOR, replace(SMALL, target=Target("prob"))):
        with pytest.raises(PartError, match=r"the parts are of another locator: `(scorers|target)` is "):
            other.merged(parts)
    with pytest.raises(PartError, match="the parts are of another locator"):
        Miner().merged(parts)


def test_the_selectors_of_a_locator_may_change_between_its_parts_and_the_merging() -> None:
    other = Locator({"gradcam": Stage(GradCAM(), TopK(1))})
    assert len(other.select(other.merged([part(index, 2) for index in range(2)]))) == 1


def test_missing_shards_are_named_and_those_that_are_there_twice() -> None:
    parts = {index: part(index, 5) for index in range(5)}
    with pytest.raises(PartError, match=r"of 5 shards 2 are missing: 1, 4; score them with `shard.count=5 .*=1,4`"):
        SMALL.merged([parts[0], parts[2], parts[3]])
    with pytest.raises(PartError, match="shard 2 of 5 is there more than once"):
        SMALL.merged([*parts.values(), parts[2]])
    with pytest.raises(PartError, match="shards of different counts: 2, 5"):
        SMALL.merged([parts[0], part(1, 2)])
    with pytest.raises(PartError, match="there are no parts to merge"):
        SMALL.merged([])


def test_a_sample_that_two_parts_have_is_refused() -> None:
    repeated = [PAIRS[0], PAIRS[1], PAIRS[2], PAIRS[0]]
    parts = [part(index, 2, pairs=repeated, captions=told()[:4]) for index in range(2)]
    with pytest.raises(PartError, match="sample `a` would count twice: it is in shards 0 of 2 and 1 of 2"):
        SMALL.merged(parts)


@pytest.mark.parametrize(
    ("scorer", "why"),
    [(NAM(), "words .*give `vocabulary`"), (CausalEffect(shortlist=GradCAM()), "shortlist.*`shortlist` to null")],
)
def test_what_has_to_see_all_samples_is_not_scored_in_shards(scorer: Any, why: str) -> None:
    locator = Locator({"first": Stage(scorer, TopK(1))})
    with pytest.raises(
        ValueError, match=f"stage `first` has to see all samples at once, and this is shard 0 of 2.*{why}"
    ):
        part(0, 2, locator)
    assert locator.merged([part(0, 1, locator)])["first"].values.isfinite().any()


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"kedit.scores": "{}"})
    with pytest.raises(
        PartError, match=r"scores.safetensors` is no part of scores: its metadata has \['kedit.scores'\]"
    ):
        Part.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(PartError, match=r"scores.safetensors` is no part of scores: "):
        Part.load(path)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 3), (0, 0)])
def test_a_shard_is_one_of_its_count(index: int, count: int) -> None:
    with pytest.raises(ValueError, match=rf"got {index} of {count}"):
        Shard(index, count)


def test_shards_share_all_items_out_and_say_where_each_stood() -> None:
    items = list("abcdefgh")
    shards = [Shard(index, 3) for index in range(3)]
    placed = {shard.place(number): one for shard in shards for number, one in enumerate(shard.of(items))}
    assert [placed[place] for place in range(8)] == items
    assert Shard(9, 10).of(items) == []
