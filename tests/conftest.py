"""What every test gets: one thread, no network, folders of its own, and checks that it leaves nothing behind."""

import copy
import dataclasses
import functools
import gc
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import settings
from torch.utils.hooks import RemovableHandle

from kedit.models.planted import Planted
from kedit.tested import tell_untested

# Until everything is imported, nothing is garbage; see `pytest_collection_finish`.
gc.disable()
# A busy second core makes torch's default threads wait for each other: a tiny forward takes 120 ms instead of 2.
torch.set_num_threads(1)
OF_LIBRARIES = {"PYTEST_CURRENT_TEST", "WANDB_SERVICE", "LD_LIBRARY_PATH", "TORCHINDUCTOR_CACHE_DIR"}
"""Variables that pytest, W&B, OpenCV and torch set on their own, for as long as the process lasts."""
TOOK = "kedit/seconds"
seconds: Counter[str] = Counter()
"""How long each file took in this session."""
settings.register_profile("kedit", deadline=None, derandomize=True)
settings.load_profile("kedit")


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module imports a library that reads it."""
    scratch = tempfile.TemporaryDirectory(prefix="kedit-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(scratch.cleanup)
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "MPLBACKEND": "Agg",
            "WANDB_MODE": "offline",
            "WANDB_SILENT": "true",
            "WANDB_ERROR_REPORTING": "false",
        }
    )
    of_wandb = ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
    for name in ("HF_HOME", "KEDIT_STORE", "MPLCONFIGDIR", *of_wandb):
        folder = Path(scratch.name, name.lower())
        folder.mkdir()
        os.environ[name] = str(folder)
    tell_untested()  # once a process, so that no test's captured output has it


def pytest_collection_finish() -> None:
    """Spare the collector what the imports have made: looking through it again takes a second each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # Python's own 700 cost a twentieth of all tests
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the files that took longest so far: none of them is left for one process at the end."""
    cache = getattr(config, "cache", None)
    took = cache.get(TOOK, {}) if cache else {}
    items.sort(key=lambda item: -took.get(item.nodeid.partition("::")[0], 0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how long each file takes."""
    seconds[report.nodeid.partition("::")[0]] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep it for the next time; of workers, the process that started them does."""
    cache = getattr(session.config, "cache", None)  # none with `-p no:cacheprovider`
    if cache and not hasattr(session.config, "workerinput"):
        took = Counter(cache.get(TOOK, {}))
        cache.set(TOOK, dict(took | seconds))  # the longer time: part of a file tells nothing of it


def _is_ours(hook: Callable[..., Any]) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.partition(".")[0] == "kedit"


class HookLedger:
    """Every hook registered on any module or tensor since the last `clear`, whoever registered it.

    torch makes a `RemovableHandle` for each, which knows the dictionary that the hook went into.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def note(self, handle: RemovableHandle) -> None:
        """Remember one registration."""
        self._handles.append(handle)

    def clear(self) -> None:
        """Forget all registrations."""
        self._handles.clear()

    def left(self) -> list[str]:
        """Return the qualified names of the hooks of kedit's that are still in place on a living object."""
        found = []
        for handle in self._handles:
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks and _is_ours(hooks[handle.id]):
                hook = hooks[handle.id]
                found.append(getattr(hook, "__qualname__", type(hook).__qualname__))
        return found


@pytest.fixture(scope="session")
def hook_ledger() -> Iterator[HookLedger]:
    """Watch all registrations of hooks for the length of the session."""
    ledger = HookLedger()
    construct = RemovableHandle.__init__

    @functools.wraps(construct)
    def construct_and_note(self: RemovableHandle, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        ledger.note(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemovableHandle, "__init__", construct_and_note)
        yield ledger


@pytest.fixture(autouse=True)
def no_hooks_left(hook_ledger: HookLedger) -> Iterator[None]:
    """Fail a test after which a hook of kedit's is still registered.

    Hooks of other libraries are theirs to keep: transformers leaves some on a model for good.
    """
    hook_ledger.clear()
    yield
    left = hook_ledger.left()
    hook_ledger.clear()
    assert not left, f"{len(left)} hooks still registered after the test: {sorted(set(left))}"


@pytest.fixture(scope="session", autouse=True)
def yaml_read_once() -> Iterator[None]:
    """Parse each text once: Hydra reads the same files twice for every command, which is a fifth of its work."""
    parse, known = yaml.load, dict[tuple[str, str], Any]()

    def load(stream: Any, Loader: Any) -> Any:  # noqa: N803 - PyYAML's
        if not hasattr(stream, "read"):
            return parse(stream, Loader)
        start, text = stream.tell(), stream.read()
        key = Loader.__qualname__, text
        if key not in known:
            stream.seek(start)  # whose name is in the error of a text that cannot be parsed
            known[key] = parse(stream, Loader)
        return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml, "load", load)
        yield


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """Spare each command a second composition, by which Hydra asks whether `hydra.mode` is set; see test_conf.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def planted() -> Planted:
    """The hand-written model whose right answer is known; nobody changes it."""
    from kedit.models.planted import planted as build

    return build()


@pytest.fixture(scope="session")
def scenes_model() -> Any:
    """The shipped model as `kedit.load` gives it; nobody changes it."""
    import kedit

    return kedit.load("scenes")


@pytest.fixture(scope="session")
def star_run(scenes_model: Any) -> Any:
    """A small run on the shipped model, which nobody changes."""
    import kedit

    counts = kedit.Counts(locate=4, target=6, retention=3, controls=1)
    return kedit.run(scenes_model, kedit.Scenes(), "star", counts=counts)


def process_state() -> dict[str, Any]:
    """Return what the tests of one process share, by name: what one of them leaves changed, another one meets."""
    root = logging.getLogger()
    return {
        # pytest's own handlers come and go around each phase of a test.
        "log handlers": [one for one in root.handlers if not type(one).__module__.startswith("_pytest.")],
        "log level": (root.level, logging.raiseExceptions),
        "command line": (sys.argv[:], sys.path[:]),
        "streams": (sys.__stdout__, sys.__stderr__),
        "working folder": Path.cwd(),
        "environment": {name: value for name, value in os.environ.items() if name not in OF_LIBRARIES},
        "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()),
        "Hydra": (GlobalHydra.instance().is_initialized(), HydraConfig.initialized()),
    }


def unchanged() -> Iterator[None]:
    """Fail unless the process is afterwards what it was before."""
    before = process_state()
    yield
    after = process_state()
    changed = [f"{name}: {after[name]!r}, was {was!r}" for name, was in before.items() if after[name] != was]
    assert not changed, f"left changed: {'; '.join(changed)}"


@pytest.fixture(scope="module", autouse=True)
def process_left_as_it_was_by_a_module() -> Iterator[None]:
    """Fail a module whose tests or fixtures change what other modules share with them."""
    yield from unchanged()


@pytest.fixture(autouse=True)
def process_left_as_it_was() -> Iterator[None]:
    """Fail a test that changes what other tests share with it."""
    yield from unchanged()


@pytest.fixture(scope="module")
def tiny() -> Any:
    """A LLaVA of three layers with random weights, frozen, that reads two pictures at once."""
    from tiny_llava import tiny_llava

    model = tiny_llava()
    model.module.requires_grad_(False)
    return dataclasses.replace(model, batch_size=2)
