"""How many bytes of tensors live at once."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make inside `with`, each until it is freed.

    What was there before (weights, inputs) counts nothing, nor does what an operator allocates and frees inside its
    kernel. Views share their storage, which counts once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._seen: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count what it made."""
        given = {id(storage) for storage in self._storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in self._storages(result):
            if id(storage) not in self._seen and id(storage) not in given:
                self._born(storage)
        return result

    @staticmethod
    def _storages(tree: Any) -> list[Any]:
        if isinstance(tree, Tensor):
            return [tree.untyped_storage()]
        inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
        return [storage for one in inside for storage in LiveBytes._storages(one)]

    def _born(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def died(_: Any) -> None:
            del self._seen[key]
            self.live -= size

        self._seen[key] = weakref.ref(storage, died)
        self.live += size
        self.peak = max(self.peak, self.live)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes that the tensors made by `run` occupied at once."""
    with LiveBytes() as counted:
        run()
    return int(counted.peak)
