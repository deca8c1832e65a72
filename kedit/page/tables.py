"""The sections of the other commands: a sweep's leaderboard, a comparison, an inspection, a task."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kedit.page.folder import Folder
from kedit.page.parts import Cell, Grid, Interval, Link, Note, Part, Section
from kedit.plots.style import name
from kedit.words import counted

JOB_FIGURES = ("mention_drop", "retention", "others", "substitutions", "selectivity", "control_mention_drop")
METHOD_FIGURES = ("mention_drop", "retention", "selectivity", "logprob_drop", "substitutions")


def jobs(folder: Folder) -> Section | None:
    """Return the jobs of a sweep, the best first, each with a link to its page."""
    board = folder.json("leaderboard.json")
    if board.get("rows"):
        return _points(folder, board["rows"])
    if not board.get("jobs"):
        return None
    rank = {number: place for place, number in enumerate(board.get("ranking") or (), 1)}
    ordered = sorted(board["jobs"], key=lambda job: (rank.get(job["number"], len(board["jobs"]) + 1), job["number"]))
    names = list(board.get("swept") or {})
    columns = ("rank", "job", *names, "neurons", *map(name, JOB_FIGURES), "beats control", "notes")
    rows = [_job(folder, job, rank.get(job["number"]), names) for job in ordered]
    front = ", ".join(map(str, (board.get("pareto") or {}).get("jobs") or ())) or "none"
    told = Note(f"Jobs of the Pareto set of mention_drop and retention: {front}.")
    return Section("jobs", "Leaderboard", [told, Grid("Jobs", columns, rows, file="leaderboard.csv")])


def _points(folder: Folder, rows: Sequence[Mapping[str, Any]]) -> Section:
    """Return the rows of a sweep of the library, each with a link to the page of the run that measured its neurons."""
    columns = [column for column in rows[0] if column not in ("kedit", "measured")]
    cells = [
        (_page_of(folder, "run", row.get("measured")), *(_cell(row.get(column)) for column in columns)) for row in rows
    ]
    return Section("jobs", "Leaderboard", [Grid("Points", ("run", *map(name, columns)), cells, file="leaderboard.csv")])


def _page_of(folder: Folder, what: str, number: Any) -> Cell:
    """Return what a run or job is called, with a link if it has a page."""
    page = f"{number}/report.html"
    return Link(f"{what} {number}", page) if folder.has(page) else f"{what} {number}"


def _cell(value: Any) -> Cell:
    return Interval.of(value) if isinstance(value, Mapping) else _text(value)


def _job(folder: Folder, job: Mapping[str, Any], place: int | None, names: Sequence[str]) -> Sequence[Cell]:
    figures = [Interval.of(job[key]) if key in job else None for key in JOB_FIGURES]
    beats = (job.get("beats_control") or {}).get("mention_drop")
    swept = [(job.get("swept") or {}).get(key) for key in names]
    label = _page_of(folder, "job", job["number"])
    return (place, label, *swept, job.get("neurons"), *figures, beats, "; ".join(_notes(job)))


def _notes(job: Mapping[str, Any]) -> Iterator[str]:
    if job.get("status") != "done":
        yield f"{job.get('status')}: {job.get('why')}"
    if job.get("pareto"):
        yield "Pareto set"
    if job.get("same_neurons_as") is not None:
        yield f"same neurons as job {job['same_neurons_as']}"
    if (fluency := job.get("fluency") or {}).get("passed") is False:
        yield f"broken language: {fluency.get('why')}"


def comparison(folder: Folder) -> Section | None:
    """Return the ranking of methods for each concept and budget."""
    tables = folder.json("compare.json").get("tables") or ()
    parts = [_ranking(table) for table in tables]
    return Section("methods", "Methods", parts) if parts else None


def _ranking(table: Mapping[str, Any]) -> Part:
    about = ("weakest retention", "neurons", "forwards", "backwards", "p", "notes")
    columns = ("method", *map(name, METHOD_FIGURES), *about)
    rows = [
        (
            *(row["method"], *(Interval.of(row.get(key)) for key in METHOD_FIGURES), row.get("weakest_retention")),
            *(row.get("neurons"), row.get("forwards"), row.get("backwards"), _p(row.get("tests"))),
            row.get("why") or row.get("note") or "",
        )
        for row in table.get("rows") or ()
    ]
    return Grid(f"{table.get('concept')}, budget {table.get('budget')}", columns, rows, file="compare.csv")


def _p(tests: Any) -> float | None:
    """Return the adjusted p of the first test against the reference."""
    first = next(iter(tests.values()), None) if isinstance(tests, Mapping) else None
    return first.get("p_holm", first.get("adjusted")) if isinstance(first, Mapping) else None


def inspection(folder: Folder) -> Section | None:
    """Return the measures of an inspection beside those of random neurons."""
    measures = folder.json("inspect.json").get("measures") or {}
    rows = [
        (section, measure, Interval.of(row.get("located")), Interval.of(row.get("random")), row["located"].get("n"))
        for section, some in measures.items()
        for measure, row in some.items()
    ]
    columns = ("section", "measure", "located", "random, layer-matched", "n")
    return Section("measures", "What was seen", [Grid("Measures of the set", columns, rows)]) if rows else None


def task(folder: Folder) -> Section | None:
    """Return how many questions a task answers right, and the answers."""
    report = folder.json("report.json")
    if not report.get("task"):
        return None
    score, control = report.get("score") or {}, (report.get("control") or {}).get("score") or {}
    rows = [
        (kind, Interval.of(was), Interval.of((score.get("after") or {}).get(kind)), Interval.of(control.get(kind)))
        for kind, was in (score.get("before") or {}).items()
    ]
    answers = folder.lines("answers.jsonl")
    keys = list(answers[0]) if answers else []
    said = [[_text(row.get(key)) for key in keys] for row in answers]
    return Section("answers", "Right answers", [
        Grid("Share of questions answered right", ("questions", "unedited", "edited", "random control"), rows),
        Grid("All answers", keys, said, True, "answers.jsonl"),
    ])  # fmt: skip


def drawings(folder: Folder) -> Section | None:
    """Return what edits did to what is drawn, and what each drawing shows."""
    report = folder.json("report.json")
    if not (arms := report.get("drawings")):
        return None
    control = report.get("control") or {}
    columns = {
        **arms,
        **({f"random neurons, {counted(control['seeds'], 'seed')}": one} if (one := control.get("drawings")) else {}),
    }
    first = next(iter(arms.values()))
    rows = [
        (name(measure), *(Interval.of(one[part][measure]) for one in columns.values()), figure.get("n"))
        for part in ("suppression", "retention")
        for measure, figure in first[part].items()
    ]
    seen = [row for row in folder.lines("drawings.jsonl") if "prompt" in row]
    keys = list(seen[0]) if seen else []
    listed = [[", ".join(row[key]) if isinstance(row[key], list) else _text(row[key]) for key in keys] for row in seen]
    return Section("drawings", "What is drawn", [
        Note(str(report.get("verdict"))),
        Grid("Under each edit", ("share", *columns, "n"), rows),
        Grid("What each drawing shows", keys, listed, True, "drawings.jsonl"),
    ])  # fmt: skip


def _text(value: Any) -> Cell:
    return value if isinstance(value, bool | int | float) or value is None else str(value)
