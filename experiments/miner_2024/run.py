"""The protocol of MINER (Huang et al. 2024): answers by benchmark, before and after each modality's neurons are masked.

python -m experiments.miner_2024.run
"""

import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.errors import ConfigurationError
from kedit.cli.jobs import guarded, reported
from kedit.cli.pairs import counts_of
from kedit.cli.sharing import loaded
from kedit.progress import show_progress


@hydra.main(version_base="1.3", config_path=str(Path(__file__).parent.resolve()), config_name="config")
@reported
def study(cfg: DictConfig) -> None:
    """Locate on one half of the questions, mask, and judge on the other half."""
    from hydra.core.hydra_config import HydraConfig

    from experiments.miner_2024 import masking, tables
    from kedit.locate.miner import UNION
    from kedit.pipelines.task import leave_sets
    from kedit.results.run_folder import Run

    use_threads(cfg.threads)
    style, miner = figure_style(cfg), build(cfg.locate)
    asked = prepare(cfg, miner)
    with Run(Path(HydraConfig.get().runtime.output_dir)) as kept:
        scores, halves = asked.scores(miner), [asked.scores(miner, half) for half in asked.halves()]
        mixes = OmegaConf.to_container(cfg.mixes)
        with misuse():
            sets = miner.select_each(scores)
            settings = list(masking.list_settings(miner, list(scores), cfg.strategies, mixes, cfg.ratios))  # type: ignore[arg-type]
        leave_sets(scores, sets, kept)
        reports = {one: measure(asked, one, scores) for one in show_progress(settings, len(settings), "settings")}
        parts = tables.settings_by_part(settings, reports)
        by_modality = parts[masking.MODALITY]
        found = {
            "benchmarks": tables.benchmarks(by_modality, miner.ratio),
            "strategies": tables.choices(masking.STRATEGY, parts[masking.STRATEGY]),
            "shares": tables.choices(masking.SHARE, parts[masking.SHARE]),
            "modalities": tables.modalities(
                {name: sets[name] for name in scores}, [miner.select_each(one) for one in halves], by_modality
            ),
        }
        if (both := asked.streams(sets[UNION], cfg.pictures)) is not None:
            found["depths"] = tables.depths(*both)
        leave(found, kept, by_modality[masking.ALL].verdict)
        if style:
            kept.save_figures({"score": tables.draw(by_modality, miner.ratio)}, style)
        print(f"files: {kept.folder}")


def prepare(cfg: DictConfig, miner: Any) -> Any:
    """Return the model and its questions; a ConfigurationError says which of them it cannot take."""
    from experiments.miner_2024.masking import Masking
    from kedit.pipelines.readable import readable_questions
    from kedit.pipelines.task import check, check_model
    from kedit.results.cache import Cache
    from kedit.samples import HasQuestions

    with misuse():
        data, plan, counts = build(cfg.data), build(cfg.edit), counts_of(cfg.evaluate)
        check(miner, plan, cfg.match)
        if not isinstance(data, HasQuestions):
            raise ConfigurationError(
                f"{type(data).__name__} has no questions to ask; use `data=folder` or `data=scenes`"
            )
        question_split = data.split_questions(locate=counts.locate, evaluate=counts.target, seed=cfg.seed)
    model = loaded(cfg.model)
    with misuse():
        question_split = readable_questions(model, question_split)
        check_model(model, miner, question_split)
    return Masking(model, question_split, plan, Cache.of_model(cfg.store, model), counts.controls, cfg.match, cfg.seed)


def measure(asked: Any, setting: Any, scores: Any) -> Any:
    """Return what a setting's neurons are worth; only another mix asks for other scores."""
    from experiments.miner_2024.masking import STRATEGY, choose

    return asked.report(choose(setting.miner, asked.scores(setting.miner) if setting.part == STRATEGY else scores))


def leave(found: Any, kept: Any, verdict: str) -> None:
    """Write the tables as Markdown, CSV and JSON, and print them."""
    pages = [table.markdown() for table in found.values()]
    kept.save_text("report.md", "\n\n".join([f"**{verdict}**", *pages]) + "\n")
    kept.save_json("report.json", {"verdict": verdict} | {name: table.to_json() for name, table in found.items()})
    for name, table in found.items():
        kept.save_text(f"report_{name}.csv", table.csv())
    print("\n\n".join([*pages, verdict]))


def main() -> int:
    """Run the command line."""
    return guarded(study)


if __name__ == "__main__":
    sys.exit(main())
