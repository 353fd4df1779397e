"""The console in a real browser: every page without a complaint, by keyboard, in light and dark, live."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext
from tests.support.browser import Page, chromium, console, executable
from tests.support.shoot import PAGES

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    if executable() is None:
        if "browser" in os.environ.get("TIDEMILL_LIVE", ""):
            pytest.fail("TIDEMILL_LIVE names browser, but there is no chromium; apt-get install chromium")
        pytest.skip("no Chromium on this machine")
    with console("sample") as started:
        yield started


@pytest.fixture(scope="module")
def browser(server: tuple[str, str]) -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(context: BrowserContext, server: tuple[str, str]) -> Page:
    page = Page(context, server[0])
    page.log_in(server[1])
    return page


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_without_a_complaint_and_from_here_alone(page: Page, name: str) -> None:
    page.complaints.clear()
    assert page.open(PAGES[name]).status == 200
    page.raw.wait_for_timeout(300)
    assert page.raw.locator("h1").count() == 1
    assert page.complaints == []
    assert page.foreign == []
    assert page.raw.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "the page scrolls sideways"


def test_charts_are_drawn_in_the_themes_colours(page: Page) -> None:
    page.open("/replay")
    page.raw.wait_for_selector("figure.plot .main-svg")
    assert page.raw.locator("figure.plot .scatterlayer .trace").count() >= 3
    colour = "document.querySelector('figure.plot .xtick text').style.fill"
    light = page.raw.evaluate(colour)
    page.raw.click("#theme")
    page.raw.wait_for_function(f"{colour} !== '{light}'")
    assert page.raw.evaluate("document.documentElement.dataset.theme") == "dark"
    page.open("/")
    assert page.raw.evaluate("document.documentElement.dataset.theme") == "dark", "the choice lasts"
    page.raw.keyboard.press("t")
    assert page.raw.evaluate("document.documentElement.dataset.theme") == "light"


def test_the_systems_theme_is_followed_until_one_is_chosen(browser: Browser, server: tuple[str, str]) -> None:
    context = browser.new_context(color_scheme="dark")
    page = Page(context, server[0])
    page.open("/login")
    assert page.raw.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 20, 19)"
    context.close()


def test_every_page_can_be_reached_by_keyboard(page: Page) -> None:
    page.open("/")
    for key, path in (
        ("d", "/data"),
        ("f", "/features"),
        ("r", "/runs"),
        ("m", "/models"),
        ("s", "/services"),
        ("o", "/monitoring"),
        ("x", "/decisions"),
        ("p", "/replay"),
        ("l", "/"),
    ):
        page.raw.keyboard.press("g")
        page.raw.keyboard.press(key)
        page.raw.wait_for_url(f"{page.url}{path}")
    page.raw.keyboard.press("?")
    assert page.raw.locator("#help").is_visible()
    page.raw.keyboard.press("Escape")
    assert not page.raw.locator("#help").is_visible()


def test_the_first_tab_stop_skips_to_the_content(page: Page) -> None:
    page.open("/data")
    page.raw.keyboard.press("Tab")
    assert page.raw.evaluate("document.activeElement.className") == "skip"
    page.raw.keyboard.press("Enter")
    assert page.raw.evaluate("document.activeElement.id") == "main"
    page.raw.keyboard.press("Tab")
    assert page.raw.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_what_can_be_clicked_has_a_name_and_pictures_have_words(page: Page) -> None:
    for path in ("/", "/services", "/replay"):
        page.open(path)
        nameless = "[...document.querySelectorAll('a,button,input:not([type=hidden])')].filter(e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
        assert page.raw.evaluate(nameless) == 0
        assert page.raw.evaluate("[...document.querySelectorAll('svg.pic, figure.plot')].every(e => e.getAttribute('aria-label'))")


def test_what_happens_appears_without_a_reload(page: Page, context: BrowserContext) -> None:
    page.open("/")
    page.raw.wait_for_selector("#live.on")
    page.raw.evaluate("window.stayed = true")
    other = Page(context, page.url)
    other.open("/runs")
    row = {"flight": "UA1", "landed_at": "2013-12-31T00:00:00Z", "recorded_at": "2013-12-31T00:01:00Z"}
    assert (
        other.raw.evaluate(
            "row => fetch('/api/v1/tables/landings/rows', {method: 'POST', headers: {'content-type': 'application/json'}, body: JSON.stringify([row])}).then(r => r.status)",
            row,
        )
        == 202
    )
    page.raw.wait_for_selector("text=rows pushed", timeout=8000)
    assert page.raw.evaluate("window.stayed") is True
    other.raw.close()


def test_two_runs_can_be_compared(page: Page) -> None:
    page.open("/runs")
    assert page.raw.locator("#compare").is_disabled()
    boxes = page.raw.locator("input[name=run]")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.raw.click("#compare")
    page.raw.wait_for_selector("text=2 runs side by side")
    assert page.complaints == []


def test_it_works_in_a_narrow_window(browser: Browser, server: tuple[str, str]) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 800})
    page = Page(context, server[0])
    page.log_in(server[1])
    for path in ("/", "/data", "/replay"):
        page.open(path)
        assert page.raw.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    context.close()


def test_logging_out_ends_the_session(browser: Browser, server: tuple[str, str]) -> None:
    context = browser.new_context()
    page = Page(context, server[0])
    page.log_in(server[1])
    page.raw.click("text=Log out")
    page.raw.wait_for_url("**/login")
    page.open("/data")
    assert "/login" in page.raw.url
    context.close()


def test_a_ledger_that_goes_is_said_on_the_open_page_and_pages_come_back_by_themselves(browser: Browser, tmp_path: Path) -> None:
    with console("sample", tmp_path) as (url, token):
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        open_page, other = Page(context, url), Page(context, url)
        open_page.log_in(token)
        open_page.raw.wait_for_selector("#live.on")
        moved = (tmp_path / "ledger.db").rename(tmp_path / "elsewhere")
        open_page.raw.wait_for_selector("#main > #gone >> text=The ledger does not answer")
        assert other.open("/services").status == 503
        assert other.raw.locator("h1").inner_text() == "The ledger does not answer"
        assert other.raw.locator("text=What to do").is_visible()
        assert other.raw.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        moved.rename(tmp_path / "ledger.db")
        open_page.raw.wait_for_selector("#gone", state="detached", timeout=20_000)
        open_page.raw.wait_for_selector("#live.on")
        other.raw.wait_for_selector("h1 >> text=flight-delay", timeout=20_000)
        assert other.foreign == []
        context.close()
