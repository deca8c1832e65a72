"""The end of locating in shards: the parts of all jobs become what one job would have left."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.app import build

MERGED = "merged"


class Group(NamedTuple):
    """The jobs that are shards of one: equal but for `shard`."""

    overrides: tuple[str, ...]
    folders: list[Path]


def merge(folder: Path, tracker: Any) -> None:
    """Merge the parts of the jobs in `folder` into its `merged`, one folder in there for each thing that was located.

    Raises:
        PartError: A part is missing, which is named, or does not belong to the others.
        ValueError: There is no part at all.
    """
    from kedit.runs import Run

    groups = list(groups_of(folder))
    if not groups:
        raise ValueError(f"there is no part to merge in `{folder}`: no job of it was one of several shards")
    for group in groups:
        place = folder / MERGED if len(groups) == 1 else folder / MERGED / label(group)
        with Run(place) as run:
            merge_group(group, run, tracker)


def merge_group(group: Group, run: Any, tracker: Any) -> None:
    """Merge the parts that the jobs of a group left."""
    from experiments.locate import PART
    from experiments.located import leave
    from kedit.locate.parts import Part, PartError

    found = [one / PART for one in group.folders if (one / PART).is_file()]
    if not found:
        raise PartError(f"none of the {len(group.folders)} jobs left its `{PART}`: " + failures(group))
    settings, running = (OmegaConf.load(found[0].parent / ".hydra" / name) for name in ("config.yaml", "hydra.yaml"))
    assert isinstance(settings, DictConfig)
    leave(build(settings.locate), running.hydra.runtime.choices.locate, [Part.load(one) for one in found], run, tracker)


def groups_of(folder: Path) -> Iterator[Group]:
    """Yield the groups of jobs in `folder` that are shards of one, those that failed included."""
    groups: dict[tuple[str, ...], list[Path]] = {}
    for path in sorted(folder.glob("*/.hydra/overrides.yaml")):
        told = [str(one) for one in OmegaConf.load(path)]
        if any(one.startswith("shard.") for one in told):
            groups.setdefault(tuple(one for one in told if not one.startswith("shard.")), []).append(path.parents[1])
    return (Group(*one) for one in groups.items())


def label(group: Group) -> str:
    """Return the name of a group's folder: its overrides."""
    return re.sub(r"[^A-Za-z0-9=.,_-]+", "_", ",".join(group.overrides))[:120] or "all"


def failures(group: Group) -> str:
    """Return what STATUS says of each job."""
    told = ((one, one / "STATUS") for one in group.folders)
    return "; ".join(f"{one.name} {path.read_text().strip() if path.is_file() else 'never ran'}" for one, path in told)
