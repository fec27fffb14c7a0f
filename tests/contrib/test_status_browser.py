"""Claims about the live page in a real browser: what moves, what a switch does, and what is never asked for."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from tests.browser import MISSING, Browser, browser

if MISSING:
    pytest.skip(MISSING, allow_module_level=True)
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from fastapi import FastAPI

from offload_db import Lane, OffloadPool, monitor, offload, rollout
from offload_db.contrib.status import StatusPage, page as page_module
from tests.conftest import MySQL
from tests.serving import served
from tests.support import pool_of, until, value

pytestmark = pytest.mark.slow

TARGET = "GET:/v2/truck/{truck_id}"
MARKUP = "<img src=x onerror=document.title='broken'>"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    """Give one browser to all tests."""
    with browser() as window:
        yield window


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


class Site:
    """An application with the page, and its pool."""

    def __init__(self, pool: OffloadPool) -> None:
        self.pool = pool
        self.address = ""

    def get(self, path: str) -> int:
        """Send a request, and return its status."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    @contextmanager
    def load(self, path: str) -> Iterator[None]:
        """Send requests all the time."""
        ends = threading.Event()

        def send() -> None:
            while not ends.is_set():
                self.get(path)

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ends.set()
            for thread in threads:
                thread.join()


def application(site: Site, away: OffloadPool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with monitor.watch():
            yield

    app = FastAPI(lifespan=lifespan)

    def ask(statement: str) -> None:
        with site.pool.connection() as connection:
            value(connection, statement)

    @app.get("/v2/truck/{truck_id}")
    @offload
    async def truck(truck_id: str) -> None:
        ask("SELECT SLEEP(0.005), 'a value'")

    @app.get("/markup")
    async def markup() -> None:
        ask(f"SELECT 1 AS `{MARKUP}`")

    @app.get("/stuck")
    async def stuck() -> None:
        stand_still(7)

    @app.get("/away")
    @offload
    async def nowhere() -> None:
        away.connection()

    app.mount("/offload", StatusPage(site.pool, allow_changes=lambda scope: True))
    app.mount("/read", StatusPage(site.pool))
    app.mount("/away-page", StatusPage(away))
    return app


@pytest.fixture(scope="module")
def site(mysql: MySQL, window: Browser) -> Iterator[Site]:
    """Give an application under uvicorn."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(page_module, "TICK", 0.25)  # the tests wait for the next sample most of the time
        database = mysql.fresh_database()
        stack.callback(mysql.drop_database, database)
        lanes = [Lane("reports", 1)]
        settings = mysql.settings(database)
        pool = stack.enter_context(pool_of(2, settings, lanes=lanes, on_loop_call="allow"))
        nowhere = {"host": "127.0.0.1", "port": 1, "user": "u", "password": "p", "checkout_timeout": 0.5}
        away = stack.enter_context(pool_of(1, nowhere))
        site = Site(pool)
        site.address = stack.enter_context(served(application(site, away), lifespan="on"))
        yield site
        window.open("about:blank")  # or the server waits for the end of its streams


@pytest.fixture
def page(window: Browser, site: Site) -> Iterator[Browser]:
    """Give the page, loaded, and see that its console stays empty."""
    window.log("browser")
    rollout.set(TARGET, "offload", share=1.0)
    window.size(1280, 900)
    window.open(f"{site.address}/offload/")
    window.wait(lambda window: "live" in window.text("#link-text") and window.text("#pool-now").endswith("of 2"))
    window.wait(lambda window: TARGET in window.text("#routes-table"))
    yield window
    assert window.log("browser") == []


def number(page: Browser, selector: str) -> float:
    """Return the number that a text begins with."""
    return float(page.text(selector).replace(",", "").split()[0])


def test_figures_move_under_load(page: Browser, site: Site) -> None:
    """Under load the statements, the connections and the route's calls move, and so do the charts."""
    assert number(page, "#rate-now") == 0
    before = page.run("return document.querySelector('#rate-chart path.line').getAttribute('d')")
    with site.load("/v2/truck/7"):
        page.wait(lambda page: number(page, "#rate-now") > 5)
        page.wait(lambda page: number(page, "#rate-more") > 20)
        page.wait(lambda page: "offloaded" in page.text(f"#routes-table tbody[data-key='{TARGET}'] .way"))
        first = number(page, "#rate-more")
        page.wait(lambda page: number(page, "#rate-more") > first)
    after = page.run("return document.querySelector('#rate-chart path.line').getAttribute('d')")
    assert len(after) > len(before)
    assert "1 lane" not in page.text("#pools-table")
    assert "lane reports" in page.text("#pools-table")


def test_a_switch_takes_effect_with_the_next_request(page: Browser, site: Site) -> None:
    """Who sets a route back on the page has the next request run as before, and the page says so."""
    site.get("/v2/truck/7")
    blocked = site.pool.statistics().blocking_calls
    site.get("/v2/truck/7")
    assert site.pool.statistics().blocking_calls == blocked
    form = f"tbody[data-key='{TARGET}'] form"
    # Told of as if somebody had chosen it: what nobody has edited is brought up to date with each sample.
    choose = "select.value = 'observe'; select.dispatchEvent(new Event('input', {bubbles: true}))"
    page.run(f"const select = document.querySelector(arguments[0] + ' select'); {choose}", form)
    page.click(f"{form} button[type=submit]")
    page.wait(lambda page: page.text("#done") == f"Done: {TARGET}: observe, 100 % of the requests.")
    site.get("/v2/truck/7")
    assert site.pool.statistics().blocking_calls > blocked
    page.wait(lambda page: "observe 100 %" in page.text(f"tbody[data-key='{TARGET}'] td"))
    page.click(f"{form} button[name=clear]")
    page.wait(lambda page: page.text("#done") == f"Done: {TARGET}: nothing is set any more.")
    blocked = site.pool.statistics().blocking_calls
    site.get("/v2/truck/7")
    assert site.pool.statistics().blocking_calls == blocked


def test_another_target_and_a_mistake(page: Browser) -> None:
    """A target that is not in the table can be set, and one that is none is explained."""
    script = "const form = document.querySelector('#other'); form.target.value = arguments[0]; form.requestSubmit()"
    page.run(script, "GET:/v3/*")
    page.wait(lambda page: page.text("#done").startswith("Done: GET:/v3/*"))
    assert [route.target for route in rollout.snapshot() if route.target == "GET:/v3/*"]
    page.run(script, "GET v3")
    page.wait(lambda page: page.text("#done").startswith("Not done: rollout.set: target="))
    [refused] = page.log("browser")  # the browser itself tells of each answer 400
    assert "400" in refused["message"]


def test_nothing_is_asked_of_another_host(page: Browser, site: Site) -> None:
    """Everything that the page asks for is its own, also when the stream of events begins anew."""
    page.wait(lambda page: page.run("return performance.getEntriesByName(location.href + 'events').length") is not None)
    ours = {address for address in page.requested() if not address.startswith(("chrome", "data:", "about:"))}
    assert {f"{site.address}/offload/{name}" for name in ("", "page.css", "page.js", "events")} <= ours
    assert {address for address in ours if not address.startswith(f"{site.address}/offload/")} == set()


def test_what_is_shown_is_text(page: Browser, site: Site) -> None:
    """Markup in a statement or a target is shown as it is written, and does nothing."""
    site.get("/markup")
    rollout.set(f"GET:/{MARKUP.replace(' ', '')}", "observe")
    page.wait(lambda page: MARKUP in page.run("return document.querySelector('#blocking').textContent"))
    page.wait(lambda page: "<img" in page.text("#routes-table"))
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert "broken" not in page.run("return document.title")


def test_read_only(window: Browser, site: Site) -> None:
    """Where nobody may change anything there is nothing to press, and the page says why."""
    rollout.set(TARGET, "offload", share=0.5)
    window.open(f"{site.address}/read/")
    window.wait(lambda window: "This page is read-only." in window.text("#routes-more"))
    window.wait(lambda window: "offload 50 %" in window.text("#routes-table"))
    assert window.run("return [...document.querySelectorAll('form')].every((form) => form.hidden)")


def test_more_viewers_than_streams(window: Browser, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gets no stream of events, as others have them all, is shown the figures now and then."""
    monkeypatch.setattr(page_module, "MOST_VIEWERS", 0)
    window.open(f"{site.address}/read/")
    window.wait(lambda window: window.text("#link-text") == "live, every 5 s")
    assert window.text("#pool-now").endswith("of 2")
    window.log("browser")  # the browser itself tells of the answer 503


def test_by_keyboard(page: Browser) -> None:
    """Everything that can be pressed is reached with the Tab key, and the first is a way past the head."""
    tab, enter = "\ue004", "\ue007"
    page.press(tab)
    assert page.run("return document.activeElement.className") == "skip"
    page.press(enter)
    assert page.run("return location.hash") == "#verdicts"
    wanted = {"mode", "share", "submit", "clear"}
    seen = set[str]()
    for _ in range(100):  # routes of other tests of this process may stand before the one that is set
        if not wanted <= seen:
            page.press(tab)
            seen.add(page.run("const e = document.activeElement; return e.name || e.type || e.tagName"))
    assert wanted <= seen
    page.run("document.querySelector('#pause').focus()")
    page.press(" ")
    assert page.text("#link-text") == "paused"
    page.press(" ")
    page.wait(lambda page: page.text("#link-text") == "live, each second")


def test_names(page: Browser) -> None:
    """Every chart and everything that can be pressed or filled in has a name."""
    nameless = """
        const named = (e) => (e.getAttribute('aria-label') || e.innerText || (e.labels || [])[0]);
        return [...document.querySelectorAll('button, a, input, select, svg[role=img]')]
            .filter((e) => e.checkVisibility() && !named(e)).map((e) => e.outerHTML)"""
    assert page.run(nameless) == []


@pytest.mark.parametrize("width", [320, 390, 800])
def test_narrow(width: int, page: Browser) -> None:
    """On a narrow screen nothing is beyond its edge."""
    page.size(width, 800)
    page.wait(lambda page: page.run("return innerWidth") == width)
    page.wait(lambda page: page.run("return document.documentElement.scrollWidth") <= width)


def test_light_and_dark(page: Browser) -> None:
    """It is light or dark as the reader prefers, and text stands out from its ground either way."""
    grounds = []
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        ground, text = page.run(
            "const style = getComputedStyle(document.body); return [style.backgroundColor, style.color]"
        )
        grounds.append(ground)
        assert contrast(ground, text) > 7
        for selector in (".small", "#verdict-list li", ".tile h2", "#lag-chart text"):
            colours = page.run(
                """const e = document.querySelector(arguments[0]), style = getComputedStyle(e);
                let ground = e;
                while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
                return [getComputedStyle(ground).backgroundColor, e.ownerSVGElement ? style.fill : style.color]""",
                selector,
            )
            assert contrast(*colours) > 4.5, (scheme, selector)
    assert grounds[0] != grounds[1]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as the WCAG defines it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def test_the_pool_is_exhausted(page: Browser, site: Site) -> None:
    """While every connection is out and callers wait, the page goes on, and says so first."""
    with site.pool.connection(), site.pool.connection():
        waiting = threading.Thread(target=site.get, args=("/v2/truck/7",))
        waiting.start()
        until(lambda: site.pool.statistics().waiting == 1)
        page.wait(lambda page: "exhausted: 2 of 2 connections are in use" in page.text("#verdict-list li"))
        assert page.text("#verdict-list li b") == "Trouble"
        page.wait(lambda page: page.text("#pool-now").startswith("2 of 2"))
    waiting.join()
    page.wait(lambda page: "exhausted" not in page.text("#verdict-list"))


def test_the_database_is_down(window: Browser, site: Site) -> None:
    """While the server can't be reached, the page is served, and says so."""
    assert site.get("/away") == 500
    window.open(f"{site.address}/away-page/")
    window.wait(lambda window: "the server can't be reached" in window.text("#verdict-list"))


def test_the_loop_stands_still(page: Browser, site: Site) -> None:
    """While the loop that serves the page stands still, the page says that there is no news, and then goes on."""
    stuck = threading.Thread(target=site.get, args=("/stuck",))
    stuck.start()
    page.wait(lambda page: page.text("#verdict-list li").startswith("Trouble\nNo news for"))
    assert page.text("#link-text") == "no news"
    stuck.join()
    page.wait(lambda page: page.text("#link-text") == "live, each second")
    page.wait(lambda page: "The event loop stood still for up to" in page.text("#verdict-list"))
