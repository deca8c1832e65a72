"""How words stand in running text: scripts with and without spaces, hyphens, and plurals."""

import re
import unicodedata
from collections.abc import Iterable

_CHINESE = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_SOUTHERN = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
UNSPACED = _CHINESE + _KANA + _SOUTHERN
"""The signs, as ranges of a regular expression, of scripts that put no space between words."""
HANGUL = "\u1100-\u11ff\uac00-\ud7af"
"""Korean, which puts spaces between words, but none between a noun and its particle."""

_ACCENTS = "\u0300-\u036f"  # `\w` leaves out those that Unicode writes behind their letter
_BEFORE = rf"(?<!(?![{UNSPACED}])[\w{_ACCENTS}])"
_AFTER = rf"(?!(?![{UNSPACED}{HANGUL}])[\w{_ACCENTS}])"
_BETWEEN = re.compile(r"[\s_-]+")

_IRREGULAR = (
    (r"f$", "ves"), (r"(?<=i)fe$", "ves"), (r"o$", "oes"), (r"(?<=\w{3})us$", "i"), (r"is$", "es"), (r"man$", "men"),
    (r"(?<=[ml])ouse$", "ice"), (r"oose$", "eese"), (r"(?<=f)oot$", "eet"), (r"ooth$", "eeth"), (r"person$", "people"),
    (r"child$", "children"), (r"ox$", "oxen"), (r"z$", "zzes"),
)  # fmt: skip
"""Endings, and those of the plural that some words which end so have: leaf, knife, tomato, cactus, axis, woman, ..."""


def bleu_tokens(text: str) -> str:
    """Return the name of sacrebleu's tokenizer for a text: `zh`, `char` for other scripts without spaces, or `13a`.

    Those for Japanese and Korean ask for MeCab; signs are what is counted in their place for Japanese.
    """
    if not re.search(f"[{UNSPACED}]", text):
        return "13a"
    return "zh" if re.search(f"[{_CHINESE}]", text) and not re.search(f"[{_KANA}{_SOUTHERN}]", text) else "char"


def plural(word: str) -> str:
    """Return the regular English plural of `word` (`box` -> `boxes`, `berry` -> `berries`)."""
    if re.search(r"(s|x|z|ch|sh)$", word, re.IGNORECASE):
        return word + "es"
    if re.search(r"[^aeiou]y$", word, re.IGNORECASE):
        return word[:-1] + "ies"
    return word + "s"


def counted(count: int, noun: str) -> str:
    """Return `count` of what `noun` names: `1 seed`, `2 seeds`."""
    return f"{count} {noun if count == 1 else plural(noun)}"


def numbers(word: str) -> set[str]:
    """Return `word` and all that may be its plural; some is no English ("leafs" beside "leaves"), which nobody writes.

    A library of English plurals takes seconds to import, and is made to choose one.
    """
    irregular = {re.sub(end, ending, word, flags=re.IGNORECASE) for end, ending in _IRREGULAR}
    return {word, plural(word)} | irregular


def standing(text: str) -> re.Pattern[str]:
    """Return the regular expression of a text as a whole word, exactly as it is written."""
    return re.compile(rf"{_BEFORE}{re.escape(text)}{_AFTER}")


def whole_words(words: Iterable[str], unless: Iterable[str] = ()) -> re.Pattern[str]:
    """Return the regular expression of any of `words` in any number, as a whole word, or of a phrase of `unless`.

    The parts of a name may be joined by white space, hyphens or underscores, whichever the name has. Accents match
    composed or not. The longest form wins. The group `word` is what counts: a phrase of `unless` matches without it.
    """
    body = rf"(?P<word>{_any_of(words)})"
    if phrases := _any_of(unless):
        body = f"{phrases}|{body}"
    # Only the words have a case; to ignore it in the signs around them, too, takes 19 ms to compile instead of 6.
    return re.compile(rf"{_BEFORE}(?i:{body}){_AFTER}")


def _any_of(words: Iterable[str]) -> str:
    named = {form for word in words for form in numbers(word.strip())}
    forms = {unicodedata.normalize(way, form) for form in named for way in ("NFC", "NFD")}
    return "|".join(map(_joined, sorted(forms, key=lambda form: (-len(form), form))))


def _joined(form: str) -> str:
    """Return a regular expression of a name whose parts may be joined in any way."""
    parts = [part for part in _BETWEEN.split(form) if part]
    # What is nothing but hyphens is a name of its own.
    return r"[\s_-]+".join(map(re.escape, parts)) if parts else re.escape(form)
