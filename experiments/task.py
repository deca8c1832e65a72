"""What a modality's neurons are worth: questions answered right before and after they are edited, and at random.

kedit task data=folder data.folder=/data/mine data.questions_file=questions.jsonl locate=miner

Beside `kedit run`, which asks what the neurons of one concept do: a task has no concept, no counterfactual pictures and
no word whose mention could be counted, and its questions may be about a picture, a video, a sound or nothing.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from experiments.app import bar, build, misuse, use_threads
from experiments.commands import guarded, reported, run_folder
from experiments.complaints import ConfigurationError
from experiments.sharing import loaded
from kedit import __version__
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "locating": 1, "evaluated": 1, "controls": 0}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="task")
@reported
def task(cfg: DictConfig) -> None:
    """Locate on one half of the questions, edit, and judge on the other half."""
    from hydra.core.hydra_config import HydraConfig

    with run_folder(cfg, LEAST) as (kept, tracker):
        job(cfg, kept, tracker, locator_name=HydraConfig.get().runtime.choices["locate"])


def job(cfg: DictConfig, kept: Any, tracker: Any, *, locator_name: str) -> None:
    """Locate, edit, judge and report."""
    from experiments import task_show
    from kedit.evaluation.task import judged
    from kedit.neurons import save_scores
    from kedit.pipelines.locate import cost_part, neuron_part

    began = time.perf_counter()
    use_threads(cfg.threads)
    data, locator, plan = (build(cfg[group]) for group in ("data", "locate", "edit"))
    check(cfg, data, locator, plan, locator_name)
    with misuse():
        quiz = data.quiz(locate=cfg.locating, evaluate=cfg.evaluated, seed=cfg.seed)
    model = loaded(cfg.model)
    located, asked = by_kind(quiz.locate), by_kind(quiz.evaluate)
    with misuse():
        site = model.site(locator.site)
        for some in (*located.values(), *asked.values()):
            model.read([some[0].prompt], [()])  # What the model cannot take is said now, not after an hour.

    prompts = {kind: [one.prompt for one in some] for kind, some in located.items()}
    scores = locator.score_prompts(model, prompts, progress=bar)
    kept.save_file("scores.safetensors", lambda path: save_scores(scores, path))
    *modalities, (_, neurons) = locator.select_each(scores).items()
    kept.save_json("neurons.json", neurons.to_json())
    for name, one in modalities:
        kept.save_json(f"neurons_{name}.json", one.to_json())

    operator = plan.operator_for(model, [])
    before = model.answer(quiz.evaluate, progress=bar)
    controls = [neurons.layer_matched(site.widths, cfg.seed + number) for number in range(cfg.controls)]
    after, *at_random = answers_edited(model, quiz.evaluate, plan, operator, [neurons, *controls])
    settings = {"neurons": len(neurons), "match": cfg.match, "seed": cfg.seed}
    report = {
        "kedit": __version__,
        "task": {"kinds": list(asked), "match": cfg.match},
        "model": model.name,
        "locator": locator_name,
        "operator": repr(operator),
        "positions": plan.positions,
        "neurons": neuron_part(neurons, site.n_neurons),
        "modalities": {name: neuron_part(one, site.n_neurons) for name, one in modalities},
        **judged(quiz.evaluate, before, after, at_random, **settings).to_json(),
        "samples": {
            "located": {kind: len(some) for kind, some in located.items()},
            "evaluated": {kind: len(some) for kind, some in asked.items()},
            "skipped": dict(quiz.skipped),
        },
        "cost": cost_part(scores) | {"seconds": round(time.perf_counter() - began, 2)},
    }
    task_show.everything(report, task_show.answer_rows(quiz.evaluate, before, after), site, kept, tracker)


def answers_edited(
    model: Any, questions: Sequence[Any], plan: Any, operator: Any, sets: Sequence[Any]
) -> list[list[str]]:
    """Return the answers with each of the `sets` edited: the located neurons first, then random ones."""
    told = []
    for number, chosen in enumerate(sets):
        with plan.edit(chosen, operator, f"control {number - 1}" if number else "task").applied(model):
            told.append(model.answer(questions, progress=bar))
    return told


def check(cfg: DictConfig, data: Any, locator: Any, plan: Any, locator_name: str) -> None:
    """Raise a ConfigurationError if something was chosen that a task has no use for."""
    from kedit.edit.plan import PatchPlan
    from kedit.evaluation.task import check_match
    from kedit.locate.miner import Miner
    from kedit.samples import Quizzed

    if not isinstance(locator, Miner):
        raise ConfigurationError(
            f"`locate={locator_name}` finds a concept in counterfactual pictures, which a task has not; use `miner`"
        )
    if isinstance(plan, PatchPlan):
        raise ConfigurationError("`edit=patch` needs counterfactual pictures, which a task has not; use `edit=zero`")
    if not isinstance(data, Quizzed):
        raise ConfigurationError(f"{type(data).__name__} has no questions to ask; use `data=folder` or `data=scenes`")
    with misuse():
        check_match(cfg.match)


def by_kind(questions: Sequence[Any]) -> dict[str, list[Any]]:
    """Return the questions of each kind."""
    return {kind: [one for one in questions if one.kind == kind] for kind in dict.fromkeys(q.kind for q in questions)}


def main() -> int:
    """Run the command line."""
    return guarded(task)


if __name__ == "__main__":
    sys.exit(main())
