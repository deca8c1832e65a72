"""The card of the trained drawing model, and a sheet of its drawings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import nn

from experiments.training.draw.codes import PARTS
from kedit.evaluation.statistics import Measured

Scores = Mapping[str, Measured]
COLUMNS, ROWS = 12, 4

ABOUT = f"""\
A tiny Janus (`JanusForConditionalGeneration` of transformers), trained in this repository on kedit's picture world: it
captions pictures and draws them from captions, with one Llama of 4 layers for both.

- A drawing is 8 x 8 codes of {4 + 6 * PARTS}: a background, or a color and one of {PARTS} parts, which are
  clusters of what an object covers in a cell and next to it. The codes of training pictures follow from the scenes, not
  from the encoder. **The codebook is made of this world's colors and shapes: it tests the toolkit and is no evidence
  about codebooks that nobody designed.**
- A caption leaves places and sizes free, and it draws every object in one size in the middle of 3 x 3 cells, so each
  object is the same nine codes wherever it lies.
- The decoder of its VQ tokenizer draws clean pictures: without the texture, tint and noise that the scenes have.
- Its language model, head and projector start as those of `scenes_plain`; its vision tower has learned to write what
  that model's writes. The language model then learned to draw (four steps of five) and went on saying captions,
  answers and facts (one of five).
- A prompt is the caption alone (`a yellow star and a blue circle`), in the model's chat format; one in ten was hidden
  for classifier-free guidance."""

BROKEN = (
    "**The encoder of the VQ tokenizer does not find the codes of a picture** (last row): what is encoded and decoded",
    "is another picture, and the reconstruction error of `kedit draw` says nothing here. Drawing does not use it.",
    "",
)


class Verdicts(NamedTuple):
    """What the evaluation found."""

    found: Scores
    """Drawings, by the exact finder."""
    captioned: Scores
    """Drawings, by the captioning model."""
    real: Scores
    """The scenes themselves, by the captioning model: the most that drawings can reach."""
    codec: Mapping[str, Scores]
    captions: Scores


def card(
    verdicts: Verdicts, model: nn.Module, training: Mapping[str, Any], folder: Path, how: Mapping[str, float]
) -> str:
    """Return the card, Markdown; `folder` holds the curves of the training."""
    n_weights = sum(weight.numel() for weight in model.parameters())
    seconds = {stage: round(seconds_of(folder / f"{stage}.jsonl")) for stage in training}
    n = verdicts.found["categories"].n
    lines = [
        "# scenes_draw", "", ABOUT, "",
        f"- {n_weights:,} weights, stored in 16 bits.",
        *(f"- Training of the {stage}: {json.dumps(about)}, {seconds[stage]} s." for stage, about in training.items()),
        "- Made by `python -m experiments.training.draw.run`, on a shared CPU core; where the weights in this folder "
        "differ",
        "  from the recipe, [its page](../../../experiments/training/draw/README.md#the-weights-that-ship) says.", "",
        "## Drawings of held-out captions", "",
        f"{n} captions of scenes that training has not seen, one drawing each (temperature {how['temperature']:g}, "
        f"guidance {how['guidance']:g}); with 95 % intervals.",
        "`categories`: exactly the asked ones are shown; `colors`: each in its color; `counts`: each as often as "
        "asked;",
        "`valid`: a scene of the picture world at all. `scenes` as judge of the real scenes shows what a judge misses.",
        "",
        *_table({
            "drawings, exact finder": verdicts.found, "drawings, captions of `scenes`": verdicts.captioned,
            "real scenes, captions of `scenes`": verdicts.real,
            "decoded from true codes, exact finder": verdicts.codec["true codes"],
            "encoded and decoded, exact finder": verdicts.codec["encoded"],
        }), "",
        *(BROKEN if (verdicts.codec["encoded"]["codes"].value or 0) < 0.5 else ()),
        "![drawings](drawings.png)", "",
        "## Captions of held-out scenes", "", *_table({"accuracy": verdicts.captions}), "",
    ]  # fmt: skip
    return "\n".join(lines)


def show(pictures: Sequence[Image.Image], path: Path) -> None:
    """Draw the first pictures on one sheet, as a PNG."""
    rows = [
        np.hstack([np.asarray(one) for one in pictures[row * COLUMNS : (row + 1) * COLUMNS]]) for row in range(ROWS)
    ]
    Image.fromarray(np.vstack(rows)).save(path, optimize=True)


def seconds_of(curve: Path) -> float:
    """Return how long a training took, over all its uninterrupted parts."""
    rows = [json.loads(line) for line in curve.read_text().splitlines()]
    following = [*rows[1:], {"seconds": 0.0}]
    return sum(row["seconds"] for row, after in zip(rows, following, strict=True) if after["seconds"] < row["seconds"])


def _table(rows: Mapping[str, Scores]) -> list[str]:
    columns = list(dict.fromkeys(measure for scores in rows.values() for measure in scores))
    cells = {
        name: [f"{scores[one]} (n = {scores[one].n})" if one in scores else "-" for one in columns]
        for name, scores in rows.items()
    }
    return [
        "| | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 1) + "|",
        *(f"| {name} | " + " | ".join(some) + " |" for name, some in cells.items()),
    ]
