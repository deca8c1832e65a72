"""Look at what was located: what the neurons say, where they fire, how stable the set is.

kedit inspect concept=star locate=two_stage
"""

import sys
from dataclasses import fields
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit.cli.configuration import build, figure_style, misuse, plain, use_threads
from kedit.cli.jobs import guarded, renamed, reported, run_folder
from kedit.cli.sharing import check_at_hand, loaded
from kedit.paths import conf_dir
from kedit.progress import show_progress

FORMER = {"located": "evaluate.locate", **{key: f"evaluate.{key}" for key in ("target", "retention", "controls")}}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="inspect")
@reported
def inspect(cfg: DictConfig) -> None:
    """Inspect in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    from kedit.cli import show
    from kedit.pipelines.subject import LEAST

    least = {f"evaluate.{name}" if name in cfg.evaluate else name: number for name, number in LEAST.items()}
    with run_folder(cfg, {"seed": 0, "threads": 1, **least}) as (kept, tracker):
        result = job(cfg, HydraConfig.get().runtime.choices["locate"], kept)
        result.save_in(kept, figures=figure_style(cfg), page=cfg.page)
        show.mirror_inspection(result, tracker, kept)
        show.terminal(result, kept)


def job(cfg: DictConfig, name: str, kept: Any) -> Any:
    """Build what the configuration names and return what `kedit.inspect` makes of it.

    Args:
        cfg: The configuration.
        name: The locator's.
        kept: The run's folder, which has the scores and the neurons as soon as they are known.
    """
    from kedit.cli.pairs import inpainter, prepared, quiet
    from kedit.pipelines.inspect import inspect_prepared
    from kedit.pipelines.locate import language_only, leave
    from kedit.pipelines.subject import Looks

    use_threads(cfg.threads)
    data, inpaint, locator = build(cfg.data), inpainter(cfg), build(cfg.locate)
    encoder, clip = (build(cfg[key]) if cfg[key] is not None else None for key in ("encoder", "clip"))
    asked = plain(cfg) | plain(cfg.evaluate)
    with misuse():
        looks = Looks(**{field.name: asked[field.name] for field in fields(Looks)})
        language_only(locator, "inspect")
        check_at_hand(cfg.model)
        pictures = prepared(data, cfg.concept, inpaint, vars(looks.pictures), cfg.seed)
    model = loaded(cfg.model)
    with misuse():
        model.site(locator.site)
    with quiet(inpaint):
        return inspect_prepared(
            model, data, pictures, locator, inpaint=inpaint, encoder=encoder, clip=clip, looks=looks, seed=cfg.seed,
            name=name, keep=lambda located: leave(located, kept), progress=show_progress,
        )  # fmt: skip


def main() -> int:
    """Run the command line."""
    sys.argv[1:] = renamed(sys.argv[1:], FORMER)
    return guarded(inspect)


if __name__ == "__main__":
    sys.exit(main())
