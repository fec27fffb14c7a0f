"""Claims about the live page: what it serves and shows, and that it goes on when nothing else does."""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pymysql
import pytest

from offload_db import ConfigurationError, Lane, OffloadPool, monitor, offload, rollout
from offload_db.contrib.asgi import OffloadMiddleware
from offload_db.contrib.status import StatusPage, page as page_module, tables, windows
from tests.serving import served
from tests.support import Gate, pool_of, value

SECRET = "s3cr3t-value"


class Answer:
    """What an ASGI application has sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take one message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): text.decode() for name, text in message["headers"]}
        else:
            self.body += message.get("body", b"")

    @property
    def json(self) -> Any:
        """Return the body's value."""
        return json.loads(self.body)


async def ask(
    app: Any,
    path: str,
    method: str = "GET",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    root_path: str = "",
    leaves: anyio.Event | None = None,
    into: Answer | None = None,
) -> Answer:
    """Send a request to an application; its client stays until *leaves* is set, for ever without."""
    answer = into or Answer()
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": body}
        await (leaves or anyio.Event()).wait()
        return {"type": "http.disconnect"}

    encoded = [(name.lower().encode(), text.encode()) for name, text in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "root_path": root_path, "headers": encoded}
    await app({**scope, "query_string": b"", "scheme": "http"}, receive, answer.send)
    return answer


def events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    """Return the events of a stream."""
    blocks = [block for block in answer.body.decode().split("\n\n") if block.startswith("event: ")]
    return [
        (block.split("\n")[0].removeprefix("event: "), json.loads(block.partition("\ndata: ")[2])) for block in blocks
    ]


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool with a lane."""
    with pool_of(2, database, lanes=[Lane("reports", 1)], on_loop_call="allow") as pool:
        yield pool


# What is served


@pytest.mark.anyio
async def test_each_path(pool: OffloadPool) -> None:
    """The page and its files are served with headers that let nothing else in; other paths and methods are refused."""
    app = StatusPage(pool)
    kinds = {"/": "text/html", "/page.css": "text/css", "/page.js": "text/javascript", "/icon.svg": "image/svg+xml"}
    kinds |= {f"/{name}.js": "text/javascript" for name in ("charts", "elements", "past")}
    kinds["/state.json"] = "application/json"
    for path, kind in kinds.items():
        answer = await ask(app, path)
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, kind)
        assert int(answer.headers["content-length"]) == len(answer.body) > 0
        policy = dict(each.strip().partition(" ")[::2] for each in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "no-store" in answer.headers["cache-control"]
        head = await ask(app, path, "HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == answer.headers["content-type"]
        refused = await ask(app, path, "DELETE")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (await ask(app, "/events", "HEAD")).headers["content-type"].startswith("text/event-stream")
    assert (await ask(app, "/rollout")).headers["allow"] == "POST"
    assert (await ask(app, "/passwd")).status == 404
    assert "set-cookie" not in (await ask(app, "/")).headers  # nothing can be changed here


def test_nothing_is_inline_or_elsewhere() -> None:
    """The page's own files name no other host, and have no script or style that the policy would stop."""
    for file in Path(page_module.__file__).parent.iterdir():
        if file.suffix in (".html", ".css", ".js", ".svg"):
            text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert "//" not in "".join(line.partition("// ")[0] for line in text.splitlines() if "https:" in line)
            assert "http:" not in text
            assert ' style="' not in text
            assert "innerHTML" not in text
            assert " onclick=" not in text


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/offload/state.json", "/offload"),
        ("/a/b/state.json", "/a/b"),
        ("/state.json", "/stripped"),
        ("/state.json", ""),
    ],
)
@pytest.mark.anyio
async def test_below_a_mount(path: str, root_path: str) -> None:
    """It finds its paths below a mount, whether the framework leaves the mount's own in the path or not."""
    assert (await ask(StatusPage(), path, root_path=root_path)).status == 200
    moved = await ask(StatusPage(), "/x/offload", root_path="/x/offload")
    assert (moved.status, moved.headers["location"]) == (307, "offload/")


