"""Hydra's sweeper over a grid, which skips the jobs that are finished."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from experiments.composing import Composer
from experiments.sweeps import Sweep, begun, sweeping


class GridSweeper(BasicSweeper):
    """Every combination of the values, each in the folder of its number; what is finished is not run again.

    The folder of an earlier sweep of the same command, code and files is gone on in, unless another one is named by
    `hydra.sweep.dir`.
    """

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None = None, resume: bool = True) -> None:
        """See conf/hydra/sweeper/grid.yaml."""
        super().__init__(max_batch_size, params)
        self.resume = resume
        self.found: Sweep | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Find out which jobs there are and where they belong, before the launcher looks at the folder."""
        arguments = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        assert isinstance(arguments, list)
        parser = OverridesParser.create(config_loader=hydra_context.config_loader)
        overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        (jobs,) = self.split_arguments(overrides, None)
        named = any(str(one).startswith("hydra.sweep.dir=") for one in config.hydra.overrides.hydra)
        self.found = begun(config, jobs, anywhere=not named, resume=self.resume)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(self.found.folder)
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that are not finished."""
        assert self.found is not None
        with self.found.alone():
            return self._launched(self.found)

    def _launched(self, found: Sweep) -> list[Sequence[Any]]:
        assert self.config is not None and self.launcher is not None
        pending = found.prepared()
        OmegaConf.save(self.config, found.folder / "multirun.yaml")
        where = f"hydra.sweep.dir={_quoted(found.folder)}"
        told = [[*found.jobs[number], where, f"hydra.sweep.subdir={number}"] for number in pending]
        returns: list[Sequence[Any]] = []
        self._check(told)
        sweeping(self.config)
        for batch in self.split_overrides_to_chunks(told, self.max_batch_size) if told else ():
            results = self.launcher.launch(batch, initial_job_idx=sum(map(len, returns)))
            for result in results:
                _ = result.return_value  # raises what the job raised
            returns.append(results)
        return returns

    def _check(self, jobs: Sequence[Sequence[str]]) -> None:
        """Find what cannot be composed before anything runs, and whether composing can be made short.

        A launcher that has processes of its own composes there, in Hydra's way.
        """
        assert self.config is not None and self.hydra_context is not None
        composer, config = Composer(self.hydra_context.config_loader), self.config
        agrees = [composer.agrees(config, job) for job in self._telling(jobs)]
        if all(agrees) and isinstance(self.launcher, BasicLauncher):
            self.launcher.hydra_context = replace(self.hydra_context, config_loader=composer)

    def _telling(self, batch: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
        """Return the jobs that tell whether all can be composed, which takes a sixth of a second each.

        Values cannot be in each other's way, so that it is enough to see each of them once; choices of a group can.
        """
        assert self.hydra_context is not None
        options = self.hydra_context.config_loader.get_group_options
        common = set[str]().union(*batch).intersection(*batch)
        differ = {word.partition("=")[0].lstrip("+~") for word in set[str]().union(*batch) - common}
        if any(map(options, differ)):
            return batch
        seen, telling = set[str](), []
        for job in batch:
            if not seen.issuperset(job[:-1]):  # the last word is the job's folder
                seen.update(job)
                telling.append(job)
        return telling


def _quoted(path: Path) -> str:
    told = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{told}'"
