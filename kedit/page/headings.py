"""What a page is called, and the finding in one sentence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kedit.page.folder import Folder
from kedit.page.parts import Interval
from kedit.plots.style import sentence


@dataclass(frozen=True)
class Heading:
    """The head of a page."""

    title: str
    kind: str
    """The command that made the folder, in a word."""
    finding: str
    """The verdict in a sentence."""
    state: str = ""
    """`evidence`, `none` where the verdict is that there is no evidence, or nothing where it judges nothing."""


def heading(folder: Folder) -> Heading | None:
    """Return what the page of a folder is called; None where the folder has nothing that a page is made of."""
    readers = {
        "leaderboard.json": _sweep,
        "compare.json": _comparison,
        "inspect.json": _inspection,
        "report.json": _report,
        "locate.json": _located,
    }
    return next((read(found) for file, read in readers.items() if (found := folder.json(file))), None)


def _report(report: Mapping[str, Any]) -> Heading:
    is_task = bool(report.get("task"))
    what = report.get("concept") or report.get("drawn_concept") or "?"
    if is_task:
        what = ", ".join(report["task"].get("kinds") or ["questions"])
    evidence = report.get("evidence")
    state = {True: "evidence", False: "none"}.get(evidence, "") if isinstance(evidence, bool) else ""
    kind = "task" if is_task else "draw" if "drawn_concept" in report else "run"
    verdict = sentence(str(report.get("verdict") or "No verdict was left."))
    return Heading(f"{what} in {report.get('model', '?')}", kind, verdict, state)


def _inspection(found: Mapping[str, Any]) -> Heading:
    words = ((found.get("measures") or {}).get("words") or {}).get("decodes to the concept") or {}
    count = (found.get("neurons") or {}).get("count", 0)
    text = f"{count} neurons were looked at."
    if (located := Interval.of(words.get("located"))).value is not None:
        random = Interval.of(words.get("random")).text
        text += f" A share of {located.text} has a word of the concept among those it raises most"
        text += f"; of random ones {random}."
    return Heading(f"{found.get('concept', '?')} in {found.get('model', '?')}", "inspect", text)


def _comparison(found: Mapping[str, Any]) -> Heading:
    rows = [row for table in (found.get("tables") or ())[-1:] for row in table.get("rows") or ()]
    text = "No method could be measured."
    if rows:
        selective = Interval.of(rows[0].get("selectivity"))
        text = f"{rows[0]['method']} ranks first, with a selectivity of {selective.text} (n = {selective.n})."
        if selective.value is None:
            text = f"No method can be ranked: {selective.why}."
    if found.get("complete") is False:
        text += " Interrupted: these are the methods that were done."
    return Heading(f"Locating methods on {found.get('model', '?')}", "compare", text)


def _located(found: Mapping[str, Any]) -> Heading:
    neurons = found.get("neurons") or {}
    text = f"{found.get('locator', '?')} located {neurons.get('count', 0)} neurons; nothing was edited."
    return Heading(f"{found.get('concept', '?')} in {found.get('model', '?')}", "locate", text)


def _sweep(board: Mapping[str, Any]) -> Heading:
    if rows := board.get("rows"):
        text = "The table has a row for each point; equal neurons were measured once."
        return Heading(f"Sweep of {len(rows)} points", "sweep", text)
    counts = board.get("counts") or {}
    jobs = {job["number"]: job for job in board.get("jobs") or ()}
    best = next((jobs[number] for number in board.get("ranking") or () if number in jobs), None)
    proven = (
        best is not None
        and (best.get("beats_control") or {}).get("mention_drop") is not False
        and (best.get("selectivity") or {}).get("value") is not None
    )
    text = "No job has evidence of an effect beyond its random control."
    if best is not None and proven:
        text = f"Job {best['number']} has the highest selectivity, {Interval.of(best.get('selectivity')).text}."
    title = f"Sweep of {counts.get('jobs', 0)} jobs, {counts.get('done', 0)} done"
    return Heading(title, "sweep", text, "evidence" if proven else "none")
