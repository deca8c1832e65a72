"""The report as a page and as numbers."""

import json
from copy import deepcopy
from typing import Any

import pytest

from kedit.results.reports import report_markdown, report_metrics


def measured(value: float, low: float, high: float, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


REPORT: dict[str, Any] = {
    "kedit": "0.1.0",
    "concept": "star",
    "model": "scenes",
    "locator": "two_stage",
    "operator": "Zero()",
    "neurons": {"count": 14, "share": 0.0068, "by_layer": {"2": 4, "3": 10}},
    "suppression": {
        "mention_drop": measured(0.95, 0.83149, 0.98623),
        "bertscore": {"value": None, "low": None, "high": None, "n": 0, "why": "no encoder"},
    },
    "retention": {"objects": measured(1.0, 0.96, 1.0, 100), "near": {"rougeL": measured(0.5, 0.25, 0.75, 2)}},
    "selectivity": measured(0.974, 0.9, 0.99),
    "fluency": {"passed": True, "length_ratio": 1.0214, "why": None},
    "control": {
        "seeds": 5,
        "suppression": {"mention_drop": measured(0.025, 0.0, 0.0712)},
        "retention": {"objects": measured(0.99, 0.98, 1.0, 100)},
    },
    "verdict": "Zeroing 14 neurons suppresses star beyond its random control.",
    "samples": {"located": 64, "target": 40, "retention": 100, "skipped": 0},
    "cost": {"forwards": 128, "backwards": 64, "seconds": 12345.6789},
    "examples": [{"id": "7", "before": "a red star", "after": "a red | shape\n"}],
    "figures": ["figures/layers.png"],
}

PAGE = """\
# star in scenes

**Zeroing 14 neurons suppresses star beyond its random control.**

**14 neurons** (0.68% of all), by layer {2: 4, 3: 10}; located by `two_stage`, edited by `Zero()`

| suppression | edited | random control (5 seeds) |
| --- | --- | --- |
| mention_drop | 0.950 [0.831, 0.986], n=40 | 0.025 [0.000, 0.071], n=40 |
| bertscore | not measured: no encoder | - |

| retention | edited | random control (5 seeds) |
| --- | --- | --- |
| objects | 1.000 [0.960, 1.000], n=100 | 0.990 [0.980, 1.000], n=100 |
| near/rougeL | 0.500 [0.250, 0.750], n=2 | - |

**selectivity** 0.974 [0.900, 0.990], n=40

**fluency** passed yes, length_ratio 1.021

**samples** located 64, target 40, retention 100, skipped 0

**cost** forwards 128, backwards 64, seconds 12345.7

| sample | before | after |
| --- | --- | --- |
| 7 | a red star | a red \\| shape |

![layers](figures/layers.png)
"""


def test_the_page_says_what_the_report_says() -> None:
    assert report_markdown(REPORT) == PAGE


def test_the_page_is_the_same_for_a_report_read_back_from_disk() -> None:
    assert report_markdown(json.loads(json.dumps(REPORT))) == PAGE


@pytest.mark.parametrize("key", sorted(REPORT))
def test_a_part_that_the_report_lacks_is_left_out(key: str) -> None:
    shorter = report_markdown({name: value for name, value in REPORT.items() if name != key})
    assert "None" not in shorter
    assert len(shorter) <= len(PAGE)


def test_an_edit_of_nothing_and_an_unmeasured_selectivity_are_said_in_words() -> None:
    report = deepcopy(REPORT)
    report["neurons"] = {"count": 0, "share": 0.0, "by_layer": {}}
    report["selectivity"] = {"value": None, "low": None, "high": None, "n": 40, "why": "40 of 40 captions are empty"}
    page = report_markdown(report)
    assert "**0 neurons** (0.00% of all), by layer {};" in page
    report |= {"neurons": {"count": 0}, "operator": "WeightChange()"}
    assert "\nedited by `WeightChange()`\n" in report_markdown(report)
    del report["locator"]
    report["neurons"] = {"count": 3}
    assert "**3 neurons**, edited by `WeightChange()`" in report_markdown(report)
    assert "**selectivity** not measured: 40 of 40 captions are empty" in page


def test_metrics_are_the_numbers_of_the_report_under_their_paths() -> None:
    metrics = report_metrics(REPORT)
    assert metrics["suppression/mention_drop"] == 0.95
    assert metrics["suppression/mention_drop/low"] == 0.83149
    assert metrics["control/suppression/mention_drop/high"] == 0.0712
    assert metrics["retention/near/rougeL"] == 0.5
    assert metrics["neurons/by_layer/3"] == 10
    assert metrics["fluency/passed"] == 1
    assert not {name for name in metrics if "bertscore" in name or "why" in name or name in REPORT} - {"selectivity"}
    assert all(type(number) is float for number in metrics.values())