@pytest.mark.anyio
async def test_below_the_middleware(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of events is served below a middleware that bridges every request."""
    monkeypatch.setattr(page_module, "STREAM_SECONDS", 0.05)
    monkeypatch.setattr(page_module, "TICK", 0.02)
    answer = await ask(OffloadMiddleware(StatusPage(pool)), "/events")
    assert [kind for kind, _ in events(answer)][:2] == ["all", "some"]


def test_by_itself() -> None:
    """A server can serve it alone, as an application of its own."""
    pytest.importorskip("uvicorn")
    with (
        served(StatusPage(), lifespan="on") as address,
        urllib.request.urlopen(f"{address}/state.json", timeout=20) as response,
    ):
        assert json.loads(response.read())["now"]["totals"]["processes"] == 1


@pytest.mark.anyio
async def test_no_websocket() -> None:
    """A WebSocket is closed: there is none."""
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await StatusPage()({"type": "websocket", "path": "/"}, anyio.sleep_forever, send)  # type: ignore[arg-type]  # not called
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_mounted_by_a_framework() -> None:
    """FastAPI serves it where it is mounted, also inside of another mount."""
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    outer, inner = FastAPI(), FastAPI()
    inner.mount("/offload", StatusPage())
    outer.mount("/api", inner)
    with TestClient(outer) as client:
        assert client.get("/api/offload").url.path == "/api/offload/"
        assert "<title>offload_db</title>" in client.get("/api/offload/").text
        assert client.get("/api/offload/page.js").headers["content-type"].startswith("text/javascript")
        assert client.get("/api/offload/state.json").json()["now"]["totals"]["processes"] == 1


# What is shown


@offload
async def query(pool: OffloadPool, statement: str, lane: str | None = None) -> None:
    with pool.connection(lane=lane) as connection:
        value(connection, statement)


async def blocks(pool: OffloadPool) -> None:
    with pool.connection() as connection:
        value(connection, f"SELECT '{SECRET}', 471100114711")


def stand_still(seconds: float) -> None:
    time.sleep(seconds)


@pytest.mark.anyio
async def test_the_figures(pool: OffloadPool, database: dict[str, Any]) -> None:
    """It tells what the pool's statistics tell, where the loop was blocked, and no value and no setting."""
    app = StatusPage(pool)
    rollout.set("*", "observe")
    async with monitor.watch(interval=0.005):
        held = await pool.acquire(lane="reports")
        await query(pool, "SELECT 1")
        await blocks(pool)
        stand_still(0.15)
        state = (await ask(app, "/state.json")).json
        await pool.release(held)
    now = pool.statistics()
    totals = state["now"]["totals"]
    assert (totals["size"], totals["in_use"], totals["open"]) == (2, 1, 2)
    assert totals["ever"]["statements"] == now.statements
    [process] = state["now"]["processes"]
    assert (process["pid"], process["mine"], process["state"]) == (os.getpid(), True, "live")
    assert process["pools"][0]["lanes"] == [{"name": "reports", "limit": 1, "in_use": 1, "waiting": 0}]
    assert process["lag"]["worst"] >= 0.14
    assert any("stood still" in each["text"] for each in state["now"]["verdicts"])
    unit = next(unit for unit in state["blocking"]["units"] if unit["function"] == "blocks")
    [site] = [site for site in unit["sites"] if site["call"] == "execute"]
    assert site["statement"] == "SELECT ?, ?"
    assert unit["link"].startswith(f"vscode://file{__file__}:")
    assert unit["place"] == f"tests/contrib/test_status.py:{unit['link'].rpartition(':')[2]}"
    route = next(route for route in state["routes"] if route["target"] == "*")
    assert (route["mode"], route["share"], route["source"]) == ("observe", 1.0, "call")
    assert [arm["mode"] for arm in route["arms"]] == ["observe"]
    shown = json.dumps(state) + (await ask(app, "/")).body.decode()
    for hidden in (SECRET, "471100114711", database["password"], str(database["port"]), database["database"]):
        assert hidden not in shown


@pytest.mark.anyio
async def test_events(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A viewer is sent everything, then what has changed; the stream ends by itself, for the browser to ask anew."""
    monkeypatch.setattr(page_module, "STREAM_SECONDS", 0.35)
    monkeypatch.setattr(page_module, "TICK", 0.1)
    app = StatusPage(pool)
    answer = await ask(app, "/events")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.body.startswith(b"retry: 100\n\n")
    (first, everything), *others = events(answer)
    assert first == "all"
    assert {"may", "now", "points", "routes", "blocking", "burn_down", "problems"} <= set(everything)
    assert everything["may"] == {"change": False}
    assert len(others) >= 2
    for kind, parts in others:
        assert kind == "some"
        assert {"now", "point"} >= set(parts) - {"routes"}
    assert any({"now", "point"} <= set(parts) for _, parts in others)


@pytest.mark.anyio
async def test_viewers_are_bounded(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most viewers one is told to come back, and comes in when another has left."""
    monkeypatch.setattr(page_module, "MOST_VIEWERS", 1)
    app = StatusPage(pool)
    left, first = anyio.Event(), Answer()
    async with anyio.create_task_group() as group:
        group.start_soon(functools.partial(ask, app, "/events", leaves=left, into=first))
        while b"event: all" not in first.body:  # noqa: ASYNC110  # the answer signals nobody
            await anyio.sleep(0.001)
        refused = await ask(app, "/events")
        assert (refused.status, refused.headers["retry-after"]) == (503, "10")
        left.set()
    gone = anyio.Event()
    gone.set()
    assert (await ask(app, "/events", leaves=gone)).status == 200


@pytest.mark.anyio
async def test_a_viewer_that_takes_nothing(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is there, but does not read, loses its place after a while."""
    monkeypatch.setattr(page_module, "MOST_VIEWERS", 1)
    monkeypatch.setattr(page_module, "STREAM_SECONDS", 0.1)
    monkeypatch.setattr(page_module, "TO_TAKE_IT", 0.1)
    app = StatusPage(pool)

    class Stuck(Answer):
        async def send(self, message: Mapping[str, Any]) -> None:
            await super().send(message)
            if self.body:
                await anyio.sleep_forever()

    with anyio.fail_after(20):
        assert (await ask(app, "/events", into=Stuck())).status == 200
        assert (await ask(app, "/events")).status == 200


@pytest.mark.anyio
async def test_a_sample_for_all(pool: OffloadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Viewers share one sample a second, taken off the loop, and nothing is sampled while nobody looks."""
    taken: list[int] = []
    original = monitor.snapshot

    def counted(*pools: OffloadPool) -> dict[str, Any]:
        taken.append(threading.get_ident())
        return original(*pools)

    monkeypatch.setattr(monitor, "snapshot", counted)
    app = StatusPage(pool)
    await anyio.sleep(0.02)
    assert not taken
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask, app, "/state.json")
    assert len(taken) == 1
    assert threading.get_ident() not in taken


def test_rows_are_bounded() -> None:
    """Of very many routes those that are set are shown, and those that were called most, and the rest is counted."""
    histogram = {"buckets": [[None, 1]], "max": 0.1, "count": 1, "sum": 0.1}
    arm = {"calls": 1, "errors": {}, "durations": histogram, "loop_time": 0.0}
    row = {"mode": "offload", "share": 1.0, "source": "default", "reverted": None, "rule": None}
    rows = [{**row, "target": f"GET:/{n}", "arms": {"offload": {**arm, "calls": n}}} for n in range(500)]
    rows.append({**row, "target": "POST:/set", "rule": "POST:/set", "arms": {}})
    track = windows.Track()
    track.add({"time": 1.0, "hops": 0, "rollout": rows})
    shown, more = tables.routes([{"id": "one", "snapshot": {"pid": 1}}], {"one": track})
    assert more == 501 - len(shown) > 400
    assert [each["target"] for each in shown[:3]] == ["POST:/set", "GET:/499", "GET:/498"]


def test_windows() -> None:
    """Percentiles lie within their bucket, and what was before is left out."""
    then = {"buckets": [[0.01, 90], [0.1, 90], [None, 90]], "max": 0.009, "count": 90}
    now = {"buckets": [[0.01, 90], [0.1, 100], [None, 101]], "max": 0.7, "count": 101}
    spread = windows.spread(now, then)
    assert spread["count"] == 11
    assert 0.01 < spread["p50"] < 0.1
    assert 0.1 < spread["p99"] <= 0.7
    assert windows.spread(now)["p50"] < 0.01
    assert windows.spread(then, then) == {"count": 0, "p50": None, "p95": None, "p99": None}


# When nothing else goes on


@pytest.mark.anyio
async def test_while_the_pool_and_the_threads_are_exhausted(pool: OffloadPool) -> None:
    """It answers while every connection is out, callers wait, and no thread of anyio's is free; and says so."""
    app = StatusPage(pool)
    gate = Gate()
    held = [await pool.acquire(), await pool.acquire()]
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as group:
        for _ in range(int(limiter.total_tokens)):
            group.start_soon(anyio.to_thread.run_sync, gate)
        group.start_soon(query, pool, "SELECT 1")
        while pool.statistics().waiting == 0 or limiter.available_tokens:  # noqa: ASYNC110  # nobody signals it
            await anyio.sleep(0.001)
        with anyio.fail_after(10):
            state = (await ask(app, "/state.json")).json
        gate.open()
        for each in held:
            await pool.release(each)
    assert {
        "level": "bad",
        "text": "Pool is exhausted: 2 of 2 connections are in use, and 1 caller waits",
    } in state["now"]["verdicts"]


@pytest.mark.anyio
async def test_while_the_database_is_down() -> None:
    """It answers while nothing listens where the server was, and says that it can't be reached."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    nowhere = {"host": "127.0.0.1", "port": port, "user": "u", "password": "p", "checkout_timeout": 0.5}
    with pool_of(1, nowhere) as pool:
        with pytest.raises(pymysql.err.OperationalError):
            await query(pool, "SELECT 1")
        state = (await ask(StatusPage(pool), "/state.json")).json
    assert state["now"]["processes"][0]["pools"][0]["server_away"] is True
    assert any("can't be reached" in each["text"] for each in state["now"]["verdicts"])


# Other processes


def written(file: Path, pool: OffloadPool, **changes: Any) -> None:
    """Write what another process would have, of which this one's pool is."""
    snapshot = {**monitor.snapshot(pool), "pid": 1, "again_in": 2.0, **changes}
    file.write_text(json.dumps(snapshot), encoding="utf-8")


@pytest.mark.anyio
async def test_other_processes(tmp_path: Path, pool: OffloadPool) -> None:
    """Processes that write what they see are shown with this one, told apart, and said to be silent or ended."""
    await query(pool, "SELECT 1")
    await blocks(pool)
    written(tmp_path / "a.json", pool, pid=11)
    written(tmp_path / "b.json", pool, pid=12, time=time.time() - 60)
    written(tmp_path / "c.json", pool, pid=13, again_in=None)
    written(tmp_path / "own.json", pool, pid=os.getpid())
    written(tmp_path / "long-gone.json", pool, pid=14, time=time.time() - 7200)
    (tmp_path / "torn.json").write_text('{"blocking_calls": [', encoding="utf-8")
    app = StatusPage(pool, dumps=tmp_path)
    state = (await ask(app, "/state.json")).json
    found = {each["pid"]: each["state"] for each in state["now"]["processes"]}
    assert found == {os.getpid(): "live", 11: "live", 12: "silent", 13: "ended"}
    totals = state["now"]["totals"]
    assert totals["processes"] == 2
    assert totals["ever"]["statements"] == 2 * pool.statistics().statements
    assert any("pid 12" in each["text"] and "nothing for 60 s" in each["text"] for each in state["now"]["verdicts"])
    unit = next(unit for unit in state["blocking"]["units"] if unit["function"] == "blocks")
    assert unit["count"] == 2 * pool.statistics().blocking_calls
    [problem] = state["problems"]
    assert "torn.json" in problem


@pytest.mark.anyio
async def test_files_of_another_version(tmp_path: Path, pool: OffloadPool) -> None:
    """What another version may have written is left out, and told; this process is shown all the same."""
    written(tmp_path / "a.json", pool, pools=[{"size": "five"}])
    state = (await ask(StatusPage(pool, dumps=tmp_path), "/state.json")).json
    assert len(state["now"]["processes"]) == 1
    assert "not what this version writes" in state["problems"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"time": 10**400},
        {"lag_recent": [[1e9, float("nan")]]},
        {"lag_recent": [[1e9, float("inf")]]},
        {"pools": []},
        {"rollout": 5},
        {"blocking_calls": [{"file": "<script>"}]},
        {"host": "<script>", "pid": {"a": []}, "time": "now"},
    ],
)
@pytest.mark.anyio
async def test_files_that_are_forged(tmp_path: Path, pool: OffloadPool, changes: dict[str, Any]) -> None:
    """Whatever stands in the other processes' files, the page is served, as JSON that browsers read."""
    written(tmp_path / "a.json", pool, **changes)
    await _is_read(StatusPage(pool, dumps=tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        '{"blocking_calls": ' + "[" * 100_000,
        '{"findings": ' + "[" * 100_000,
        '{"findings": [], "blocking_calls": [], "summary": [1]}',
        '{"findings": [], "blocking_calls": [], "summary": {"handlers_blocking": 1, "handlers": NaN}}',
        '{"findings": [], "blocking_calls": [], "summary": {"handlers_blocking": 1, "handlers": 1e999}}',
        '{"findings": [1, {"file": 3, "line": {}}], "blocking_calls": [], "summary": null}',
    ],
    ids=range(6),
)
@pytest.mark.anyio
async def test_audits_that_are_forged(tmp_path: Path, pool: OffloadPool, text: str) -> None:
    """The same holds for the audits' files."""
    await blocks(pool)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    await _is_read(StatusPage(pool, audit=tmp_path, dumps=tmp_path))


