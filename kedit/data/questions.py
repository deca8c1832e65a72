"""Questions about a scene and facts that need no picture, each with the one right answer."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from kedit.data import grammar
from kedit.data.grammar import CATEGORIES, FACTS, HYPERNYM, NUMBERS
from kedit.data.inquiries import check_halves
from kedit.data.scenes import Scene, Scenes, scene
from kedit.samples import Question, Quiz
from kedit.words import plural

VISUAL_KINDS = ("existence", "color", "count", "relation", "background")


def questions(scene: Scene, kind: str) -> Iterator[Question]:
    """Return every question of `kind` about `scene`; see `VISUAL_KINDS`."""
    if kind not in VISUAL_KINDS:
        raise ValueError(f"`kind` is one of {', '.join(VISUAL_KINDS)}, got {kind!r}")
    return {
        "existence": _existence,
        "color": _color,
        "count": _count,
        "relation": _relation,
        "background": _background,
    }[kind](scene)


def drawn(world: Scenes, seeds: Iterable[int], *, locate: int, evaluate: int) -> Quiz:
    """Return so many questions of each kind for each half: visual ones, each about a scene of its own, and facts.

    A scene is asked about the kind that is furthest behind; which of its questions depends on its seed alone.
    """
    check_halves(locate, evaluate)
    found: dict[str, list[Question]] = {kind: [] for kind in VISUAL_KINDS}
    for seed in seeds:
        behind = sorted(found, key=lambda kind: len(found[kind]))
        if len(found[behind[0]]) == locate + evaluate:
            break
        shown = scene(seed, colors=world.colors)
        for kind in behind:
            possible = list(questions(shown, kind))
            if possible and len(found[kind]) < locate + evaluate:
                found[kind].append(replace(possible[seed % len(possible)], sample=world.sample(seed)))
                break
    facts = world.questions
    first = [one for asked in found.values() for one in asked[:locate]]
    rest = [one for asked in found.values() for one in asked[locate:]]
    return Quiz((*first, *facts[0::2][:locate]), (*rest, *facts[1::2][:evaluate]))


def vocabulary() -> tuple[str, ...]:
    """Return every word and mark of the picture world's language, sorted."""
    texts = [grammar.CAPTION_PROMPT, "answer :", "is there", "what color is are the background ?"]
    texts += [template.format(phrases="", background="") for template in grammar.TEMPLATES]
    texts += ["how many are there ?", "left right of above below", "yes no , and a an the", HYPERNYM, plural(HYPERNYM)]
    texts += [" ".join(words) for words in (grammar.COLORS, grammar.BACKGROUNDS, NUMBERS)]
    texts += [f"{category} {plural(category)}" for category in CATEGORIES]
    texts += [f"{question} {answer}" for question, answer in FACTS]
    return tuple(sorted({word for text in texts for word in text.split()}))


def _existence(scene: Scene) -> Iterator[Question]:
    for category in CATEGORIES:
        answer = "yes" if category in scene.categories else "no"
        yield Question(f"is there {grammar.article(category)} {category} ?", answer, "existence")


def _color(scene: Scene) -> Iterator[Question]:
    for phrase in scene.phrases:
        if sum(other.category == phrase.category for other in scene.phrases) > 1:
            continue
        noun = f"is the {phrase.category}" if phrase.count == 1 else f"are the {plural(phrase.category)}"
        yield Question(f"what color {noun} ?", phrase.color, "color")


def _count(scene: Scene) -> Iterator[Question]:
    yield Question(f"how many {plural(HYPERNYM)} are there ?", NUMBERS[len(scene.things)], "count")
    counts = Counter(thing.category for thing in scene.things)
    for category in CATEGORIES:
        yield Question(f"how many {plural(category)} are there ?", NUMBERS[counts[category]], "count")


def _relation(scene: Scene) -> Iterator[Question]:
    single = [thing for thing in scene.things if sum(t.category == thing.category for t in scene.things) == 1]
    for one in single:
        for other in single:
            if one is other:
                continue
            for word, distance in (("left of", other.x - one.x), ("above", other.y - one.y)):
                if abs(distance) >= one.radius:
                    answer = "yes" if distance > 0 else "no"
                    yield Question(f"is the {one.category} {word} the {other.category} ?", answer, "relation")


def _background(scene: Scene) -> Iterator[Question]:
    yield Question("what color is the background ?", scene.background, "background")
