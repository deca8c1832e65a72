"""The configurations of a sweep's jobs, most of them made from another job's.

Hydra reads and merges every file again for each job, which takes a quarter of a second; two jobs that differ in a
number differ in one place of the result.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write


class Composer:
    """Hydra's own loader of configurations, but for jobs that differ from an earlier one in plain values alone.

    `agrees` tells whether what it makes is what Hydra makes.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        """Stand before `loader`."""
        self._loader = loader
        self._earlier: dict[tuple[str, ...], tuple[list[str], DictConfig]] = {}
        self._groups: dict[str, bool] = {}

    def __getattr__(self, name: str) -> Any:
        """Return what the loader has."""
        return getattr(self._loader, name)

    def agrees(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> bool:
        """Compose one job in both ways and return whether the results are equal; raises what Hydra raises."""
        real = self._loader.load_sweep_config(master_config, list(sweep_overrides))
        return bool(real == self.load_sweep_config(master_config, list(sweep_overrides)))

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """Return the configuration of a job; see `hydra.core.config_loader.ConfigLoader`."""
        kind = tuple(word if self._is_choice(word) else word.partition("=")[0] for word in sweep_overrides)
        if kind in self._earlier:
            made = self._changed(*self._earlier[kind], sweep_overrides)
            if made is not None:
                OmegaConf.copy_cache(from_config=master_config, to_config=made)
                return made
        real = self._loader.load_sweep_config(master_config, sweep_overrides)
        self._earlier.setdefault(kind, (sweep_overrides, copy.deepcopy(real)))
        return real

    def _is_choice(self, word: str) -> bool:
        """Return whether an override decides more than one value."""
        key = word.partition("=")[0]
        if key not in self._groups:
            self._groups[key] = bool(self._loader.get_group_options(key))
        return key[:1] in "+~" or "@" in key or self._groups[key]

    def _changed(self, told: list[str], earlier: DictConfig, wanted: list[str]) -> DictConfig | None:
        """Return `earlier` with the values of `wanted` in place of those `told`; None where one is no plain value."""
        parse: Callable[[list[str]], Any] = OverridesParser.create(config_loader=self._loader).parse_overrides
        changed = parse([new for old, new in zip(told, wanted, strict=True) if old != new])
        if any(isinstance(one.value(), dict | list) for one in changed):
            return None
        made: DictConfig = copy.deepcopy(earlier)
        new_for = dict(zip(told, wanted, strict=True))
        with read_write(made), open_dict(made):
            ConfigLoaderImpl._apply_overrides_to_config(changed, made)
            for part in ("task", "hydra"):
                lines = [new_for.get(line, line) for line in made.hydra.overrides[part]]
                made.hydra.overrides[part] = lines
            naming = OmegaConf.to_container(made.hydra.job.config.override_dirname)
            assert isinstance(naming, dict)
            dirname = get_overrides_dirname(overrides=parse(list(made.hydra.overrides.task)), **naming)  # type: ignore[arg-type]
            made.hydra.job.override_dirname = dirname
        return made
