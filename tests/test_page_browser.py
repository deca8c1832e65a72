"""The report page in a real browser without a window: it renders, sorts, filters, and asks for nothing."""

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_page import FIGURE, NASTY, a_run

from kedit.page import write_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if BROWSER is None:
    pytest.skip("no Chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'kedit[browser]'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = a_run(tmp_path_factory.mktemp("page"), text=NASTY, n=6)
    write_page(made)
    return made


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    """Yield the page; a complaint on the console, an error or a request of it fails the test."""
    tab, trouble = browser.new_page(), list[str]()
    tab.on("console", lambda message: trouble.append(f"console: {message.text}"))
    tab.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    tab.on("request", lambda request: trouble.append(request.url) if not request.url.startswith("data:") else None)
    address = (folder / "report.html").as_uri()
    tab.goto(address)
    yield tab
    tab.close()
    assert trouble == [address]


def shown(page: Any) -> list[int]:
    """Return the places of the cards that are seen, from above."""
    return [int(one.get_attribute("data-place")) for one in page.locator("article:visible").all()]


def test_what_strangers_write_runs_nowhere_and_every_picture_is_seen(page: Any) -> None:
    assert page.evaluate("window.hit") is None
    assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    assert page.evaluate("document.images.length") == 7
    assert "window.hit = 2" in page.locator("h1").inner_text()


def test_cards_are_searched_by_word_and_layer_and_sorted_by_score_and_word(page: Any) -> None:
    assert shown(page) == [1, 2, 3, 4, 5, 6] and page.locator("#found").inner_text() == "6 of 6 neurons"
    page.get_by_label("Search").fill("WORD4")
    assert shown(page) == [3] and page.locator("#found").inner_text() == "1 of 6 neurons"
    page.get_by_label("Search").fill("no such word")
    assert shown(page) == []
    page.get_by_label("Search").fill("")
    page.get_by_label("Layer", exact=True).select_option("1")
    assert shown(page) == [2, 4, 6]
    page.get_by_label("Layer", exact=True).select_option("")
    page.get_by_label("Sort by").select_option("layer")
    assert shown(page) == [1, 3, 5, 2, 4, 6]
    page.get_by_label("Sort by").select_option("word")
    assert shown(page) == [6, 5, 4, 3, 2, 1]
    page.get_by_label("Sort by").select_option("score0")
    assert shown(page) == [1, 2, 3, 4, 5, 6]


def test_a_table_is_sorted_by_its_headings_from_the_keyboard(page: Any) -> None:
    table = page.locator("#layers table")
    heading = table.locator("th", has_text="neurons")
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    counts = [int(one.inner_text()) for one in table.locator("tbody td:nth-child(2)").all()]
    assert counts == sorted(counts, reverse=True)
    table.locator("th", has_text="layer").locator("button").click()
    assert heading.get_attribute("aria-sort") is None


def test_the_theme_follows_the_system_until_the_reader_chooses(page: Any) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light == "rgb(255, 255, 255)" != dark
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(ground) == dark


def test_a_narrow_screen_and_paper_lose_nothing(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.pdf().startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".tools").is_visible()


def test_a_reader_with_a_keyboard_or_a_screen_reader_finds_the_way(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    nameless = """[...document.querySelectorAll("button, input, select, img, a[href]")].filter((one) =>
        !(one.textContent.trim() || one.getAttribute("alt") || one.getAttribute("aria-label") || one.labels?.length))"""
    assert page.evaluate(f"{nameless}.length") == 0
    levels = [int(one) for one in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName[1])")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size") == page.evaluate(
        "document.querySelectorAll('[id]').length"
    )


def test_texts_can_be_read_in_light_and_dark(page: Any) -> None:
    """The contrast of text and ground is at least 4.5 (WCAG 2.2, AA)."""
    worst = """[...document.querySelectorAll("p, td, th, a, dt, dd, h1, h2, h3, del, ins, .word, summary, button")]
        .filter((one) => one.offsetParent).map((one) => {
            const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
            const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
                .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
                .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
            let under = one, ground = [0, 0, 0, 0];
            while (under && ground[3] === 0) {
                ground = parse(getComputedStyle(under).backgroundColor);
                if (ground.length === 3) ground.push(1);
                under = under.parentElement;
            }
            const [a, b] = [light(parse(getComputedStyle(one).color)), light(ground)].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
        }).reduce((x, y) => Math.min(x, y), 99)"""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(worst) >= 4.5


def test_a_sweep_leads_to_its_jobs_and_back(browser: Any, tmp_path: Path) -> None:
    jobs = [{"number": number, "status": "done", "swept": {"q": f"0.{number}"}, "neurons": 9 - number,
             "selectivity": FIGURE | {"value": value}} for number, value in enumerate([0.2, 0.9, None])]  # fmt: skip
    board = {"swept": {"q": "q"}, "counts": {"jobs": 3, "done": 3}, "ranking": [1, 0, 2], "jobs": jobs}
    (tmp_path / "leaderboard.json").write_text(json.dumps(board))
    (tmp_path / "sweep.json").write_text("{}")
    for number in range(3):
        write_page(a_run(tmp_path / str(number)))
    tab = browser.new_page()
    tab.goto(write_page(tmp_path).as_uri())
    selectivity = tab.locator("#jobs th", has_text="selectivity").locator("button")
    for order in (["0", "1", "2"], ["1", "0", "2"]):  # what has no value stands last both times
        selectivity.click()
        assert [one.inner_text() for one in tab.locator("#jobs a").all()] == [f"job {number}" for number in order]
    tab.get_by_role("link", name="job 2").click()
    tab.get_by_role("link", name="all jobs of the sweep").click()
    assert tab.url == (tmp_path / "report.html").as_uri()
    tab.close()
