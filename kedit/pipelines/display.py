"""A result as a notebook shows it: its sentence, its tables, and a figure."""

from collections.abc import Iterable
from dataclasses import replace

from kedit import notebook
from kedit.plots import Drawing
from kedit.results.table import Table


def display(sentence: str, tables: Iterable[Table], figure: Drawing | None = None) -> str:
    """Return a result as HTML; what the `sentence` above says is not said once more under a table."""
    notes = ((one, tuple(note for note in one.notes if note != sentence)) for one in tables)
    grids = "".join(replace(one, notes=left).html() for one, left in notes)
    head = f"<p>{notebook.element('strong', sentence)}</p>" if sentence else ""
    return head + grids + (figure.html() if figure is not None else "")
