"""The card of an exported edit: what it is, what was measured of it, how to load it, and what to beware of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit.edit.adapters import rank_of, served_rank
from kedit.edit.columns import Columns
from kedit.edit.delta import FILE
from kedit.results.reports import report_markdown
from kedit.words import counted

CARD = "README.md"
NOT_MEASURED = "**Not measured.** No report came with this edit: nothing is known of what it suppresses and keeps."


def model_card(
    about: Mapping[str, Any], report: Mapping[str, Any] | None, columns: Sequence[Columns], folder: Path
) -> str:
    """Return the card as Markdown.

    Args:
        about: What reproduce.json says.
        report: What the report.json of the edit says, if there is one.
        columns: What the edit does.
        folder: Where the export will be.
    """
    edit, base, check = about["edit"], about["base"], about["check"]
    name, n_layers = Path(base["name"] or base["class"]).name, len(columns)
    where = f"{len(edit['neurons'])} neurons in {counted(n_layers, 'layer')}"
    blocks = [
        _front(about),
        f"# {name} with an edit of `{edit['name']}`",
        f"`{edit['operator']}` of {where} of `{name}` ({base['class']}) as `{about['to']}`, by kedit {about['kedit']}. "
        "`reproduce.json` says what it was made with.",
        # The first block of the page is its heading.
        report_markdown(report).partition("\n\n")[2].strip() if report else NOT_MEASURED,
        f"## Load it\n\n{_loading(about, columns, folder)}",
        f"## Checked\n\n{_checked(check)}",
    ]
    return "\n\n".join(blocks) + "\n"


def _front(about: Mapping[str, Any]) -> str:
    library = "peft" if about["to"] in ("ia3", "lora") else "transformers"
    base = f"base_model: {about['base']['name']}\n" if about["base"]["name"] else ""
    return f"---\n{base}library_name: {library}\ntags: [knowledge-editing, kedit]\n---"


def _checked(check: Mapping[str, Any]) -> str:
    logits = "identical to the bit" if check["identical"] else (
        f"off by {check['difference']:.1e} of the largest at most (allowed: {check['tolerance']:.0e})"
    )  # fmt: skip
    return (
        f"Beside the edit as kedit's hook, on {check['prompts']} prompts and {check['tokens']} tokens of each: logits "
        f"{logits}, greedy captions equal on {check['captions']} of {check['prompts']}. The edit itself moves a "
        f"logit by {check['effect']:.1e} of the largest."
    )


def _loading(about: Mapping[str, Any], columns: Sequence[Columns], folder: Path) -> str:
    """Return the lines that load the form, and what to beware of."""
    name, kind = folder.name, about["base"]["class"]
    base = about["base"]["name"] or "BASE"
    if about["to"] == "delta":
        lines = f'import kedit\n\nmodel = kedit.load("{base}")\nkedit.apply_delta(model, "{name}")\n'
        beware = f'`kedit.revert_delta(model, "{name}")` takes it out again, to the bit. '
        beware += _without_kedit(about, columns, name)
    elif about["to"] == "merged":
        lines = f'from transformers import {kind}\n\nmodel = {kind}.from_pretrained("{name}")\n'
        beware = "The edit is in the weights. Rounding to fewer bits may bring back a little of what was zeroed."
    else:
        lines = (
            f"from peft import PeftModel\nfrom transformers import {kind}\n\n"
            f'model = PeftModel.from_pretrained({kind}.from_pretrained("{base}"), "{name}")\n'
        )
        beware = "Without PEFT's class: `model.load_adapter`. " + _beware(about["to"], columns)
    return f"```python\n{lines}```\n\n{beware}"


def _without_kedit(about: Mapping[str, Any], columns: Sequence[Columns], name: str) -> str:
    """Return the lines that put a delta on where kedit is not installed."""
    kind, base = about["base"]["class"], about["base"]["name"] or "BASE"
    index, turned = ("", ".T") if columns[0].transposed else (":, ", "")
    return (
        "Where kedit is not installed, and nobody looks whether the weights are those that it was made of:\n\n"
        f"```python\nfrom safetensors.torch import load_file\nfrom transformers import {kind}\n\n"
        f'model = {kind}.from_pretrained("{base}")\nheld = load_file("{name}/{FILE}")\n'
        'for path in {key.rpartition(".")[0] for key in held}:\n'
        '    weight = model.get_parameter(f"{path}.weight").data\n'
        f'    weight[{index}held[f"{{path}}.indices"]] = held[f"{{path}}.after"]{turned}\n```\n\n'
        "With `.before` in place of `.after` it is out again."
    )


def _beware(to: str, columns: Sequence[Columns]) -> str:
    if to == "ia3":
        return "Never `unmerge` it: PEFT divides by the vector, and what was multiplied by zero is gone. Load it anew."
    if any(one.constants is not None for one in columns):
        return "It has a bias (`lora_bias`), which servers do not take, and which cannot be merged into a map without."
    rank = rank_of(columns)
    least = served_rank(rank)
    served = f"vLLM: `--enable-lora --max-lora-rank {least}`." if least else "No rank of vLLM's is as large."
    return f"Rank {rank}. {served} The sum is the edit's but for rounding, so it is equivalent, not identical."
