"""`report.json` as a page for people and as flat numbers for a tracker."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kedit.neurons import NeuronSet
from kedit.results.table import Table
from kedit.words import counted


def report_markdown(report: Mapping[str, Any]) -> str:
    """Return `report.json` as a page that is read in ten seconds.

    Beside the contract's keys, `examples` (rows of `id`, `before`, `after`), `tables` (in Markdown) and `figures`
    (paths relative to the page) are shown when the report has them; what it lacks is left out.
    """
    control = report.get("control") or {}
    blocks = [
        f"# {report.get('concept', '?')} in {report.get('model', '?')}",
        f"**{report['verdict']}**" if report.get("verdict") else "",
        _neurons_line(report),
        _results_table("suppression", report, control),
        _results_table("retention", report, control),
        *(_list_line(name, report.get(name)) for name in ("selectivity", "fluency", "samples", "cost")),
        _list_line("in the literature's terms:", report.get("literature")),
        *(report.get("tables") or ()),
        _examples_table(report.get("examples") or ()),
        *(f"![{Path(figure).stem}]({figure})" for figure in report.get("figures") or ()),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Return every number of `report.json` under its path, such as `suppression/mention_drop`.

    A measured value gives its value, and its interval as `.../low` and `.../high`. What was not
    measured, and all that is not a number, is left out; yes is 1 and no is 0.
    """
    metrics: dict[str, float] = {}
    for name, leaf in _leaves(report):
        measured = leaf if isinstance(leaf, Mapping) else {"value": leaf}
        for part, suffix in (("value", ""), ("low", "/low"), ("high", "/high")):
            if isinstance(number := measured.get(part), int | float):
                metrics[name + suffix] = float(number)
    return metrics


def neurons_line(neurons: NeuronSet, n_neurons: int) -> str:
    """Return how many of a model's neurons were located, and in which layers, in one line."""
    layers = ", ".join(f"layer {layer}: {len(indices)}" for layer, indices in neurons.by_layer().items())
    return f"neurons: {len(neurons)} ({len(neurons) / n_neurons:.2%}), {layers or 'in no layer'}"


def _neurons_line(report: Mapping[str, Any]) -> str:
    neurons = report.get("neurons") or {}
    if not neurons:
        return ""
    how = f"edited by `{report.get('operator', '?')}`"
    if not neurons["count"] and "by_layer" not in neurons:
        return how
    layers = ", ".join(f"{layer}: {count}" for layer, count in (neurons.get("by_layer") or {}).items())
    located = f", by layer {{{layers}}}; located by `{report.get('locator', '?')}`" if "by_layer" in neurons else ""
    share = f" ({neurons['share']:.2%} of all)" if neurons.get("share") is not None else ""
    return f"**{neurons['count']} neurons**{share}{located}, {how}"


def _results_table(title: str, report: Mapping[str, Any], control: Mapping[str, Any]) -> str:
    edited, random = dict(_leaves(report.get(title) or {})), dict(_leaves(control.get(title) or {}))
    if not edited:
        return ""
    seeds = f" ({counted(control['seeds'], 'seed')})" if "seeds" in control else ""
    rows = [(name, _shown(value), _shown(random[name]) if name in random else "-") for name, value in edited.items()]
    return Table((title, "edited", f"random control{seeds}"), tuple(rows)).markdown()


def _examples_table(examples: Iterable[Mapping[str, Any]]) -> str:
    rows = [tuple(str(one.get(key, "")) for key in ("id", "before", "after")) for one in examples]
    return Table(("sample", "before", "after"), tuple(rows)).markdown() if rows else ""


def _list_line(name: str, values: Any) -> str:
    if not values:
        return ""
    if "value" in values:
        return f"**{name}** {_shown(values)}"
    return f"**{name}** " + ", ".join(f"{key} {_shown(value)}" for key, value in _leaves(values) if value is not None)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and "value" not in value:
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _shown(value: Any) -> str:
    """Return `0.950 [0.831, 0.986], n=40` for a measured value, or why there is none."""
    if isinstance(value, Mapping):
        if value["value"] is None:
            return f"not measured: {value.get('why') or 'no reason given'}"
        interval = f" [{value['low']:.3f}, {value['high']:.3f}]" if value.get("low") is not None else ""
        return f"{value['value']:.3f}{interval}" + (f", n={value['n']}" if "n" in value else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{round(value, 3):g}" if isinstance(value, float) else str(value)
