"""What the jobs of a sweep were asked for: which settings differ between them, and short names for those."""

from collections.abc import Iterable, Mapping, Sequence

PLUMBING = frozenset({"select", "scorer"})
"""Parts of a setting's name that every stage of a locator has and that tell a reader nothing."""


def settings(overrides: Iterable[str]) -> dict[str, str]:
    """Return the value of each setting in the overrides of one job; a deleted one (`~key`) has the value `deleted`."""
    found = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        deleted = key.startswith("~")
        found[key.lstrip("+~")] = "deleted" if deleted else value if equals else ""
    return found


def swept_keys(jobs: Sequence[Iterable[str]]) -> list[str]:
    """Return the settings that differ between jobs, in the order of their first mention."""
    asked = [settings(job) for job in jobs]
    keys = dict.fromkeys(key for one in asked for key in one)
    return [key for key in keys if len({one.get(key) for one in asked}) > 1]


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return a short name for each key, no two alike: `locate.stages.gradcam.select.q` is `gradcam.q`.

    A name that two keys would share is spelled out for both, in full if need be.
    """
    forms = {key: _forms(key) for key in dict.fromkeys(keys)}
    level = dict.fromkeys(forms, 0)
    while True:
        names = {key: forms[key][level[key]] for key in forms}
        shared = {key for key, name in names.items() if list(names.values()).count(name) > 1}
        longer = {key for key in shared if level[key] < len(forms[key]) - 1}
        if not longer:
            return names
        for key in longer:
            level[key] += 1


def swept_by_job(jobs: Sequence[Iterable[str]]) -> list[dict[str, str]]:
    """Return for each job the values of what is swept, under short names; a setting that a job lacks is left out."""
    names = short_keys(swept_keys(jobs))
    asked = [settings(job) for job in jobs]
    return [{name: one[key] for key, name in names.items() if key in one} for one in asked]


def shown(swept: Mapping[str, str]) -> str:
    """Return the swept settings of one job in words, such as `difference.q=0.9 gradcam.q=0.5`."""
    return " ".join(f"{name}={value}" for name, value in swept.items())


def _forms(key: str) -> tuple[str, ...]:
    """Return names for `key` from the shortest to the whole."""
    parts = key.split(".")
    # The name of the stage says enough: it is always one of `locate`.
    inner = (parts[2:] or parts) if parts[:2] == ["locate", "stages"] else parts
    telling = [part for part in inner[:-1] if part not in PLUMBING] + inner[-1:]
    ends = telling if len(telling) < 3 else [telling[0], telling[-1]]
    return tuple(dict.fromkeys(".".join(form) for form in (ends, telling, inner, parts)))