async def _is_read(app: StatusPage) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for _ in range(2):
        answer = await ask(app, "/state.json")
        assert answer.status == 200
        state = json.loads(answer.body, parse_constant=refuse)
        assert os.getpid() in [each["pid"] for each in state["now"]["processes"]]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.anyio
async def test_a_pipe_among_the_files(tmp_path: Path, pool: OffloadPool) -> None:
    """What nobody will ever write into is not waited for."""
    os.mkfifo(tmp_path / "a.json")
    with anyio.fail_after(20):
        assert (await ask(StatusPage(pool, dumps=tmp_path, audit=tmp_path), "/state.json")).status == 200


@pytest.mark.anyio
async def test_the_burn_down(tmp_path: Path) -> None:
    """Audits are shown in the order of the days in their names, or of when they were written; what is none is told."""
    for number, name in enumerate(("2026-03-01.json", "audit-20260201T0930.json", "2025-12-24_b.json")):
        summary = {"handlers": 9, "handlers_blocking": number, "handlers_migrated": 9 - number, "open": number}
        (tmp_path / name).write_text(json.dumps({"findings": [], "summary": summary}), encoding="utf-8")
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    state = (await ask(StatusPage(audit=str(tmp_path / "*.json")), "/state.json")).json
    assert [each["handlers_blocking"] for each in state["burn_down"]] == [2, 1, 0]
    assert state["burn_down"][0]["file"] == "2025-12-24_b.json"
    assert "other.json" in state["problems"][0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audit": 3}, "audit=3"),
        ({"dumps": b"x"}, "dumps="),
        ({"allow_changes": True}, "allow_changes="),
        ({"link": "javascript:alert({line})//{file}"}, "link="),
        ({"link": "https://example.com/"}, "link="),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"StatusPage: {message}"):
        StatusPage(**settings)


