"""The card of the trained inpainter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.training.inpainter.denoiser import TRAINED_TIMES
from experiments.training.inpainter.evaluation import Verdict

ABOUT = """\
A tiny inpainting pipeline of diffusers (`StableDiffusionInpaintPipeline`), trained from scratch on kedit's picture
world to paint things out. It shows what a real inpainter costs beside the exact counterfactual, and lets
`inpaint=diffusers` be tried without a download.

- Autoencoder of 4 latents, a quarter of the picture's side; a denoiser of convolutions alone with 9 input channels;
  DDIM, whose schedule ends in pure noise; it predicts the finished latents.
- Trained to paint background: the picture with a hole over a thing (its outline, in a quarter of the cases its box,
  grown by 0 to 4 pixels) and, as what belongs there, the exact picture without the thing. Things are only ever painted
  out, never in.
- There is one task, so the denoiser reads no prompt: the text encoder is untrained, and a prompt or guidance changes
  nothing.
- It is of no use beyond this world's pictures of 64 x 64 pixels."""


def card(
    verdicts: Mapping[str, Verdict],
    n_weights: Mapping[str, int],
    size: int,
    training: Mapping[str, Any],
    command: str,
    n_steps: int,
) -> str:
    """Return the model card, Markdown; `size` in bytes."""
    parts = ", ".join(f"{name} {count:,}" for name, count in n_weights.items())
    lines = [
        "# scenes_inpainter",
        "",
        ABOUT,
        "",
        f"- {sum(n_weights.values()):,} weights ({parts}), {size / 1e6:.1f} MB; {TRAINED_TIMES} noise levels.",
        *(f"- Training of the {stage}: {json.dumps(about)}." for stage, about in training.items()),
        f"- Made by `{command}`.",
        "",
        "## On held-out scenes",
        "",
        f"The model `scenes` captions each picture after its hole, grown by 2 pixels, was filled ({n_steps} steps).",
        "`removed`: share of the captions that no longer name the concept, of those that named it, with Wilson's 95 %",
        "interval; `invented`: share that name a thing that was not even in the original; `PSNR`: in the concept's",
        "region, against the exact picture, whose noise alone leaves 32.6 dB at best; seconds are on one CPU core.",
        "",
        "| inpainter | removed | n | invented | PSNR, dB | s/picture |",
        "|---|---|---|---|---|---|",
        *(
            f"| {name} | {one.removed} | {one.removed.n} | {one.invented} | {one.psnr.value:.1f} | {one.seconds:.3f} |"
            for name, one in verdicts.items()
        ),
        "",
        "Removed by concept: " + ", ".join(f"{name} {one}" for name, one in _first(verdicts).by_concept.items()) + ".",
        "",
        "![held-out pictures](pictures.png)",
        "",
    ]
    return "\n".join(lines)


def seconds_of(curve: Path) -> float:
    """Return how long a training took, over its uninterrupted parts up to their last checkpoints."""
    rows = [json.loads(line)["seconds"] for line in curve.read_text().splitlines()]
    return float(sum(row for row, after in zip(rows, [*rows[1:], 0.0], strict=True) if after < row))


def _first(verdicts: Mapping[str, Verdict]) -> Verdict:
    return next(iter(verdicts.values()))
