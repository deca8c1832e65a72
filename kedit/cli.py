"""The `kedit` command: a table of recipes, each imported only when it is asked for."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from kedit import __version__
from kedit.paths import home


class Command(NamedTuple):
    """A command: the recipe whose `main()` it calls, and what it does in a few words."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("experiments.run", "locate a concept's neurons, edit them, measure what changed"),
    "task": Command("experiments.task", "edit a modality's neurons, measure how many questions go wrong"),
    "compare": Command("experiments.compare", "put locating methods side by side, with equal budgets"),
    "calibrate": Command("experiments.calibrate", "check the thresholds that `select` chooses"),
    "operators": Command("experiments.operators", "compare what the operators do to a concept that fades in"),
    "inspect": Command("experiments.inspect_neurons", "look at what was located: words, places, layers, stability"),
    "locate": Command("experiments.locate", "locate alone, also in shards that are merged"),
    "inpaint": Command("experiments.inpaint", "paint a concept out of some pictures and look at them"),
    "doctor": Command("experiments.doctor", "check that what kedit relies on holds for a model"),
    "verify": Command("experiments.verify", "compute finished runs again and compare every byte"),
    "table": Command("experiments.table", "print one table of the runs in a folder"),
    "leaderboard": Command("experiments.leaderboard", "rank the jobs of a sweep and draw them, also after failures"),
    "cache": Command("experiments.cache", "list, check or remove the results that are kept between runs"),
    "counterfactuals": Command("experiments.counterfactuals", "compare ways of painting a concept out"),
    "train-scenes": Command("experiments.train_scenes", "train the models that ship with kedit"),
    "blocks": Command("experiments.blocks", "write a small data set in COCO's format that a tiny model can learn"),
    "teach": Command("experiments.teach", "teach a tiny model of any family what a data set shows"),
    "train-inpainter": Command("experiments.train_inpainter", "train the inpainter that ships with kedit"),
    "bench": Command("experiments.bench", "measure what hooks and locating cost beside bare PyTorch"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Obey one command line and return the exit code: 0 done, 1 a job failed, 2 the command is wrong.

    Args:
        argv: The words after `kedit`; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        sys.stderr.write(usage())
        return 2
    name, *rest = words
    if name in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if name in ("-V", "--version"):
        sys.stdout.write(f"kedit {__version__}\n")
        return 0
    if name not in COMMANDS:
        sys.stderr.write(_unknown(name))
        return 2
    return _call(name, rest)


def usage() -> str:
    """Return the help text."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return f"""\
kedit {__version__}: locate, edit and evaluate knowledge neurons

usage: kedit COMMAND [KEY=VALUE ...]
       kedit COMMAND --help
       kedit --version

commands:
{listed}

example:
  kedit run concept=star locate=two_stage edit=zero
"""


def _unknown(name: str) -> str:
    # A setting, as in `concept=star`, is no misspelled command.
    nearest = [] if "=" in name else get_close_matches(name, COMMANDS, cutoff=0.5)
    label = "nearest" if nearest else "commands"
    listed = ", ".join(f"`{near}`" for near in nearest or COMMANDS)
    return f"kedit: no command `{name}`; {label}: {listed}; `kedit --help` lists what each does\n"


def _call(name: str, rest: Sequence[str]) -> int:
    """Import the recipe of `name` and call it as if it had been started as a script."""
    from kedit.deprecations import deprecations_logged

    with _as_a_script([f"kedit {name}", *rest]), deprecations_logged():
        code: int | None = import_module(COMMANDS[name].module).main()
    return code or 0


@contextmanager
def _as_a_script(words: list[str]) -> Iterator[None]:
    """Give this process the words, and the path to the recipes, of one that was started as a script."""
    folder = str(home())
    before, path, told = sys.argv, sys.path[:], os.environ.get("PYTHONPATH")
    sys.argv = words
    sys.path.insert(0, folder)
    # A launcher's worker processes unpickle the recipe by name and have to find it as well.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, told)))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before, path
        os.environ.pop("PYTHONPATH", None)
        if told is not None:
            os.environ["PYTHONPATH"] = told
