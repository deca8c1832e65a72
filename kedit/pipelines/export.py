"""An edit in a form that others load: checked on the spot against the hook, with a card and what made it."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import nn

from kedit import __version__, notebook
from kedit.arguments import require
from kedit.edit.adapters import write_ia3, write_lora
from kedit.edit.columns import FORMS, Columns, Form, check_edit, check_plain, columns_of
from kedit.edit.delta import apply_delta, revert_delta, write_delta
from kedit.edit.edit import Edit
from kedit.edit.merged import Place, merge
from kedit.fingerprints import of_file, of_libraries
from kedit.models.adapters import Adapter
from kedit.models.checkpoints import base_of, places_in, save_module
from kedit.models.identity import known_weights
from kedit.models.loading import load_like, without_bars
from kedit.notebook import Shown
from kedit.pipelines.export_check import ROUNDING, Answers, Check, answers, compare, distance, prompts_for
from kedit.pipelines.given import require_model
from kedit.pipelines.model_card import CARD, model_card
from kedit.results.run_folder import write_json
from kedit.results.whole_folder import check_free, whole_folder

logger = logging.getLogger(__name__)

REPRODUCE = "reproduce.json"
"""What made an export: commands, versions and digests."""
LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "peft")


@dataclass(frozen=True, eq=False, repr=False)
class Exported(Shown):
    """An edit in a folder that others load, and how far that is from the edit as a hook."""

    folder: Path
    to: Form
    check: Check

    def __str__(self) -> str:
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        size = sum(path.stat().st_size for path in files)
        return f"{self.to}: {self.folder} ({len(files)} files, {size:,} bytes)\ncheck: {self.check}"

    def _repr_html_(self) -> str:
        return "".join(notebook.element("p", line) for line in str(self).splitlines())


def export(
    edit: Edit,
    model: Any,
    folder: str | Path,
    *,
    to: Form = "merged",
    report: Mapping[str, Any] | None = None,
    pictures: Sequence[Image] | None = None,
    commands: Sequence[str] = (),
    overwrite: bool = False,
) -> Exported:
    """Write an edit in a form that other programs load, and check there and then that it says what the edit does.

    Example:
        kedit.export(Edit(result.neurons, Zero()), model, "star-ia3", to="ia3", report=result.to_json())

    Args:
        edit: Zeroes or scales neurons everywhere; as `lora`, it may also set them to constants.
        model: The model that the edit is for, as `load` and `wrap` return; it is not changed.
        folder: Where it goes; it is there at the end as a whole, or not at all.
        to: `merged` is the whole model with the edit in its weights, `ia3` and `lora` are adapters of PEFT, `delta`
            the changed columns alone; see `kedit/edit/README.md`.
        report: What a report.json says of the edit, for the card.
        pictures: What both are asked about, eight at most; drawn ones if None.
        commands: What made the edit, for reproduce.json.
        overwrite: Whether an earlier export in `folder` may be replaced.

    Raises:
        ValueError: The edit has no such form, or what was written does not say what it does; the message says why.
        FileExistsError: There is something in `folder`.
    """
    require_model(model)
    check_asked(edit, folder, to, overwrite=overwrite)
    columns = columns_of(edit, model.module)
    base, prompts = base_of(model.module), prompts_for(model, pictures)
    wanted = answers(model, prompts, edit)
    effect = distance(wanted, answers(model, prompts, like=wanted))
    with whole_folder(folder, REPRODUCE, overwrite=overwrite) as draft:
        _write(to, columns, model, base, draft)
        check = compare(wanted, _answers_of(to, model, draft, wanted), _tolerance(to, model.module), effect)
        if not check.agrees:
            raise ValueError(f"the exported {to} is not what the edit does ({check}): nothing was written")
        about = _about(edit, model.module, base, to, check, commands)
        (draft / CARD).write_text(model_card(about, report, columns, Path(folder)), encoding="utf-8")
        write_json(draft / REPRODUCE, about | {"files": {path.name: of_file(path) for path in sorted(draft.iterdir())}})
    logger.info("exported %s to `%s`: %s", to, folder, check)
    if not check.tells:
        logger.warning(
            "the edit moves no logit by more than rounding may (%.0e of the largest), so the check cannot tell it from "
            "none; load the model with `dtype=float32` to check it closer", check.tolerance,
        )  # fmt: skip
    return Exported(Path(folder), to, check)


def check_asked(edit: Edit, folder: str | Path, to: Form, *, overwrite: bool = False) -> None:
    """Raise what `export` would of what it is asked, as far as it is known without the model."""
    require(edit, Edit, "edit", "an `Edit` of neurons, such as `Edit(result.neurons, Zero())`")
    require(folder, (str, Path), "folder", "where the export goes")
    if to not in FORMS:
        near = get_close_matches(str(to), FORMS, n=1)
        raise ValueError(
            f"`to` is one of {', '.join(FORMS)}, got {to!r:.40}" + (f"; nearest: {near[0]}" if near else "")
        )
    if to in ("ia3", "lora") and find_spec("peft") is None:
        raise ValueError(f"`to={to}` is checked with the package peft: `pip install 'kedit[adapters]'`")
    check_edit(edit, to)
    check_free(Path(folder), REPRODUCE, overwrite=overwrite)


def _write(to: Form, columns: Sequence[Columns], model: Any, base: str | None, draft: Path) -> None:
    module = model.module
    if to == "ia3":
        write_ia3(columns, base, draft)
    elif to == "lora":
        write_lora(columns, module, base, draft)
    elif to == "delta":
        write_delta(columns, module, draft)
    else:
        _merge(columns, model, base, draft)


def _merge(columns: Sequence[Columns], model: Any, named: str | None, draft: Path) -> None:
    """Write the edited checkpoint: from the model's own files, or where they hold other weights, from memory."""
    for one in columns:
        check_plain(one, model.module)
    base = Path(named or "")
    places = places_in(base, model.module) if (base / "config.json").is_file() else None
    if places is None:
        base = draft
        with without_bars():
            save_module(model.module, model.processor, draft)
        places = places_in(draft, model.module)
    if places is None:
        kind = type(model.module).__name__
        raise ValueError(f"transformers saves the weights of {kind} in another form than they have: use `to=ia3`")
    merge(base, draft, columns, {one.name: Place(*places[one.name]) for one in columns})


