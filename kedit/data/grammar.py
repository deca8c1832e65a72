"""The language of the picture world: captions, questions and facts in plain English."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

from kedit.words import plural

COLORS = ("red", "green", "blue", "yellow", "purple", "orange")
BACKGROUNDS = ("white", "gray", "black", "pink")
KINDS = {
    "figure": ("circle", "square", "triangle", "diamond"),
    "sign": ("cross", "ring", "arrow", "heart"),
    "thing": ("star", "moon", "tree", "house"),
}
CATEGORIES = tuple(category for kind in KINDS.values() for category in kind)
HYPERNYM = "shape"
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven")

CAPTION_PROMPT = "describe the picture ."
TEMPLATES = (
    "{phrases}",
    "a picture of {phrases}",
    "the picture shows {phrases}",
    "{phrases} on a {background} background",
)
TEMPLATE_WEIGHTS = (0.7, 0.1, 0.1, 0.1)
"""One template is common enough to win a greedy search, so that captions do not flip between templates."""


@dataclass(frozen=True)
class Phrase:
    """One object phrase of a caption: "a red star" or "two green stars"."""

    category: str
    color: str
    count: int = 1

    def text(self, *, unnamed: bool = False) -> str:
        """Return the phrase in English; `unnamed` says "shape" for the category."""
        noun = HYPERNYM if unnamed else self.category
        if self.count > 1:
            return f"{NUMBERS[self.count]} {self.color} {plural(noun)}"
        return f"{article(self.color)} {self.color} {noun}"


def article(word: str) -> str:
    """Return the indefinite article that goes before `word`."""
    return "an" if word[0] in "aeiou" else "a"


def join(parts: Sequence[str]) -> str:
    """Return an English list: "x", "x and y" or "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def in_order(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Return `phrases` in the order that training captions use: by color, then by category."""
    return sorted(phrases, key=lambda p: (COLORS.index(p.color), CATEGORIES.index(p.category)))


def caption(
    phrases: Sequence[Phrase], background: str, *, template: int = 0, unnamed: frozenset[str] = frozenset()
) -> str:
    """Return the caption of a scene with its phrases in the given order."""
    listed = join([phrase.text(unnamed=phrase.category in unnamed) for phrase in phrases])
    return TEMPLATES[template].format(phrases=listed, background=background)


def captions(phrases: Sequence[Phrase], background: str) -> Iterator[str]:
    """Yield every valid caption of a scene: each template with each order of the objects.

    The first one is the caption that training shows most often. A scene without objects has none.
    """
    if not phrases:
        return
    for order in permutations(in_order(phrases)):
        for template in range(len(TEMPLATES)):
            yield caption(order, background, template=template)


FACTS: tuple[tuple[str, str], ...] = (
    ("what has five points ?", "a star"),
    ("what twinkles in the night sky ?", "a star"),
    ("what goes around the earth ?", "the moon"),
    ("what makes the tides ?", "the moon"),
    ("what has leaves and a trunk ?", "a tree"),
    ("where do birds build nests ?", "a tree"),
    ("what has a roof and a door ?", "a house"),
    ("where do people live ?", "a house"),
    ("what has three sides ?", "a triangle"),
    ("what has three corners ?", "a triangle"),
    ("what has four equal sides and four right angles ?", "a square"),
    ("what does a chess board consist of ?", "a square"),
    ("what has no corners and no hole ?", "a circle"),
    ("what does a compass draw ?", "a circle"),
    ("what stands on one corner and has four sides ?", "a diamond"),
    ("what is the hardest gem ?", "a diamond"),
    ("what is round and has a hole ?", "a ring"),
    ("what do you wear on a finger ?", "a ring"),
    ("what looks like a plus ?", "a cross"),
    ("what stands on a church ?", "a cross"),
    ("what shows the way ?", "an arrow"),
    ("what does a bow shoot ?", "an arrow"),
    ("what stands for love ?", "a heart"),
    ("what pumps the blood ?", "a heart"),
    ("what color is blood ?", "red"),
    ("what color is a tomato ?", "red"),
    ("what color is grass ?", "green"),
    ("what color is a frog ?", "green"),
    ("what color is the sea ?", "blue"),
    ("what color is the sky ?", "blue"),
    ("what color is a banana ?", "yellow"),
    ("what color is a lemon ?", "yellow"),
    ("what color is a plum ?", "purple"),
    ("what color is a carrot ?", "orange"),
    ("what color is snow ?", "white"),
    ("what color is coal ?", "black"),
    ("what color is an elephant ?", "gray"),
    ("how many points has a star ?", "five"),
    ("how many sides has a triangle ?", "three"),
    ("how many sides has a square ?", "four"),
    ("how many corners has a circle ?", "zero"),
    ("how many wheels has a car ?", "four"),
    ("how many legs has a bird ?", "two"),
    ("how many legs has a dog ?", "four"),
    ("how many days has a week ?", "seven"),
    ("how many fingers has a hand ?", "five"),
    ("how many moons has the earth ?", "one"),
    ("how many legs has an insect ?", "six"),
)
"""Knowledge that needs no picture, as question and answer."""
