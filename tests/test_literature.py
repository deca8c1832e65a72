"""kedit's figures under the literature's names are the figures that they say they are."""

from typing import Any

import pytest
from test_measure import CLEAN, report
from test_pope import REPORT

from kedit.evaluation.literature import cross_modal_gap, editing_terms, terms_json
from kedit.evaluation.statistics import Measured


def test_each_term_is_the_figure_that_it_names() -> None:
    found = report(CLEAN)
    for pope in (None, REPORT):
        told: dict[str, Any] = found.to_json() | ({"pope": pope.to_json()} if pope else {})
        for name, term in terms_json(editing_terms(found, pope)).items():
            assert isinstance(term, dict)
            source, figure = term.pop("is"), told
            if name == "cross-modal gap" or (pope is None and source.startswith("pope/")):
                continue
            for key in source.split("/"):
                figure = figure[key]
            assert term == figure, name


def test_without_pope_its_terms_say_how_to_measure_them() -> None:
    terms = editing_terms(report(CLEAN))
    missing = {name for name, term in terms.items() if term.figure.value is None}
    assert missing == {"T-generality", "locality without a picture"}
    assert all("evaluate.pope=true" in str(terms[name].figure.why) for name in missing)


@pytest.mark.parametrize(
    ("drop", "kept", "gap"),
    [
        # All is lost in pictures, and of the words 3 in 10.
        ((1.0, 0.9, 1.0), (0.7, 0.6, 0.8), (0.7, 0.5, 0.8)),
        # As much is lost in words: the interval reaches 0.
        ((0.5, 0.3, 0.7), (0.5, 0.4, 0.6), (0.0, 0.0, 0.3)),
        # More is lost in words.
        ((0.2, 0.1, 0.3), (0.1, 0.0, 0.2), (0.7, 0.5, 0.9)),
    ],
)
def test_the_gap_is_between_what_pictures_and_what_words_lose(
    drop: tuple[float, ...], kept: tuple[float, ...], gap: tuple[float, ...]
) -> None:
    found = cross_modal_gap(Measured(*drop, 20), Measured(*kept, 8))  # type: ignore[call-arg]
    assert (found.value, found.low, found.high) == pytest.approx(gap)
    assert found.n == 8


def test_there_is_no_gap_where_one_side_is_not_measured() -> None:
    none = Measured.missing("nothing was asked")
    assert cross_modal_gap(none, Measured(1.0, 0.5, 1.0, 4)).why == "no drop asked with a picture: nothing was asked"
    assert cross_modal_gap(Measured(1.0, 0.5, 1.0, 4), none).why == "no drop asked in words: nothing was asked"
