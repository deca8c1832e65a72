"""Several edits in one batch: each of its rows has an edit of its own.

An edit acts on each row by itself, so that the rows of one generation can be edited in as many ways.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from kedit.edit.edit import Edit, wanted_token, warn_if_idle
from kedit.hooks import Hook, Rewrite, Some, before, intervene
from kedit.models.mllm import MLLM, Generated
from kedit.neurons import SiteName
from kedit.positions import Columns, Span, following
from kedit.prompts import Prompt
from kedit.rows import called
from kedit.samples import Progress, silent
from kedit.sites import Site, embedding_path


@dataclass(frozen=True, eq=False)
class SideBySide:
    """An edit for each row of a batch, or None for a row to leave alone; acts only inside `with`.

    A row becomes what its edit alone makes of it, bit for bit in a batch of the same size. The activations are copied
    once for each layer, however many edits there are.

    Example:
        with SideBySide([first, first, second, second]).applied(model):
            captions = model.caption([one, other, one, other])
    """

    rows: Sequence[Edit | None]

    def __post_init__(self) -> None:
        for edit in self.edits:
            if edit.neurons.scope != "language":
                raise ValueError(
                    f"edit `{edit.name}` is of scope `{edit.neurons.scope}`, where the rows of a batch cannot be told "
                    "apart; side by side stand edits of scope `language`"
                )

    @property
    def edits(self) -> list[Edit]:
        """The edits with neurons, each once, in the order of their first row."""
        return list(dict.fromkeys(edit for edit in self.rows if edit is not None and len(edit.neurons)))

    @contextmanager
    def applied(self, model: Any) -> Iterator[None]:
        """Edit the rows of `model` until the end of the `with` block, in this thread.

        Raises:
            SiteError: A neuron does not exist in the model; nothing is changed.
            ValueError: A call of the model inside the block is on another number of rows, or its rows cannot be told.
        """
        module: nn.Module = model if isinstance(model, nn.Module) else model.module
        edits, hooks = self.edits, list[Hook]()
        with ExitStack() as stack:
            if edits and (path := embedding_path(module)) is not None:
                stack.enter_context(before(module, path, self._check_tokens))
            spans = stack.enter_context(self._spans(module))
            for name in dict.fromkeys(edit.neurons.site for edit in edits):
                site = Site.of(module, name)
                rewrites = self._rewrites(site, name, spans)
                hooks += stack.enter_context(intervene(module, site, rewrites, label=self)).values()
            yield
            if edits:
                warn_if_idle(edits[0], hooks)

    @contextmanager
    def _spans(self, module: nn.Module) -> Iterator[Columns | None]:
        limited = [edit for edit in self.edits if not edit.everywhere]
        tokens = [wanted_token(module, edit.positions) for edit in limited]
        if not limited:
            yield None
            return
        with following(module, next((token for token in tokens if token is not None), None)) as columns:
            yield columns

    def _rewrites(self, site: Site, name: SiteName, columns: Columns | None) -> dict[int, Rewrite]:
        by_layer: dict[int, dict[Edit, Tensor]] = {}
        for edit in self.edits:
            if edit.neurons.site == name:
                for layer, at in edit.indices(site).items():
                    by_layer.setdefault(layer, {})[edit] = at
        rewrites: dict[int, Rewrite] = {}
        for layer, places in by_layer.items():
            block = site.block(layer)
            span = columns.of(block.output) if columns is not None else None
            if block.experts is None:
                rewrites[layer] = self._rewrite(layer, places, places, span)
                continue
            union = torch.cat(list(places.values())).unique()
            among = {edit: torch.searchsorted(union, at) for edit, at in places.items()}
            rewrites[layer] = Some(union, self._rewrite(layer, places, among, span))
        return rewrites

    def _rewrite(
        self, layer: int, indices: Mapping[Edit, Tensor], columns: Mapping[Edit, Tensor], span: Span | None
    ) -> Callable[[Tensor], Tensor]:
        """Return what edits a layer; an edit's neurons stand in `columns` of what it is given."""

        def rewrite(old: Tensor) -> Tensor:
            new = old.clone()
            owners = self._owners(old)
            rows = new if old.ndim > 2 else new.unflatten(0, (len(owners), -1))
            start = 0
            for edit, run in groupby(owners):
                here = rows[start : (start := start + len(list(run)))]
                if edit is None or edit not in indices:
                    continue
                at = columns[edit].to(old.device)
                values = here[..., at]
                edited = edit.operator(values, layer, indices[edit].to(old.device)).to(old.dtype)
                if span is not None and not edit.everywhere:
                    where = span.where(edit.positions, edit.phase, old.shape[:-1].numel()).to(old.device)
                    mine = where.reshape(rows.shape[:-1])[start - len(here) : start]
                    edited = torch.where(mine[..., None], edited, values)
                here[..., at] = edited
            return new

        return rewrite

    def _owners(self, activation: Tensor) -> list[Edit | None]:
        """Return the edit of each row of the current call."""
        now = called()
        owners = list(self.rows) if now is None else [self.rows[row] for row in now]
        n, flat = activation.shape[0], activation.ndim == 2
        if n % len(owners) if flat else n != len(owners):
            raise ValueError(_other_rows(n, len(owners)))
        return owners

    def _check_tokens(self, given: Any, named: Any) -> None:
        n_rows = len(self.rows) if (now := called()) is None else len(now)
        tokens = given[0] if given else None
        if isinstance(tokens, Tensor) and tokens.ndim == 2 and len(tokens) != n_rows:
            raise ValueError(_other_rows(len(tokens), n_rows))


def _other_rows(found: int, wanted: int) -> str:
    return (
        f"the edits stand side by side on {wanted} rows, and the model runs on {found}: give each row of the batch its "
        "edit, and search without beams"
    )


def asked_under(
    model: MLLM,
    edits: Sequence[Edit | None],
    prompts: Sequence[Prompt],
    *,
    drafts: Sequence[Generated] | None = None,
    progress: Progress = silent,
    what: str = "answers",
) -> list[list[Generated]]:
    """Return what the model says to each prompt under each edit, by edit, and then by prompt.

    The same as asking under one edit after the other, in fewer calls of the model: at most `batch_size` rows at a time.

    Args:
        model: The model.
        edits: Of scope `language`; None for the model as it is.
        prompts: What is asked under each of them.
        drafts: What the answer to each prompt may be, such as the one without an edit; see `HuggingFaceMLLM.ask`.
        progress: Shows the batches.
        what: What they are called.
    """
    at_once = max(1, model.batch_size // max(1, len(edits)))
    order = [
        (number, place)
        for start in range(0, len(prompts), at_once)
        for number in range(len(edits))
        for place in range(start, min(start + at_once, len(prompts)))
    ]
    told = model.ask(
        [prompts[place] for _, place in order],
        progress=progress,
        what=what,
        drafts=None if drafts is None else [drafts[place] for _, place in order],
        within=lambda rows: SideBySide([edits[order[row][0]] for row in rows]).applied(model),
    )
    by_pair = dict(zip(order, told, strict=True))
    return [[by_pair[number, place] for place in range(len(prompts))] for number in range(len(edits))]


def captions_under(
    model: MLLM,
    edits: Sequence[Edit | None],
    images: Sequence[Image],
    *,
    drafts: Sequence[Generated] | None = None,
    progress: Progress = silent,
) -> list[list[Generated]]:
    """Return the model's caption of each picture under each edit, by edit, and then by picture; see `asked_under`."""
    prompts = [Prompt(model.prompt, image) for image in images]
    return asked_under(model, edits, prompts, drafts=drafts, progress=progress, what="captions")
