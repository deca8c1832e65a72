"""The sections of a page: each a function from the folder to a section, or to None where the folder has nothing of it.

Whoever writes something new into a folder adds a function to `SECTIONS`, and builds it of `kedit.page.parts`.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kedit.page.cards import neurons
from kedit.page.folder import Folder
from kedit.page.parts import (
    CaptionRow,
    Captions,
    Cell,
    Effects,
    Facts,
    Figure,
    Figures,
    Grid,
    Interval,
    Note,
    Part,
    Section,
)
from kedit.page.pictures import figure_uri
from kedit.page.tables import comparison, drawings, inspection, jobs, task
from kedit.page.texts import changes
from kedit.plots.style import name

MAIN = {
    "suppression": ("mention_drop", "substitutions"),
    "retention": ("objects", "others", "text", "bleu", "rougeL", "bertscore"),
}
"""The measures that are shown at once; the others are folded."""
GROUPS = {
    "target": "shows the concept",
    "near": "like it, without the concept",
    "far": "without the concept",
    "text": "question without a picture",
}
"""What the groups of captions.jsonl are called."""
NO_FIGURES = frozenset({"before_after"})
"""Figures of what the page shows itself."""
LIBRARY = "no command: `save` of the library left this folder"


def effects(folder: Folder) -> Section | None:
    """Return suppression and retention beside the random control's."""
    report = folder.json("report.json")
    if not report.get("suppression"):
        return None
    control = report.get("control") or {}
    seeds = int(control.get("seeds") or 0)
    parts: list[Part] = []
    for part, main in MAIN.items():
        rows = dict(_effect_rows(report.get(part) or {}, control.get(part) or {}))
        shown = {one: rows[one] for one in main if one in rows and rows[one][1].value is not None}
        if part == "retention" and report.get("selectivity"):
            shown["selectivity"] = ("selectivity", Interval.of(report["selectivity"]), None)
        title = f"{part.capitalize()}: {'the concept goes' if part == 'suppression' else 'all else stays'}"
        parts.append(Effects(title, list(shown.values()), seeds))
        rest = [row for measure, row in rows.items() if measure not in shown]
        parts.append(Effects(f"All other measures of {part}", rest, seeds, folded=True))
    parts += [Note(sentence) for sentence in _asides(report)]
    return Section("effects", "What the edit did", parts)


def captions(folder: Folder) -> Section | None:
    """Return what the model said before and after: beside pictures where the run left some, and all as a table."""
    rows = folder.lines("captions.jsonl")
    if not rows:
        return None
    pictured = {int(one["row"]): str(one["picture"]) for one in folder.json("page.json").get("captions") or ()}
    shown = [_caption_row(rows[place], uri) for place, uri in pictured.items() if 0 <= place < len(rows)]
    changed = {group: [row for row in rows if row.get("group") == group] for group in GROUPS}
    counts = [
        f"{sum(row['before'] != row['after'] for row in some)} of {len(some)} ({GROUPS[group]})"
        for group, some in changed.items()
        if some
    ]
    keys = ("id", "group", "before", "after")
    every: list[Sequence[Cell]] = [tuple(str(row.get(key, "")) for key in keys) for row in rows]
    parts: list[Part] = [
        Note(f"Texts that changed: {'; '.join(counts)}."),
        Captions(shown),
        Grid("All texts before and after", ("sample", "group", "before", "after"), every, True, "captions.jsonl"),
    ]  # fmt: skip
    return Section("captions", "What the model says", [part for part in parts if part != Captions([])])


def layers(folder: Folder) -> Section | None:
    """Return how many neurons were located in each layer."""
    report = folder.json("report.json") or folder.json("locate.json") or folder.json("inspect.json")
    counts: Mapping[str, int] = (report.get("neurons") or {}).get("by_layer") or {}
    if not counts:
        return None
    total = sum(counts.values())
    widths = next((one.values.shape for one in folder.scores.values()), None)
    every = range(widths[0]) if widths else sorted(map(int, counts))
    rows = [(layer, counts.get(str(layer), 0), Interval(counts.get(str(layer), 0) / total)) for layer in every]
    where = report["neurons"]
    text = f"{total} neurons, {where['share']:.2%} of all, at the site `{where['site']}`."
    return Section("layers", "Layers", [Note(text), Grid("Neurons by layer", ("layer", "neurons", "share"), rows)])


