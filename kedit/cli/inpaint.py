"""Look at counterfactuals: paint a concept out of some pictures and leave them in a folder and a figure.

kedit inpaint concept=star inpaint=opencv
"""

import re
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import hydra
from omegaconf import DictConfig

from kedit import __version__
from kedit.cli.configuration import build, figure_style, misuse, use_threads
from kedit.cli.jobs import guarded, reported, run_folder
from kedit.paths import conf_dir

LEAST = {"seed": 0, "threads": 1, "samples": 1, "shown": 1}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="inpaint")
@reported
def inpaint(cfg: DictConfig) -> None:
    """Paint in one Hydra folder."""
    from hydra.core.hydra_config import HydraConfig

    with run_folder(cfg, LEAST) as (kept, tracker):
        job(cfg, kept, tracker, method=HydraConfig.get().runtime.choices["inpaint"])


def job(cfg: DictConfig, kept: Any, tracker: Any, *, method: str) -> None:
    """Paint, save every picture, and draw some of them."""
    from kedit.cli.pairs import inpainter, paired
    from kedit.cli.show import tell_figures
    from kedit.pipelines.preparation import Counts, draw
    from kedit.plots import draw_pictures
    from kedit.samples import find_concept, pictured

    began = time.perf_counter()
    use_threads(cfg.threads)
    data, painter = build(cfg.data), inpainter(cfg)
    with misuse():
        concept = find_concept(data.concepts, str(cfg.concept))
        split = draw(data, concept, Counts(cfg.samples, target=1, retention=0), seed=cfg.seed)
        pairs = paired(painter, split.locate, concept)
        pictured(pairs.made, "`kedit inpaint`")
    folder = saved(pairs.made, kept)
    rows = [row(pair, cfg.inpaint.get("dilation", 0)) for pair in pairs.made]
    changed = sum(one["changed"] for one in folder) / len(folder)
    title = f"`{concept.name}` painted out by `{method}`: {changed:.0%} of the pixels change"
    kept.save_figures({"counterfactuals": draw_pictures(rows[: cfg.shown], title=title)}, figure_style(cfg))
    report = {
        "kedit": __version__,
        "concept": concept.name,
        "inpaint": method,
        "samples": {"made": len(pairs.made), "skipped": {**split.skipped, **pairs.skipped}},
        "changed": changed,
        "pictures": folder,
        "cost": {"seconds": round(time.perf_counter() - began, 2)},
    }
    kept.save_json("inpaint.json", report)
    tracker.log({"changed": changed, "made": len(pairs.made)})
    tell_figures(tracker, kept)
    print(f"`{concept.name}` painted out of {len(pairs.made)} pictures by {method}, {report['cost']['seconds']} s")
    figures = [f"figure: {kept.folder / figure}" for figure in kept.figures]
    print("\n".join([*figures, f"pictures: {kept.folder / 'pictures'}"]))


def saved(pairs: Sequence[Any], kept: Any) -> list[dict[str, Any]]:
    """Save every counterfactual and control picture as a PNG; return which file has what."""
    import numpy as np

    told = []
    for number, pair in enumerate(pairs):
        stem = f"pictures/{number:03d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', pair.sample.id)[-80:]}"
        files = {"counterfactual": pair.image, "control": pair.control}
        named = {name: f"{stem}.{name}.png" for name, image in files.items() if image is not None}
        for name, file in named.items():
            kept.save_file(file, partial(files[name].save, format="PNG"))
        before, after = (np.asarray(image.convert("RGB")) for image in (pair.sample.image, pair.image))
        told.append({"id": pair.sample.id, **named, "changed": float((before != after).any(-1).mean())})
    return told


def row(pair: Any, dilation: int) -> Any:
    """Return a row of the figure; the outline is of the region as grown by `dilation`."""
    from kedit.data.inpaint import region_of
    from kedit.plots import PictureRow

    region = region_of(pair.sample, pair.concept, dilation)
    original, over = pair.sample.image, "what is painted over"
    pictures = {"picture": original, over: original, "counterfactual": pair.image}
    pictures |= {} if pair.control is None else {"control": pair.control}
    return PictureRow(str(pair.sample.id), pictures, {over: region})


def main() -> int:
    """Run the command line."""
    return guarded(inpaint)


if __name__ == "__main__":
    sys.exit(main())
