"""Questions about a scene and facts that need no picture, each with the one right answer."""

from collections import Counter
from collections.abc import Iterator

from kedit.data import grammar
from kedit.data.grammar import CATEGORIES, FACTS, HYPERNYM, NUMBERS
from kedit.data.scene import Scene
from kedit.samples import Question
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