def test_what_is_no_pool() -> None:
    with pytest.raises(ConfigurationError, match="accepted are OffloadPool objects"):
        StatusPage("pool")  # type: ignore[arg-type]  # the mistake that is tested


@pytest.mark.anyio
async def test_what_the_rollout_leaves_as_it_was(pool: OffloadPool) -> None:
    """What blocks as the rollout has it run as before is not to be decorated, but to be given a larger share."""
    rollout.set(f"{__name__}.query", "observe")
    await query(pool, "SELECT 1")
    await blocks(pool)
    units = (await ask(StatusPage(pool), "/state.json")).json["blocking"]["units"]
    remedies = {unit["function"]: unit["remedy"] for unit in units}
    assert remedies["query"] == "the rollout has some of its calls run as before: raise its share"
    assert remedies["blocks"] == "put @offload_db.offload on it"


@pytest.mark.anyio
async def test_links_to_a_repository(pool: OffloadPool) -> None:
    """The address of a line can be anything that has its file and its number."""
    await blocks(pool)
    app = StatusPage(pool, link="https://example.com/blob/main/{path}#L{line}")
    units = (await ask(app, "/state.json")).json["blocking"]["units"]
    unit = next(unit for unit in units if unit["function"] == "blocks")
    assert unit["link"].startswith("https://example.com/blob/main/")
    assert unit["link"].endswith(f"test_status.py#L{unit['place'].rpartition(':')[2]}")
    assert (await ask(StatusPage(pool, link=None), "/state.json")).json["blocking"]["units"][0]["link"] is None
