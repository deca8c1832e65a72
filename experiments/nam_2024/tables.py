"""The study's tables: each a function of its settings, of who draws, and of what was found of each concept."""

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from omegaconf import DictConfig

from kedit.cli.configuration import build
from kedit.edit.edit import Edit
from kedit.edit.operators import Zero
from kedit.evaluation.bertscore import bert_scores
from kedit.evaluation.drawings import judge_drawings
from kedit.evaluation.moverscore import mover_scores
from kedit.evaluation.statistics import Measured, bootstrap_mean
from kedit.inspection.concepts import best, by_layer, in_all, its_own
from kedit.inspection.decode import mean_words
from kedit.locate.drawn import Depicted, score_drawn
from kedit.models.drawing import drawer
from kedit.models.encoder import OwnLayers
from kedit.pipelines.artist import DrawingSet, caption_of
from kedit.pipelines.turn import read_region, swapped, turn_for, turned
from kedit.progress import show_progress
from kedit.results.table import Table
from kedit.samples import find_concept

MEASURES = ("drawing_drop", "drawn_others", "drawn_objects", "valid", "caption_drop", "caption_others")


def layers(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return in which layers I-, T-neurons and both are, the mean over concepts, for several sizes of set."""
    pairs = {name: (one.scores["nam_image"], one.words) for name, one in found.items()}
    n_layers = len(artist.model.site("mid").widths)
    rows = [(size, kind, *counts, sum(counts)) for size in cfg.sizes for kind, counts in by_layer(pairs, size).items()]
    columns = ("set of", "neurons", *(f"layer {n}" for n in range(n_layers)), "all")
    return Table(columns, tuple(rows), f"neurons by layer, mean over {len(found)} concepts")


def words(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return the four words that a concept's best neurons say together."""
    rows = []
    for name, one in found.items():
        sets = {"T-neurons": best(one.words, cfg.k), **one.sets(cfg.k)}
        rows.append((name, *(", ".join(mean_words(artist.model, some)) for some in sets.values())))
    return Table(("concept", "T-neurons", *cfg.methods), tuple(rows), f"top words of the mean of {cfg.k} neurons")


def relevance(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return how near the top words of each method are to captions and pictures, the mean over concepts.

    `data` are the captions and pictures that show the concept, `drawn` the drawings that neurons were located with and
    what the model says of them; a concept's score is the mean over these.
    """
    encoder = OwnLayers(artist.model) if cfg.encoder is None else build(cfg.encoder)
    clip = None if cfg.clip is None else build(cfg.clip)
    scores: dict[str, dict[str, list[float]]] = {}
    for one in found.values():
        samples, drawings = [pair.sample for pair in one.prepared.pairs], list(one.shown.drawings.images)
        pictures = {"data": [sample.image for sample in samples], "drawn": drawings}
        captions = {
            "data": [caption_of(sample) for sample in samples],
            "drawn": [caption.text for caption in artist.model.caption(drawings)],
        }
        for method, neurons in {"T-neurons": best(one.words, cfg.k), **one.sets(cfg.k)}.items():
            text = " ".join(mean_words(artist.model, neurons))
            for name, value in near(text, captions, pictures, encoder, clip).items():
                scores.setdefault(method, {}).setdefault(name, []).append(value)
    rows = [(method, *map(bootstrap_mean, some.values())) for method, some in scores.items()]
    title = f"top words of {cfg.k} neurons, mean over {len(found)} concepts; encoder: {encoder.name}"
    return Table(("neurons", *next(iter(scores.values()))), tuple(rows), title)


def near(
    text: str, captions: Mapping[str, list[str]], pictures: Mapping[str, list[Any]], encoder: Any, clip: Any
) -> dict[str, float]:
    """Return the mean score of a text by each measure with some captions and, where there is a CLIP, some pictures."""
    scores = {}
    for side, some in captions.items():
        texts = [text] * len(some)
        scores[f"BERTScore, {side}"] = fmean(match.f1 for match in bert_scores(encoder, texts, some))
        scores[f"MoverScore, {side}"] = fmean(mover_scores(encoder, texts, some))
    if clip is not None:
        for side, images in pictures.items():
            scores[f"CLIPScore, {side}"] = fmean(clip([text], images)[0])
    return scores


def specificity(cfg: DictConfig, _: Any, found: Mapping[str, Any]) -> Table:
    """Return for each method which share of a concept's neurons is no other concept's, or hardly."""
    rows = []
    for method in cfg.methods:
        shares = its_own({name: one.sets(cfg.k)[method] for name, one in found.items()})
        kinds = list(next(iter(shares.values())))
        rows.append((method, *(bootstrap_mean([one[kind] for one in shares.values()]) for kind in kinds)))
    columns = ("method", "alone", *(f"kappa {one}" for one in kinds[1:]))
    return Table(columns, tuple(rows), f"share of {cfg.k} neurons, mean over {len(found)} concepts")


def invariance(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return for each method the share of a concept's neurons that single drawings of it all have."""
    concepts = [one.prepared.evaluation_set.concept for one in found.values()]
    prompts = [one.shown.drawings.prompts[0] for one in found.values()]
    single: dict[str, list[Depicted]] = {name: [] for name in found}
    for n in range(cfg.seeds):
        drawings = artist.drawings(prompts, seed=cfg.seed + 1 + n)
        for place, concept in enumerate(concepts):
            region = artist.seer(drawings.images[place], [concept]).regions.get(concept.name)
            if region is not None:
                one = drawings[place : place + 1]
                single[concept.name].append(Depicted.of(concept, one, [region], drawer(artist.model)))
    rows = []
    for method in show_progress(cfg.methods, len(cfg.methods), "invariance, methods"):
        shares = []
        for name, drawn in single.items():
            scored = [score_drawn(artist.model, found[name].locators[method], one) for one in drawn]
            if len(scored) > 1:
                shares.append(in_all([best(next(iter(one.values())), cfg.k) for one in scored]))
        rows.append((method, bootstrap_mean(shares), len(shares)))
    title = f"share of {cfg.k} neurons that all of up to {cfg.seeds} drawings of one prompt have"
    return Table(("method", "in all drawings", "concepts"), tuple(rows), title)


def edits(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return what zeroing does to each concept, by each method, by T-neurons and at random, and the mean over concepts.

    `n` is of `drawing_drop`; that of a mean are the concepts.
    """
    widths, rows, values = artist.model.site("mid").widths, [], {}
    for name, one in found.items():
        evaluation_set = DrawingSet.of(one.prepared.evaluation_set)
        sets = {**one.sets(cfg.k), "T-neurons": best(one.words, cfg.k)}
        random = [sets["nam_image"].layer_matched(widths, cfg.seed + n) for n in range(cfg.evaluate.controls)]
        outcomes = {method: artist.outputs(evaluation_set, Edit(some, Zero())).outcome for method, some in sets.items()}
        controls = [artist.outputs(evaluation_set, Edit(some, Zero())).outcome for some in random]
        before = artist.outputs(evaluation_set, None).outcome
        report = judge_drawings(evaluation_set.asked, before, outcomes, controls, neurons=cfg.k, seed=cfg.seed)
        for method, effect in {**report.arms, "random": report.control}.items():
            figures = {**effect.suppression, **effect.retention}
            rows.append((name, method, *(figures[measure] for measure in MEASURES), figures["drawing_drop"].n))
            values.setdefault(method, []).append([figures[measure].value for measure in MEASURES])
    for method, some in values.items():
        known = [[value for value in column if value is not None] for column in zip(*some, strict=True)]
        means = [bootstrap_mean(one) if one else Measured.missing("in no concept") for one in known]
        rows.append(("mean", method, *means, means[0].n))
    return Table(("concept", "neurons", *MEASURES, "n"), tuple(rows), f"{cfg.k} neurons zeroed")


def turns(cfg: DictConfig, artist: Any, found: Mapping[str, Any]) -> Table:
    """Return how large a change of each method's neurons turns a concept into another."""
    data = [one.prepared.evaluation_set for one in found.values()]
    vocabulary, widths, rows = data[0].vocabulary, artist.model.site("mid").widths, []
    for name, other in cfg.turns.items():
        source, target = (find_concept(vocabulary, one) for one in (name, other))
        one = found[name]
        goal = swapped([caption_of(pair.sample) for pair in one.prepared.pairs], source, target)
        sources, targets = (
            read_region(artist.model, artist.depicted(list(some), concept))
            for some, concept in ((goal.keys(), source), (goal.values(), target))
        )
        held_out = swapped([caption_of(sample) for sample in one.prepared.evaluation_set.target], source, target)
        prompts = list(held_out)[: cfg.turned]
        sets = one.sets(cfg.k)
        sets["random"] = sets["nam_image"].layer_matched(widths, cfg.seed)
        for method, some in sets.items():
            turn = turn_for(sources, targets, some)
            result = turned(artist, turn, prompts, source, target, vocabulary, strengths=list(cfg.strengths))
            most = max(result.steps, key=lambda step: step.turned.value or 0.0)
            figures = (turn.norm, result.least, most.norm, most.turned, most.kept, most.turned.n)
            rows.append((f"{name} to {other}", method, *figures))
    columns = (
        "turn",
        "neurons",
        "least change",
        "norm that turns half",
        "best norm",
        "turned there",
        "others kept",
        "n",
    )
    return Table(columns, tuple(rows), f"columns of {cfg.k} neurons changed, equation 8")
