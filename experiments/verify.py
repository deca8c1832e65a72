"""Compute finished runs again, without anything that was kept, and compare what they left byte by byte.

kedit verify outputs/2026-11-22/10-00-00
kedit verify multirun/2026-11-22/10-00-00 model.batch_size=1
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from experiments.app import misuse
from experiments.commands import code_of, said
from experiments.complaints import ConfigurationError, explained

FILES = ("scores.safetensors", "neurons.json", "captions.jsonl", "report.json")
"""What is compared: all that a run finds out. The other files are made from these, or say how long it took."""
TESTED = ("significance.json", "pvalues.safetensors")
"""What is compared as well where `select=auto` left it."""
USAGE = "usage: kedit verify RUN [RUN ...] [KEY=VALUE ...]\n"


class Verdict(NamedTuple):
    """What became of one run."""

    run: Path
    differ: tuple[str, ...]
    """The files that are not the same, each with the first place."""


def verified(run: Path, overrides: Sequence[str] = ()) -> Verdict:
    """Return which of the files of `run` come out differently, with `overrides` that should change none.

    Raises:
        ConfigurationError: It is no finished run of `kedit run`, or an override is wrong.
    """
    from experiments import run as recipe
    from kedit.runs import Run

    settings, locator_name = _settings(run, overrides)
    with TemporaryDirectory(prefix="kedit-verify-") as scratch:
        again = Path(scratch)
        with Run(again) as kept:
            recipe.job(settings, locator_name, kept).save_in(kept, figures=False)
        names = (*FILES, *(name for name in TESTED if (run / name).is_file()))
        return Verdict(run, tuple(filter(None, (_difference(run, again, name) for name in names))))


def _settings(run: Path, overrides: Sequence[str]) -> tuple[DictConfig, str]:
    """Return the settings of a finished run with `overrides`, and the name of its locator."""
    status = run / "STATUS"
    if not status.is_file() or not (run / "report.json").is_file():
        raise ConfigurationError(f"`{run}` is no run of `kedit run`: it has no STATUS and report.json")
    if (told := status.read_text(encoding="utf-8").strip()) != "done":
        raise ConfigurationError(f"`{run}` is not finished, its STATUS is `{told}`: there is nothing to verify")
    with misuse():
        settings = OmegaConf.load(run / ".hydra" / "config.yaml")
        chosen = OmegaConf.load(run / ".hydra" / "hydra.yaml").hydra.runtime.choices
        for override in overrides:
            key = override.partition("=")[0]
            if OmegaConf.select(settings, key, default=_NOTHING) is _NOTHING:
                raise ConfigurationError(f"no key `{key}` in the run's configuration")
        unkept = {"store": None, "figures": False, "tracker": {"_target_": "kedit.tracking.NoTracker"}}
        merged = OmegaConf.merge(settings, unkept, OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(merged, DictConfig)
    return merged, str(chosen.locate)


_NOTHING = object()


def _difference(run: Path, again: Path, name: str) -> str | None:
    """Return where a file differs, or None."""
    old, new = (run / name).read_bytes(), (again / name).read_bytes()
    if old == new:
        return None
    if name.endswith(".safetensors"):
        return f"{name} ({_of_scores(run / name, again / name)})"
    at = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    line = old[:at].count(b"\n") + 1
    was, now = (data.splitlines()[line - 1 : line] or [b""] for data in (old, new))
    return f"{name} (line {line}: {_short(was[0])} -> {_short(now[0])})"


def _of_scores(old: Path, new: Path) -> str:
    from kedit.neurons import load_scores

    before, after = load_scores(old), load_scores(new)
    if list(before) != list(after):
        return f"stages {', '.join(before)} -> {', '.join(after)}"
    apart = {name: _apart(before[name].values, after[name].values) for name in before}
    return ", ".join(f"{name}: {told}" for name, told in apart.items() if told) or "other provenance"


def _apart(old: Any, new: Any) -> str:
    if old.shape != new.shape:
        return f"shape {tuple(old.shape)} -> {tuple(new.shape)}"
    differ = (old != new) & ~(old.isnan() & new.isnan())
    largest = (old - new).abs().nan_to_num(0).max().item()
    return f"{int(differ.sum())} of {old.numel()} scores, by at most {largest:.3g}" if differ.any() else ""


def _short(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _runs(folders: Sequence[str]) -> Iterator[Path]:
    """Yield the run that each folder is, or the finished ones of a sweep by number."""
    for folder in map(Path, folders):
        if (folder / "STATUS").is_file() or not (folder / "sweep.json").is_file():
            yield folder
            continue
        jobs = (one.parent for one in folder.glob("*/STATUS") if one.read_text(encoding="utf-8") == "done\n")
        yield from sorted(jobs, key=lambda job: int(job.name) if job.name.isdigit() else -1)


def main() -> int:
    """Verify the runs on the command line; 1 if one of them differs."""
    words = sys.argv[1:]
    folders, overrides = [one for one in words if "=" not in one], [one for one in words if "=" in one]
    if not folders or any(one.startswith("-") for one in words):
        sys.stderr.write(USAGE)
        return 2
    code = 0
    try:
        for run in _runs(folders):
            verdict = verified(run, overrides)
            told = f"differs: {'; '.join(verdict.differ)}" if verdict.differ else "the same, byte by byte"
            print(f"{run}: {told}", flush=True)
            code = max(code, int(bool(verdict.differ)))
    except Exception as error:
        return said(code_of(error), explained(error))
    return code


if __name__ == "__main__":
    sys.exit(main())
