"""The protocol of Sato and Takagi (2025): caption metrics on a concept's pictures and on others, by locating method.

python -m experiments.sato_takagi_2025.run
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.jobs import guarded, reported
from kedit.cli.pairs import counts_of, inpainter, prepared
from kedit.cli.sharing import loaded
from kedit.progress import show_progress

TWO_STAGE = "two_stage"


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def study(cfg: DictConfig) -> None:
    """Compare the methods on each concept, and leave the comparison and the caption metrics."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.sato_takagi_2025 import captions
    from kedit.pipelines.compare import compare_prepared
    from kedit.results.cache import Cache
    from kedit.results.run_folder import Run

    use_threads(cfg.threads)
    with misuse():
        data, plan, inpaint, style = build(cfg.data), build(cfg.edit), inpainter(cfg), figure_style(cfg)
        encoder = build(cfg.evaluate.encoder) if cfg.evaluate.encoder is not None else None
        choices = chosen(cfg)
        asked = [prepared(data, name, inpaint, vars(choices.counts), cfg.seed) for name in cfg.concepts]
    model = loaded(cfg.model)
    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        cache = Cache.of_model(cfg.store, model)
        comparison = compare_prepared(
            model, choices, asked, plan, encoder=encoder, cache=cache, progress=show_progress
        )  # fmt: skip
        comparison.save_in(kept, figures=style)
        lines = captions.with_means(list(measure(model, comparison, asked, plan, encoder, cache)))
        pages = [*(table.markdown() for table in captions.tables(lines)), captions.NOTE]
        kept.save_text("captions.md", "\n\n".join(pages) + "\n")
        kept.save_text("captions.csv", captions.flat(lines).csv())
        kept.save_json("captions.json", captions.flat(lines).to_json())
        if style:
            kept.save_figures({"effects": draw(lines)}, style)
        print("\n\n".join(pages))
        print(f"files: {kept.folder}")


def chosen(cfg: DictConfig) -> Any:
    """Return the paper's method and what it is compared with, as `kedit.compare` takes them."""
    from kedit.locate.two_stage import two_stage
    from kedit.pipelines.comparison.choices import Choices, Method

    methods = [Method(TWO_STAGE, two_stage(**cfg.two_stage)), *cfg.baselines]
    return Choices(methods, [cfg.budget], TWO_STAGE, cfg.site, counts=counts_of(cfg.evaluate), seed=cfg.seed)


def measure(model: Any, comparison: Any, asked: Sequence[Any], plan: Any, encoder: Any, cache: Any) -> Iterator[Any]:
    """Yield the caption metrics of the unedited model and of each method that could be measured, for each concept."""
    from experiments.sato_takagi_2025.captions import REFERENCES, UNEDITED, Line, score_captions
    from kedit.pipelines.comparison.effects import Trial
    from kedit.pipelines.outputs import similarity_of
    from kedit.pipelines.preparation import usable
    from kedit.pipelines.readable import readable

    similarity, seed = similarity_of(model, encoder, "image"), comparison.seed
    for one in show_progress([readable(model, each) for each in asked], len(asked), "caption metrics"):
        concept = one.evaluation_set.concept.name
        rows = [row for row in comparison.rows if row.concept == concept and row.effect is not None]
        if not rows:
            continue  # compare.md says why it could not be located in
        pairs = usable(model, one.pairs, show_progress, cache).pairs
        trial = Trial(model, one.evaluation_set, plan, pairs, similarity, cache, show_progress, seed)
        edited = {row.method: (row.neurons, [trial.edited(some) for some in row.sets]) for row in rows}
        for method, (neurons, said) in {"unedited": (0, [trial.before]), **edited}.items():
            for against in (UNEDITED, REFERENCES):
                figures = score_captions(one.evaluation_set, trial.before, said, similarity, against, seed)
                yield Line(concept, method, neurons, against, figures)


def draw(lines: Sequence[Any]) -> Any:
    """Return how alike edited captions are to unedited ones, of the concept and of others, by method."""
    from experiments.sato_takagi_2025.captions import LABELS, MEAN, OTHERS, TARGET, UNEDITED
    from kedit.plots import draw_intervals
    from kedit.plots.style import SERIES

    concepts = dict.fromkeys(line.concept for line in lines)
    shown = MEAN if MEAN in concepts else next(iter(concepts))
    rows = [line for line in lines if (line.concept, line.against) == (shown, UNEDITED) and line.method != "unedited"]
    looks = dict(zip(LABELS, SERIES, strict=False))
    panels = {
        heading: {line.method: [(figure, looks[metric]) for metric, figure in line.of(part).items()] for line in rows}
        for heading, part in (("the concept: low is suppressed", TARGET), ("all else: high is retained", OTHERS))
    }
    n = len(concepts) - (MEAN in concepts)
    title = f"Captions under the edit beside the unedited ones; mean of {n} concepts" if n > 1 else (
        f"Captions under the edit beside the unedited ones; `{shown}`"
    )  # fmt: skip
    return draw_intervals(panels, {LABELS[metric]: look for metric, look in looks.items()}, title=title, columns=2)


def main() -> int:
    """Run the command line."""
    return guarded(study)


if __name__ == "__main__":
    sys.exit(main())
