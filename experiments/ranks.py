"""One command on several processes of a machine: torchrun starts them, each takes a shard, the first one merges."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from experiments.commands import MISUSED, code_of, guarded, said
from experiments.complaints import explained

LONGEST = 4096
"""Bytes of a path."""


@dataclass(frozen=True)
class Rank:
    """Which of torchrun's processes this is."""

    index: int
    count: int

    @classmethod
    def here(cls) -> Self | None:
        """Return this process's rank, or None if torchrun did not start it or started it alone."""
        started = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= set(os.environ)
        found = cls(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if started else None
        return found if found is not None and found.count > 1 else None

    def run(self, recipe: Callable[[], Any]) -> int:
        """Run this rank's shard in a folder below that of rank 0, wait for the others, merge on rank 0.

        Returns:
            The exit code of the whole: that of the rank that failed worst.
        """
        import torch.distributed as dist

        if told := self._refusal(sys.argv[1:]):
            return said(MISUSED, told)
        dist.init_process_group("gloo")
        try:
            try:
                folder = self._common(sys.argv[1:])
            except Exception as error:
                return said(code_of(error), explained(error))
            own = f"hydra.run.dir='{folder / str(self.index)}'"
            sys.argv += [own, f"shard.count={self.count}", f"shard.index={self.index}"]
            worst = self._worst(guarded(recipe))
            if worst:
                return worst
            return self._worst(self._merged(folder) if self.index == 0 else 0)
        finally:
            dist.destroy_process_group()

    def _refusal(self, words: list[str]) -> str | None:
        own = [word for word in words if word in ("-m", "--multirun") or word.startswith(("shard.", "merge="))]
        return f"torchrun shares the samples out among its processes, so leave out {', '.join(own)}" if own else None

    def _common(self, words: list[str]) -> Path:
        """Return the run folder that rank 0 has chosen; nothing but bytes goes from one process to the others."""
        import torch
        import torch.distributed as dist

        sent = torch.zeros(LONGEST, dtype=torch.uint8)
        problem: Exception | None = None
        if self.index == 0:
            try:
                path = str(_run_dir(words)).encode()
                sent[: len(path)] = torch.frombuffer(bytearray(path), dtype=torch.uint8)
            except Exception as error:
                problem = error
        dist.broadcast(sent, 0)
        if problem is not None:
            raise problem
        if not bool(sent.any()):
            raise RuntimeError("rank 0 has found no folder for the run; its own message says why")
        return Path(bytes(sent[sent != 0].tolist()).decode())

    def _worst(self, code: int) -> int:
        """Return the highest code of all ranks, each of which says if it was its own."""
        import torch
        import torch.distributed as dist

        if code:
            said(code, f"rank {self.index} of {self.count} failed; the others' parts are not merged")
        worst = torch.tensor([code])
        dist.all_reduce(worst, dist.ReduceOp.MAX)
        return int(worst)

    def _merged(self, folder: Path) -> int:
        from omegaconf import DictConfig, OmegaConf

        from experiments.endings import summing_up
        from experiments.merging import merge

        try:
            settings = OmegaConf.load(folder / "0" / ".hydra" / "config.yaml")
            assert isinstance(settings, DictConfig)
            with summing_up(settings, folder) as tracker:
                merge(folder, tracker)
        except Exception as error:
            return said(code_of(error), explained(error))
        return 0


def _run_dir(words: list[str]) -> Path:
    """Return the run folder that Hydra would take for a command line."""
    from hydra import compose, initialize_config_dir

    from kedit.paths import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return Path(compose("locate", words, return_hydra_config=True).hydra.run.dir).absolute()
