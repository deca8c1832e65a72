"""What a task shows: report, figures, tracker and one table in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.show import layers_told, shown, tell_figures
from kedit.evaluation.statistics import Measured
from kedit.plots import draw_answers, draw_layers
from kedit.reports import markdown_table, report_metrics
from kedit.runs import Run
from kedit.samples import Question
from kedit.sites import Site
from kedit.tracking import Tracker

N_EXAMPLES = 3


def answer_rows(questions: Sequence[Question], before: Sequence[str], after: Sequence[str]) -> list[dict[str, str]]:
    """Return one row for each question, as answers.jsonl holds them."""
    return [
        {"kind": one.kind, "question": one.text, "answer": one.answer, "before": old, "after": new}
        for one, old, new in zip(questions, before, after, strict=True)
    ]


def everything(
    report: dict[str, Any], rows: Sequence[Mapping[str, str]], site: Site, run: Run, tracker: Tracker
) -> None:
    """Write the report, the answers and the figures, tell the tracker, and print the table."""
    run.save_jsonl("answers.jsonl", rows)
    run.save_json("report.json", report)
    counts = {int(layer): count for layer, count in report["neurons"]["by_layer"].items()}
    run.save_figure("layers.png", draw_layers({"": counts}, site.widths).save)
    conditions = (report["score"]["before"], *_others(report))
    right = {kind: [Measured(**one[kind]) for one in conditions] for kind in report["score"]["before"]}
    run.save_figure("score.png", draw_answers(right, title=str(report["verdict"]).partition(": ")[0]).save)
    examples = [row for row in rows if row["before"] != row["after"]][:N_EXAMPLES]
    run.save_text("report.md", markdown(report, examples, run.figures))
    tracker.log(report_metrics(report))
    columns = ("kind", "question", "answer", "before", "after")
    tracker.table("answers", columns, [[row[column] for column in columns] for row in rows])
    tell_figures(tracker, run)
    terminal(report, examples, run)


def table_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the share of right answers, a row for each kind of question: before, after, at random, n."""
    before, after, control = report["score"]["before"], *_others(report)
    return [(kind, shown(was), shown(after[kind]), shown(control[kind]), str(was["n"])) for kind, was in before.items()]


def markdown(report: Mapping[str, Any], examples: Sequence[Mapping[str, str]], figures: Sequence[str]) -> str:
    """Return the report as a page that is read in ten seconds."""
    blocks = [
        f"# {', '.join(report['task']['kinds'])} in {report['model']}",
        f"**{report['verdict']}**",
        neurons_line(report),
        markdown_table(header(report), table_rows(report)),
        f"**answers lost** {shown(report['lost'])} of those right before (n = {report['lost']['n']})",
        *(
            f"**{name}** " + (", ".join(f"{key} {value}" for key, value in report["samples"][name].items()) or "none")
            for name in ("located", "evaluated", "skipped")
        ),
        markdown_table(("question", "right", "before", "after"), [_example(one) for one in examples])
        if examples
        else "",
        *(f"![{Path(figure).stem}]({figure})" for figure in figures),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def header(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the titles of the columns of `table_rows`."""
    edit = f"{report['operator']} of {report['neurons']['count']} neurons"
    n_seeds = report["control"]["seeds"]
    return ("right answers", "unedited", edit, f"random control, {n_seeds} seed{'s' * (n_seeds != 1)}", "n")


def neurons_line(report: Mapping[str, Any]) -> str:
    """Return how many neurons were located, and how many for each modality."""
    neurons = report["neurons"]
    kinds = ", ".join(f"{name} {one['count']}" for name, one in report["modalities"].items())
    layers = layers_told(neurons)
    return f"neurons: {neurons['count']} ({neurons['share']:.2%}), {layers}; by modality, some for several: {kinds}"


def terminal(report: Mapping[str, Any], examples: Sequence[Mapping[str, str]], run: Run) -> None:
    """Print what a person reads in ten seconds."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title, *columns = header(report)
    table = Table(title=f"{title} of {report['model']}", title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for row in table_rows(report):
        table.add_row(*row)
    console.print(table)
    console.print(neurons_line(report), highlight=False, markup=False)
    console.print(report["verdict"], highlight=False, markup=False)
    for row in examples:
        console.print(
            f"  {row['question']}\n    before: {row['before']}\n    after:  {row['after']}",
            highlight=False,
            markup=False,
        )
    console.print(f"files: {run.folder}", highlight=False, markup=False, soft_wrap=True)


def _others(report: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return report["score"]["after"], report["control"]["score"]


def _example(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[key] for key in ("question", "answer", "before", "after"))
