"""One look for every figure: the size of a page, colors that each mean one thing, and names as people write them."""

import re
from typing import Any, NamedTuple

# Okabe and Ito's palette (2008), and some between: tests/test_plots.py proves that they stay apart for the color-blind.
EDITED = "#0072B2"
"""The located neurons, what editing them does, and the method that is asked about."""
CONTROL = "#B4B4B4"
"""Random neurons."""
BASELINE = "#E69F00"
"""What is compared with: the unedited model, or another method."""
CONCEPT = "#D55E00"
"""The concept, and that it is suppressed."""
KEPT = "#009E73"
"""All else, and that it is kept."""
EARLIER = "#B5D9EE"
"""What an earlier stage let through: the located neurons' candidates."""
SKY, WINE, INDIGO, BROWN, MAUVE = "#56B4E9", "#882255", "#332288", "#7A5230", "#B07AA1"
"""Of series without a meaning of their own, and of kinds of tokens."""
INK = "#222222"
GRAY = "#6E6E6E"
"""Of small print, frames and grids; no data."""
PALE = "#E8E8E8"
PALETTE = (EDITED, CONTROL, BASELINE, CONCEPT, KEPT, EARLIER, SKY, WINE, INDIGO, BROWN, MAUVE, INK)
"""Every color that data is drawn in."""


class Look(NamedTuple):
    """How a series is drawn: no two series differ by color alone."""

    color: str
    mark: str = "o"
    line: Any = "-"

    def line2d(self) -> dict[str, Any]:
        """Return the look as matplotlib's `Line2D` takes it."""
        return {"color": self.color, "marker": self.mark, "ls": self.line, "ms": 5, "mew": 0.7} | (
            {} if self.mark in "+x" else {"mec": "white"}
        )

    def interval(self) -> dict[str, Any]:
        """Return the same of a figure with its interval: a whole line, of which a short one is no row of dots."""
        return {"color": self.color, "marker": self.mark, "ls": "-", "lw": 2, "ms": 5.5, "mew": 0.7}


MEASURES = {"mention_drop": Look(CONCEPT), "retention": Look(KEPT, "s", "--"), "selectivity": Look(INK, "D", ":")}
"""What an edit is judged by."""
SERIES = (
    *(Look(WINE, "s", "--"), Look(SKY, "^", "-."), Look(INDIGO, "D", (0, (1, 1))), Look(BROWN, "v", (0, (5, 1)))),
    *(Look(MAUVE, "P", (0, (3, 1, 1, 1))), Look(INK, "X", ":"), Look(WINE, "<", "-"), Look(SKY, ">", "-")),
    *(Look(INDIGO, "p", "-"), Look(BROWN, "h", "-"), Look(MAUVE, "*", "-"), Look(INK, "8", "-")),
)
"""Looks of series without a meaning of their own, such as locators, operators and models; a legend names them."""


def looks_of(names: list[str], marked: str) -> dict[str, Look]:
    """Return a look for each name: `marked` is first and drawn as edited, what begins with `random` last."""
    distinct = sorted(set(names) - {marked})
    drawn = [name for name in distinct if name.startswith("random")]
    rest = [name for name in distinct if name not in drawn]
    looks = {marked: Look(EDITED)} if marked in names else {}
    looks |= {name: SERIES[number % len(SERIES)] for number, name in enumerate(rest)}
    return looks | {name: Look(GRAY, "x" if number else "+", ":") for number, name in enumerate(drawn)}


LOOK: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "figure.facecolor": "white",
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "hatch.color": "#B0B0B0",
    "legend.frameon": False,
    "legend.columnspacing": 1.6,
    "savefig.bbox": "standard",
    # A caption may contain a dollar sign, which is not a formula; and text stays text.
    "text.parse_math": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "kedit",
}
"""Settings of matplotlib, in force while a figure is drawn and saved."""

NAMES = {
    "mention_drop": "concept no longer named",
    "substitutions": "a thing not there named instead",
    "retention": "all else kept",
    "objects": "other objects still named",
    "bertscore": "BERTScore",
    "others": "things beside the concept still named",
    "text": "text questions still answered right",
    "bleu": "BLEU",
    "rougeL": "ROUGE-L",
    "drawing_drop": "drawings without it now",
    "drawn_others": "things beside it still drawn",
    "drawn_objects": "other things still drawn",
    "valid": "whole drawings still whole",
    "unasked": "drawn now where nobody asks for it",
    "reconstruction": "VQ reconstruction error, more than before",
    "caption_drop": "captions that name it no longer",
    "caption_others": "others still named in captions",
    "two_stage": "two-stage",
    "gradcam": "Grad-CAM",
    "grad": "gradient",
    "grad_act": "gradient x activation",
    "act_unembed": "activation x unembedding",
    "miner": "MINER",
    **dict.fromkeys(("pan_multimodal", "mm_neurons"), "Pan et al."),
    "schwettmann": "Schwettmann et al.",
    **dict.fromkeys(("domain_entropy", "mmneuron"), "domain entropy"),
    "nam": "NAM",
    "nam_image": "NAM, I-neurons",
    "nam_weighted": "NAM, weighted",
    "nam_act": "AcT",
    "nam_acu": "AcU",
    "nam_grad": "GraD",
    "nam_grat": "GraT",
    "nam_grai": "GraI",
    "nam_ce": "CE",
    "random_layer_matched": "random, layer-matched",
    "navier_stokes": "Navier-Stokes",
    "telea": "Telea",
}
"""Of measures, methods and ways to paint; see `name` for all other words."""


def name(word: str) -> str:
    """Return a measure, method or concept as people write it, also with a remark in brackets behind it.

    A setting's key stays as it is typed; an axis has `setting_name` of it.
    """
    if not (found := re.fullmatch(r"(\w+)( \(.*\))?", word)):
        return word
    return (NAMES.get(found[1]) or found[1].replace("_", " ")) + (found[2] or "")


SETTINGS = {
    "q": "quantile",
    "of_max": "share of the highest score",
    "k": "neurons kept",
    "at_most": "neurons at most",
}
"""What settings of selectors are, for the axes of a figure."""


def setting_name(key: str) -> str:
    """Return what a setting is, as people write it: `gradcam.q` is "Grad-CAM: quantile"."""
    *where, last = key.split(".")
    return ": ".join([*map(name, where), SETTINGS.get(last) or name(last)])


def sentence(text: str) -> str:
    """Return `text` with what it has between backticks as people write it, in quotation marks."""
    return re.sub(r"`([^`]*)`", lambda found: f"“{name(found[1])}”", text)
