"""The report page: what strangers write stays text, it fits, and it is made again from the folder alone."""

import base64
import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kedit.cli import main
from kedit.neurons import NeuronScores, NeuronSet, save_scores
from kedit.page import Card, Firing, Materials, PageError, add_page, fired_uri, picture_uri, write_page
from kedit.page.materials import leave_materials
from kedit.page.parts import Note, Section
from kedit.page.pictures import SIDE
from kedit.page.sections import SECTIONS
from kedit.page.texts import changes
from kedit.page.write import MOST_BYTES
from kedit.results.run_folder import Run

NASTY = '</script><script>window.hit = 1</script><img src=x onerror="window.hit = 2">\'\u202egnp.exe\u202c שלום'
FIGURE = {"value": 0.75, "low": 0.5, "high": 1.0, "n": 4}


def decoded(uri: str) -> Image.Image:

    head, content = uri.split(",", 1)
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def a_run(folder: Path, *, text: str = "star", n: int = 3, picture: str | None = None) -> Path:
    """Leave what `kedit run` leaves, with `text` wherever a stranger may write, and return the folder."""
    values = torch.zeros(2, 8)
    ids = [(at % 2, at // 2) for at in range(n)]
    for place, (layer, index) in enumerate(ids):
        values[layer, index] = float(n - place)
    neurons = NeuronSet.of(ids)
    about = {"samples": text, "n_samples": "1", "weights": "f00d", "reading": "", "pictures": "beef", "scorers": "c0de"}
    report = {
        "kedit": "0.7.0", "concept": text, "model": text, "locator": text, "operator": "Zero()", "verdict": text,
        "evidence": True, "suppression": {"mention_drop": FIGURE}, "retention": {"objects": FIGURE},
        "control": {"seeds": 2, "suppression": {"mention_drop": FIGURE | {"value": 0.6}}, "retention": {}},
        "neurons": {"count": n, "share": n / 16, "by_layer": {"0": n - n // 2, "1": n // 2}, "site": "mid"},
        "fluency": {"passed": False, "why": text},
    }  # fmt: skip
    rows = [{"id": text, "group": "target", "before": f"a {text} here", "after": "a thing here"}]
    uri = picture or picture_uri(Image.new("RGB", (8, 8), "red"))
    firing = (Firing(text, 1.5, text, uri),)
    cards = [Card(*one, (f"word{n - at}", text), (text,), text, firing) for at, one in enumerate(ids)]
    with Run(folder) as run:
        run.save_json("report.json", report)
        run.save_json("neurons.json", neurons.to_json())
        run.save_jsonl("captions.jsonl", rows)
        save_scores({"difference": NeuronScores(values, text, provenance=about)}, folder / "scores.safetensors")
        named = [f"{layer}.{index},{layer},{index},word{n - at}" for at, (layer, index) in enumerate(ids)]
        run.save_text("neurons.csv", "\n".join(["neuron,layer,index,words", *named]) + "\n")
        leave_materials(run, lambda: Materials(tuple(cards), "", {0: uri}))
    return folder


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> Elements:
    return Elements(write_page(a_run(tmp_path)).read_text(encoding="utf-8"))


def test_the_page_says_the_verdict_the_figures_the_neurons_and_where_they_come_from(page: Elements) -> None:
    for told in ("Evidence.", "0.75 [0.50,\u00a01.00]", "0.60 [0.50,\u00a01.00]", "3 of 3", "f00d", "beef", "word2"):
        assert told in page.text
    assert "is broken: star" in page.text and "1 of 16" in page.text
    assert len(page.of("article")) == 3


def test_cards_stand_in_the_order_of_the_last_stage(page: Elements) -> None:
    assert [one["data-score0"] for one in page.of("article")] == ["3.0", "2.0", "1.0"]
    assert [one["data-layer"] for one in page.of("article")] == ["0", "1", "0"]


def test_nothing_is_asked_for_from_outside_and_only_our_own_style_and_script_may_run(tmp_path: Path) -> None:
    raw = write_page(a_run(tmp_path)).read_text(encoding="utf-8")
    page = Elements(raw)
    (policy,) = [one["content"] or "" for one in page.of("meta") if one.get("http-equiv")]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for kind in ("style", "script"):
        ((text,),) = [re.findall(rf"<{kind}>(.*?)</{kind}>", raw, re.DOTALL)]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    sources = [value for _, one in page.found for key in ("src", "srcset", "data", "action") if (value := one.get(key))]
    assert sources and all(one.startswith("data:") for one in sources)
    assert not [key for _, one in page.found for key in one if key.startswith("on") or key == "style"]


def test_what_strangers_write_stays_text(tmp_path: Path) -> None:
    plain, nasty = (
        Elements(write_page(a_run(tmp_path / name, text=text)).read_text(encoding="utf-8"))
        for name, text in (("plain", "star"), ("nasty", NASTY))
    )
    counts = [
        {tag: len(one.of(tag)) for tag in ("script", "img", "article", "style", "meta")} for one in (plain, nasty)
    ]
    assert counts[0] == counts[1]
    assert "window.hit = 2" in nasty.text
    assert "\u202e" not in nasty.text and "U+202E" in nasty.text
    assert not any("\u202e" in (value or "") for _, one in nasty.found for value in one.values())
    assert "שלום" in nasty.text and len(nasty.of("bdi")) > 10


@pytest.mark.parametrize("name", ["a&b<c>", "x\udcff", 'quo"te'])
def test_names_of_files_are_escaped_too(tmp_path: Path, name: str) -> None:
    folder = a_run(tmp_path)
    (folder / f"{name}.json").write_text("{}")
    shown = Elements(write_page(folder).read_text(encoding="utf-8")).text
    assert name.replace("\udcff", "U+DCFF") in shown


def test_words_that_changed_are_marked_and_the_others_are_not() -> None:
    before, after = changes("a red star and a moon", "a red shape and a moon")
    assert [text for text, changed in before if changed] == ["star"]
    assert [text for text, changed in after if changed] == ["shape"]
    assert "".join(text for text, _ in before) == "a red star and a moon"
    assert changes("the same", "the same") == ([("the same", False)], [("the same", False)])


def test_a_page_without_room_has_fewer_pictures_and_says_how_many(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3)).astype(np.uint8)
    large = picture_uri(Image.fromarray(noise), 700)
    folder = a_run(tmp_path, n=16, picture=large)
    assert len(large) * 16 > MOST_BYTES
    page = write_page(folder)
    shown = Elements(page.read_text(encoding="utf-8"))
    assert page.stat().st_size <= MOST_BYTES
    kept = len([one for one in shown.of("img") if "fires in" in (one["alt"] or "")])
    assert 0 < kept < 16 and f"Pictures of {16 - kept} neurons were left out for room." in shown.text
    assert len(shown.of("article")) == 16


def test_a_page_that_is_too_large_without_pictures_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kedit.page.write.MOST_BYTES", 10_000)
    with pytest.raises(PageError, match="larger than 10,000 bytes, even without pictures"):
        write_page(a_run(tmp_path))
    assert not (tmp_path / "report.html").exists()


def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    assert "98,000" not in (shown := Elements(write_page(a_run(tmp_path, text="x" * 100_000)).read_text()).text)
    assert "(98000 characters more)" in shown


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_page(a_run(tmp_path / "a")).read_bytes()
    assert write_page(tmp_path / "a").read_bytes() == first == write_page(a_run(tmp_path / "b")).read_bytes()


def test_a_folder_of_an_older_kedit_has_a_page_without_pictures(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    (folder / "page.json").unlink()
    shown = Elements(write_page(folder).read_text())
    assert "The run left no pictures for its cards" in shown.text and not shown.of("img")
    assert "word1" in shown.text


@pytest.mark.parametrize("name", ["report.json", "page.json", "neurons.json", "captions.jsonl", "scores.safetensors"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = a_run(tmp_path)
    (folder / name).write_text("{ not this")
    assert main(["page", str(folder)]) == 2
    assert name in capsys.readouterr().err


def test_a_figure_that_is_none_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = a_run(tmp_path)
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "mine.png").write_text("no picture")
    assert write_page(folder).is_file()
    assert "mine.png` is left out of the page" in caplog.text


def test_the_command_prints_the_page_and_refuses_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["page", str(a_run(tmp_path / "run"))]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run' / 'report.html'}\n"
    (tmp_path / "empty").mkdir()
    assert main(["page", str(tmp_path / "empty")]) == 2
    assert "holds no result of a finished command" in capsys.readouterr().err
    assert main(["page", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_loses_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = a_run(tmp_path)
    (folder / "report.html").mkdir()
    assert add_page(folder) is None
    assert "no page" in caplog.text and "kedit page" in caplog.text
    with Run(folder) as run, caplog.at_level(logging.WARNING):
        leave_materials(run, broken)
    assert run.status == "done" and "no words today" in caplog.text


def broken() -> Materials:
    raise RuntimeError("no words today")


def test_a_new_section_is_one_more_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = [*SECTIONS, lambda folder: Section("gone", "Is it gone?", [Note(f"in {folder.path.name}")])]
    monkeypatch.setattr("kedit.page.write.SECTIONS", added)
    shown = Elements(write_page(a_run(tmp_path / "job")).read_text())
    assert "Is it gone?" in shown.text and "in job" in shown.text
    assert "#gone" in [one.get("href") for one in shown.of("a")]


def test_a_sweep_links_to_its_jobs_and_they_link_back(tmp_path: Path) -> None:
    job = {"number": 0, "status": "done", "swept": {"q": "0.9"}, "neurons": 3, "selectivity": FIGURE,
           "beats_control": {"mention_drop": True}}  # fmt: skip
    failed = {"number": 1, "status": "failed", "why": NASTY, "swept": {"q": "0.99"}}
    board = {"swept": {"q": "q"}, "counts": {"jobs": 2, "done": 1}, "ranking": [0], "jobs": [failed, job]}
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [["q=0.9"], ["q=0.99"]]}))
    write_page(a_run(tmp_path / "0"))
    shown = Elements(write_page(tmp_path).read_text())
    assert [one["href"] for one in shown.of("a") if "report.html" in (one["href"] or "")] == ["0/report.html"]
    assert "Job 0 has the highest selectivity" in shown.text and shown.text.index("job 0") < shown.text.index("job 1")
    back = Elements((tmp_path / "0" / "report.html").read_text())
    assert "../report.html" in [one.get("href") for one in back.of("a")]


def test_a_sweep_whose_best_job_has_no_selectivity_has_no_evidence(tmp_path: Path) -> None:
    job = {"number": 0, "status": "done", "selectivity": {"value": None, "why": "no caption"}, "beats_control": None}
    board = {"counts": {"jobs": 1, "done": 1}, "ranking": [0], "jobs": [job]}
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": [["q=0.9"]]}))
    assert "No job has evidence of an effect" in Elements(write_page(tmp_path).read_text()).text


def test_a_line_of_its_own_in_a_caption_is_no_line_of_the_file(tmp_path: Path) -> None:
    folder = a_run(tmp_path)
    lines = (folder / "captions.jsonl").read_text().splitlines()
    first = json.loads(lines[0]) | {"after": "a star\u2028and a moon\x85"}
    (folder / "captions.jsonl").write_text("\n".join([json.dumps(first, ensure_ascii=False), *lines[1:]]) + "\n")
    assert "and a moon" in Elements(write_page(folder).read_text()).text


def test_a_sweep_without_evidence_says_so(tmp_path: Path) -> None:
    job = {"number": 0, "status": "done", "selectivity": FIGURE, "beats_control": {"mention_drop": False}}
    board = {"counts": {"jobs": 1, "done": 1}, "ranking": [0], "jobs": [job]}
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    assert "No evidence." in Elements(write_page(tmp_path).read_text()).text


def files_of_other_commands() -> Iterator[Any]:
    row = {"method": "two_stage", "selectivity": FIGURE, "mention_drop": FIGURE, "neurons": 3.0}
    table = {"concept": "star", "budget": "8", "rows": [row, {"method": "nam", "why": "no such layer"}]}
    yield pytest.param("compare.json", {"model": "m", "complete": False, "tables": [table]},
                       ["two_stage ranks first", "Interrupted", "no such layer"], id="compare")  # fmt: skip
    seen = {"words": {"decodes to the concept": {"located": FIGURE, "random": FIGURE | {"value": 0.1}}}}
    row = {"layer": 0, "index": 1, "words": ["star"], "opposite": ["moon"], "alone": 1.25, "serves": ["heart"]}
    broken = {"value": None, "n": 0, "why": "the fluency guard failed"}
    none = {
        "model": "m",
        "tables": [{"concept": "star", "budget": "8", "rows": [table["rows"][0] | {"selectivity": broken}]}],
    }
    yield pytest.param("compare.json", none, ["No method can be ranked: the fluency guard failed."], id="no winner")
    drawn = {"drawn_concept": "star", "concept": "", "model": "m", "verdict": "gone"}
    yield pytest.param("report.json", drawn, ["star in m", "draw", "gone"], id="draw")
    yield pytest.param("inspect.json", {"concept": "star", "neurons": {"count": 1}, "measures": seen, "rows": [row]},
                       ["0.75 [0.50,\u00a01.00]", "1.25 nats", "also located for", "heart"], id="inspect")  # fmt: skip
    score = {"before": {"all": FIGURE}, "after": {"all": FIGURE | {"value": 0.55}}}
    task = {"task": {"kinds": ["count"]}, "model": "m", "verdict": "no change", "score": score, "control": {}}
    yield pytest.param("report.json", task, ["count in m", "no change", "0.55"], id="task")
    located = {"concept": "star", "model": "m", "locator": "nam", "neurons": {"count": 1}}
    yield pytest.param("locate.json", located, ["nam located 1 neurons"], id="locate")


@pytest.mark.parametrize(("name", "content", "told"), list(files_of_other_commands()))
def test_the_other_commands_have_pages(tmp_path: Path, name: str, content: Any, told: list[str]) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "neurons.json").write_text(json.dumps({"neurons": [[0, 1]], "site": "mid"}))
    shown = Elements(write_page(tmp_path).read_text(encoding="utf-8")).text
    assert not [one for one in told if one not in shown]


def test_pictures_are_small_and_the_heat_is_where_the_neuron_fires() -> None:
    assert max(decoded(picture_uri(Image.new("RGB", (900, 300)))).size) == SIDE
    assert decoded(picture_uri(Image.new("RGBA", (50, 20)))).size == (150, 60)
    heat, region = np.zeros((64, 64)), np.zeros((64, 64), dtype=bool)
    heat[:16, :16] = 2.0
    region[40:60, 40:60] = True
    shown = np.asarray(decoded(fired_uri(Image.new("RGB", (64, 64), (90, 90, 90)), heat, 2.0, region)), dtype=int)
    spread = shown.max(-1) - shown.min(-1)
    assert spread[8:40, 8:40].min() > 80, "where it fires the picture has the colour of heat"
    assert spread[80:110, 20:60].max() < 20, "elsewhere it stays gray"
    edge = shown[118:182, 118:182].reshape(-1, 3)
    assert (abs(edge - (213, 94, 0)).sum(-1) < 120).any(), "the region has its outline"
