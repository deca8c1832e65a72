"""One table in every form: each keeps the figures, their intervals and the text as it is."""

import csv
import io

import pytest
from rich.cells import cell_len

from kedit.evaluation.statistics import Measured
from kedit.results.table import Table

HALF = Measured(0.5, 0.25, 0.75, 8)
NOTHING = Measured.missing("no picture shows it")
BOARD = Table(
    ("method", "drop", "neurons", "beats control"),
    (("a|b", HALF, 3, True), ("<script>", NOTHING, None, False)),
    "star & co",
    ("8 pictures",),
)


def test_markdown_shows_intervals_and_escapes_what_would_break_a_cell() -> None:
    assert BOARD.markdown().splitlines() == [
        "**star & co**",
        "",
        "| method | drop | neurons | beats control |",
        "| --- | --- | --- | --- |",
        "| a\\|b | 0.50 [0.25, 0.75] | 3 | yes |",
        "| <script> | n/a (no picture shows it) | - | no |",
        "",
        "8 pictures",
    ]


def test_csv_has_a_column_for_each_number_of_a_measured_figure() -> None:
    rows = list(csv.reader(io.StringIO(BOARD.csv())))
    assert rows[0] == ["method", "drop", "drop_low", "drop_high", "drop_n", "neurons", "beats control"]
    assert rows[1] == ["a|b", "0.5", "0.25", "0.75", "8", "3", "True"]
    assert rows[2] == ["<script>", "", "", "", "0", "", "False"]


def test_json_is_a_mapping_for_each_row() -> None:
    first, second = BOARD.to_json()
    assert first == {"method": "a|b", "drop": HALF.to_json(), "neurons": 3, "beats control": True}
    assert second["drop"]["why"] == "no picture shows it"


def test_html_escapes_what_strangers_wrote() -> None:
    page = BOARD.html()
    assert "<script>" not in page and "&lt;script&gt;" in page and "star &amp; co" in page
    assert page == BOARD._repr_html_()


def test_a_terminal_of_80_columns_shows_every_cell_as_text_not_as_markup() -> None:
    told = str(Table(("name", "value"), (("[bold]x", HALF),), "[red]"))
    assert "[bold]x" in told and "0.50 [0.25, 0.75]" in told and "[red]" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.parametrize("width", [24, 40, 60, 80, 132])
@pytest.mark.parametrize("name", ["star", "a_name_without_a_space_" * 6, "消火栓" * 20])
def test_a_table_is_never_wider_than_the_terminal_and_loses_nothing(name: str, width: int) -> None:
    columns = ("concept", *(f"figure {number}" for number in range(9)), "why")
    reason = "nothing of the kind is shown in any of the pictures"
    table = Table(columns, ((name, *[HALF] * 9, reason), ("moon", *[NOTHING] * 9, reason)), name, (f"of {name}",))
    lines = table.text(width).splitlines()
    assert max(map(cell_len, lines)) <= width
    text = "".join("".join(lines).split())
    marks = "".join(sign for sign in text if sign not in "│┃")
    assert all(marks.count("".join(str(one).split())) or width < 40 for one in columns)
    for sign in set(name) | set(reason) - {" "}:
        assert marks.count(sign) >= (name + name + reason + reason).count(sign)


def test_columns_that_do_not_fit_stand_below_each_row_again_with_its_first_cell() -> None:
    table = Table(("folder", *"abcdef"), (("one", *[HALF] * 6), ("two", *[HALF] * 6)))
    text = table.text(80)
    assert text.count("one") == text.count("two") == text.count("folder") == 2
    assert text.count("0.50 [0.25, 0.75]") == 12
    assert table.text(200).count("folder") == 1


def test_a_table_is_as_wide_as_the_terminal_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(("folder", *"abcdef"), (("one", *[HALF] * 6),))
    for width in (60, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        assert str(table) == table.text(width)


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells, the table 2 columns"):
        Table(("a", "b"), (("x", 1), ("y",)))


def test_a_fine_table_shows_a_third_decimal_of_small_figures() -> None:
    small, large = Measured(0.0123, 0.01, 0.02, 5), Measured(0.5, 0.01, 0.99, 5)
    fine = Table(("a", "b", "c"), ((small, large, Measured(0.0, None, None, 0)),), fine=True)
    assert fine.texts == [["0.012 [0.010, 0.020]", "0.50 [0.01, 0.99]", "0.00"]]
    assert Table(("a",), ((small,),)).texts == [["0.01 [0.01, 0.02]"]]