def thresholds(folder: Folder) -> Section | None:
    """Return what scored and what selected in each stage."""
    stages = ((folder.yaml(".hydra/config.yaml").get("locate") or {}).get("stages")) or {}
    known = folder.json("locate.json").get("stages") or {}
    rows: list[Sequence[Cell]] = []
    for stage, scores in folder.scores.items():
        select = known.get(stage, {}).get("select") or _called((stages.get(stage) or {}).get("select"))
        values = [value for value in scores.of(folder.neurons).tolist() if value == value]
        rows.append((stage, scores.method, select or "-", min(values, default=None), max(values, default=None)))
    if not rows:
        return None
    columns = ("stage", "scored by", "chosen by", "lowest score of a located neuron", "highest")
    return Section("thresholds", "Thresholds", [Grid("Stages of locating", columns, rows)])


def figures(folder: Folder) -> Section | None:
    """Return the figures that say what the page does not say itself."""
    shown = [
        Figure(name(path.stem), f"figures/{path.name}", figure_uri(path))
        for path in folder.figures
        if path.suffix in (".png", ".svg", ".pdf") and path.stem not in NO_FIGURES
    ]
    return Section("figures", "Figures", [Figures(shown)]) if shown else None


def origin(folder: Folder) -> Section | None:
    """Return the command, the versions, the digests, the samples and the cost."""
    report = next(filter(None, map(folder.json, ("report.json", "inspect.json", "compare.json", "locate.json"))), {})
    made = folder.json("page.json").get("versions") or {"kedit": report.get("kedit")}
    about = next((dict(one.provenance) for one in folder.scores.values()), {})
    marks = ("weights", "reading", "pictures", "scorers")
    rows: list[tuple[str, Cell]] = [
        ("command", command(folder)),
        *((key, str(report[key])) for key in ("model", "locator", "operator", "positions", "phase") if report.get(key)),
        ("versions", ", ".join(f"{library} {release}" for library, release in made.items() if release)),
        *((f"digest of the {mark}", about[mark]) for mark in marks if about.get(mark)),
        *((part, _listed(report[part])) for part in ("samples", "cost") if report.get(part)),
        *([("texts compared by", str(report["encoder"]))] if report.get("encoder") else []),
        ("files", ", ".join(_files(folder))),
    ]
    return Section("origin", "How this was made", [Facts([row for row in rows if row[1]])])


def command(folder: Folder) -> str:
    """Return the command line that made the folder."""
    sweep = folder.yaml("multirun.yaml").get("hydra") or {}
    hydra = folder.yaml(".hydra/hydra.yaml").get("hydra") or sweep
    if not (name_of := (hydra.get("job") or {}).get("config_name")):
        return LIBRARY
    words = map(str, (hydra.get("overrides") or {}).get("task") or ())
    return shlex.join(["kedit", str(name_of), *(["-m"] if hydra is sweep else []), *words])


SECTIONS: list[Callable[[Folder], Section | None]] = [
    *(jobs, effects, comparison, inspection, task, drawings, captions, neurons, layers, thresholds, figures, origin),
]
"""In the order of the page."""


def _effect_rows(
    edited: Mapping[str, Any], control: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[str, Interval, Interval | None]]]:
    for measure, given in edited.items():
        beside = Interval.of(control[measure]) if measure in control else None
        yield measure, (name(measure), Interval.of(given), beside)


def _asides(report: Mapping[str, Any]) -> Iterator[str]:
    fluency = report.get("fluency") or {}
    if fluency.get("passed") is not None:
        why = f": {fluency['why']}" if fluency.get("why") else ""
        yield f"Fluency: the edited model {'still speaks its language' if fluency['passed'] else 'is broken'}{why}."
    maps = report.get("heat_maps") or {}
    if maps.get("pointing"):
        inside = Interval.of(maps["pointing"])
        yield f"The heat map peaks inside the concept's region in {inside.text} of the pictures (n = {inside.n})."
    elif maps.get("why"):
        yield f"No heat maps: {maps['why']}."


def _caption_row(row: Mapping[str, Any], picture: str) -> CaptionRow:
    before, after = changes(str(row.get("before", "")), str(row.get("after", "")))
    group = str(row.get("group", ""))
    return CaptionRow(str(row.get("id", "")), GROUPS.get(group, group), before, after, picture)


def _called(node: Any) -> str:
    """Return what a configuration makes, as it is called in Python."""
    if not isinstance(node, Mapping):
        return ""
    made = str(node.get("_target_", "")).rpartition(".")[2]
    return f"{made}({', '.join(f'{key}={value}' for key, value in node.items() if key != '_target_')})"


def _listed(values: Any) -> str:
    if not isinstance(values, Mapping):
        return str(values)
    form = {True: "{} ({})", False: "{} {}"}
    return ", ".join(form[isinstance(one, Mapping)].format(key, _listed(one)) for key, one in values.items())


def _files(folder: Folder) -> list[str]:
    return sorted(path.name for path in folder.path.glob("[!.]*.*") if path.name not in ("report.html", "kedit.log"))