def _answers_of(to: Form, model: Any, draft: Path, wanted: Answers) -> Answers:
    """Return what the exported form says, loaded as others load it."""
    if to == "delta":
        apply_delta(model, draft)
        try:
            return answers(model, wanted.prompts, like=wanted)
        finally:
            revert_delta(model, draft)
    if to == "merged":
        return answers(replace(model, module=load_like(model.module, draft)), wanted.prompts, like=wanted)
    adapter = Adapter.beside(str(draft))
    assert adapter is not None
    return answers(replace(model, module=adapter.around(model.module)), wanted.prompts, like=wanted)


def _tolerance(to: Form, module: nn.Module) -> float:
    """Return how far logits may be off: not at all for a vector before the same weights, in 32 bits."""
    dtype = next(module.parameters()).dtype
    return 0.0 if to == "ia3" and dtype == torch.float32 else ROUNDING.get(dtype, max(ROUNDING.values()))


def _about(
    edit: Edit, module: nn.Module, base: str | None, to: Form, check: Check, commands: Sequence[str]
) -> dict[str, Any]:
    return {
        "kedit": __version__,
        "to": to,
        "commands": list(commands),
        "edit": {"name": edit.name, "operator": repr(edit.operator), **edit.neurons.to_json()},
        "base": {"name": base, "class": type(module).__name__, "weights": known_weights(module)},
        "check": check.to_json(),
        "versions": of_libraries(*LIBRARIES),
    }
