"""The parts of a model in the files that its authors published, read without running any code in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedit.models.loading import without_bars


@dataclass(frozen=True)
class OriginalPart:
    """One part of a model: the argument that names it, where it is, what it should hold, and the error if it does not.

    Errors are one line.
    """

    name: str
    path: Path
    holds: str
    error: type[ValueError]

    def weights(self, inside: str, needs: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of one file, safetensors or what `torch.save` wrote.

        Args:
            inside: The dictionary in the file that has them, if it has one of that name.
            needs: Tensors without which it is another file.
        """
        found = self._read()
        if isinstance(found, Mapping) and isinstance(found.get(inside), Mapping):
            found = found[inside]
        items = found.items() if isinstance(found, Mapping) else ()
        weights = {str(key): one for key, one in items if isinstance(one, Tensor)}
        if lacking := [key for key in needs if key not in weights]:
            has = ", ".join(f"`{key}`" for key in list(weights)[:4]) or "no tensor"
            raise self.error(
                f"`{self.name}` `{self.path}` is not {self.holds}: it has no "
                f"{', '.join(f'`{key}`' for key in lacking)}, but {has}"
            )
        return weights

    def pretrained(self, kind: Any, dtype: torch.dtype, what: str) -> Any:
        """Return the module that `kind`, a class of transformers, reads from a folder with all of its weights.

        `what` says what the folder should be, such as "language model".
        """
        from safetensors import SafetensorError

        try:
            with without_bars():
                module, loading = kind.from_pretrained(
                    self.path, local_files_only=True, dtype=dtype, output_loading_info=True, weights_only=True
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise self.error(f"`{self.name}` `{self.path}` is no complete {what} of transformers: {reason}") from error
        if lost := sorted(loading["missing_keys"]):
            # transformers would go on with random numbers in their place.
            raise self.error(f"`{self.name}` `{self.path}` lacks {len(lost)} weights, such as `{lost[0]}`")
        return module

    def _read(self) -> Any:
        from safetensors.torch import load_file

        try:
            if self.path.suffix == ".safetensors":
                return load_file(self.path)
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken archive, a page of HTML or a pickle of code: torch raises what it meets
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise self.error(
                f"`{self.name}` `{self.path}` ({self.holds}) is not a file of weights that can be read safely "
                f"({self.path.stat().st_size} bytes): {reason}"
            ) from error
