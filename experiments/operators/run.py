"""What each operator does to a concept's neurons, from pictures that hardly show it to pictures that clearly do.

python -m experiments.operators.run concept=star
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.jobs import guarded, renamed, reported
from kedit.cli.sharing import loaded
from kedit.progress import show_progress

FORMER = {"located": "evaluate.locate", "target": "evaluate.target"}


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def operators(cfg: DictConfig) -> None:
    """Locate, then caption faded pictures under each operator."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.cli.pairs import inpainter, paired
    from kedit.edit.operators import Scale, Zero, amplify
    from kedit.edit.reference import CounterfactualMean
    from kedit.pipelines.preparation import Counts
    from kedit.pipelines.preparation import draw as draw_pictures
    from kedit.results.run_folder import Run
    from kedit.results.table import Table
    from kedit.samples import find_concept

    use_threads(cfg.threads)
    data, inpaint, locator = build(cfg.data), inpainter(cfg), build(cfg.locate)
    with misuse():
        concept = find_concept(data.concepts, cfg.concept)
        split = draw_pictures(data, concept, Counts(**cfg.evaluate, retention=0), seed=cfg.seed)
        pairs, faded = (paired(inpaint, part, concept).made for part in (split.locate, split.target))
        chosen = {
            "none": Scale(1.0),
            f"scale {cfg.scale}": Scale(cfg.scale),
            f"amplify {cfg.amplify}": amplify(cfg.amplify),
        }
    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        model = loaded(cfg.model)
        neurons = locator.select(locator.score(model, pairs, progress=show_progress))
        chosen |= {"zero": Zero(), "patch": CounterfactualMean(locator.site)(model, pairs)}
        rows = {
            strength: {name: share(model, faded, strength, neurons, one) for name, one in chosen.items()}
            for strength in show_progress(cfg.strengths, len(cfg.strengths), "strengths")
        }
        cells = [(f"{strength:.0%}", *row.values()) for strength, row in rows.items()]
        table = Table(("concept drawn", *chosen), tuple(cells)).markdown()
        kept.save_text("operators.md", table + "\n")
        kept.save_json("operators.json", {str(s): {k: m.to_json() for k, m in row.items()} for s, row in rows.items()})
        kept.save_figures({"operators": draw(rows, concept.name, len(neurons))}, figure_style(cfg))
        print(f"share of captions that name `{concept.name}`, {len(neurons)} neurons edited, n = {len(faded)}\n{table}")
        print(f"files: {kept.folder}")


def share(model: Any, faded: Sequence[Any], strength: float, neurons: Any, operator: Any) -> Any:
    """Return the share of captions that name the concept, drawn with `strength`, under an edit."""
    from PIL import Image

    from kedit.edit.edit import Edit
    from kedit.evaluation.statistics import bootstrap_mean

    images = [Image.blend(pair.image, pair.sample.image, strength) for pair in faded]
    with Edit(neurons, operator).applied(model):
        captions = model.caption(images, progress=show_progress)
    named = [pair.concept.mentioned_in(caption.text) for pair, caption in zip(faded, captions, strict=True)]
    return bootstrap_mean([float(one) for one in named])


def draw(rows: Mapping[float, Mapping[str, Any]], concept: str, n_neurons: int) -> Any:
    """Return the share of captions that name the concept by how much of it is drawn."""
    from kedit.plots import Curve, Look, draw_lines
    from kedit.plots.style import BASELINE, EDITED

    plain = Curve(list(rows), [row["none"] for row in rows.values()], Look(BASELINE, "s", "--"))
    # A panel each: two operators that both silence the concept would hide each other.
    panels = {
        operator: {"with the edit": plain._replace(values=[row[operator] for row in rows.values()], look=Look(EDITED))}
        | {"unedited": plain}
        for operator in next(iter(rows.values()))
        if operator != "none"
    }
    title = f"What {len(panels)} operators do to the {n_neurons} neurons of `{concept}`, n = {plain.values[0].n}"
    return draw_lines(
        panels, title=title, across=f"how much of the {concept} is drawn",
        up=f"captions that say “{concept}”, with 95 % interval", prepare=_prepare, columns=len(panels), height=2.3,
    )  # fmt: skip


def _prepare(axes: Any) -> None:
    axes.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    axes.set_yticks((0, 0.25, 0.5, 0.75, 1), ("0", "0.25", "0.5", "0.75", "1"))
    axes.set(xlim=(0, 1.05), ylim=(-0.03, 1.03))


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = renamed(sys.argv[1:], FORMER)
    return guarded(operators)


if __name__ == "__main__":
    sys.exit(main())
