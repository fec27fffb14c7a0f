"""Claims about the run-time audit: what blocks, with which statement, in which route, and how late the loop is."""

from __future__ import annotations

import functools
import gc
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pymysql
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from dbutils.pooled_db import PooledDB
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from pymysql.cursors import SSCursor

import offload_db
from offload_db import ConfigurationError, OffloadPool, monitor, offload
from offload_db.connection.call_sites import endpoint_of
from offload_db.monitor.report_command import as_text, join
from offload_db.statistics import MOST_PATHS, BlockedCalls, CallPath, Endpoint, SourceLine
from tests.conftest import MySQL
from tests.monitor.inside import OBSERVED
from tests.support import QUICK, in_thread, outcome, pool_of, settled, value

SECRET = "s3cr3t-value"


def line_of(text: str) -> int:
    """Return the number of the line of this file that begins with *text*."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.strip().startswith(text))


def helper(connection: Any, statement: str, *args: Any) -> Any:
    """Execute a statement two calls below the handler."""
    with connection.cursor() as cursor:
        cursor.execute(statement, args or None)  # the helper's line
        return cursor.fetchall()


def seen(pool: OffloadPool, call: str = "execute") -> list[offload_db.BlockingCall]:
    """Return what blocked by the given kind of call."""
    return [each for each in pool.blocking_calls() if each.call == call]


# What a blocking call tells


@pytest.mark.anyio
async def test_statement_without_values(database: dict[str, Any]) -> None:
    """A blocking call names its statement with placeholders, and no value shows, bound or written into the text."""
    with pool_of(1, database, on_loop_call="allow") as pool, pool.connection() as connection:
        for number in range(3):
            helper(connection, "SELECT SLEEP(%s), 'x'", number / 10_000)
        helper(connection, f"SELECT '{SECRET}', 471100114711")
        [inlined, bound] = sorted(seen(pool), key=lambda call: call.count)
        assert (bound.statement, bound.count, bound.file) == ("SELECT SLEEP(%s), ?", 3, __file__)
        assert (bound.line, bound.function) == (line_of("cursor.execute(statement, args or None)"), "helper")
        assert 0 < bound.max_seconds <= bound.seconds
        assert (inlined.statement, inlined.count) == ("SELECT ?, ?", 1)
        assert inlined.seconds == inlined.max_seconds
        shown = json.dumps(monitor.snapshot()) + repr(pool.blocking_calls())
        assert SECRET not in shown
        assert "471100114711" not in shown


@pytest.mark.anyio
async def test_statements_of_other_calls(database: dict[str, Any]) -> None:
    """Procedures, executemany, a connection's own query and rows that are read one by one name their statement."""
    with pool_of(1, database, on_loop_call="allow") as pool, pool.connection() as connection:
        connection.query("CREATE TABLE t (id INT)")
        connection.query("CREATE PROCEDURE p() SELECT 1")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s)", [(1,), (2,)])
            cursor.callproc("p")
            while cursor.nextset():
                pass
        with connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT id FROM t")
            cursor.fetchall()
        connection.commit()
        found = {(call.call, call.statement) for call in pool.blocking_calls()}
        assert {
            ("query", "CREATE TABLE t (id INT)"),
            ("executemany", "INSERT INTO t VALUES (%s)"),
            ("callproc", "CALL p"),
            ("nextset", "CALL p"),
            ("fetch", "SELECT id FROM t"),
            ("commit", None),
            ("connect", None),
        } <= found


@pytest.mark.anyio
async def test_the_way_to_a_call(database: dict[str, Any]) -> None:
    """The snapshot tells by which lines an async def led to the call, and keeps two handlers of one helper apart."""
    with pool_of(1, database, on_loop_call="allow") as pool:

        async def first() -> None:
            with pool.connection() as connection:
                helper(connection, "SELECT 1")  # of the first

        async def second() -> None:
            with pool.connection() as connection:
                helper(connection, "SELECT 1")  # of the second

        await first()
        await second()
        [place] = seen(pool)
        assert (place.function, place.count) == ("helper", 2)
        ours = [call for call in calls_of(monitor.snapshot()) if call["call"] == "execute"]
        stacks = {tuple((line["function"], line["line"]) for line in call["stack"]) for call in ours}
        assert stacks == {
            (("first", _line_with("# of the first")), ("helper", place.line)),
            (("second", _line_with("# of the second")), ("helper", place.line)),
        }


def _line_with(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.endswith(f"  {text}"))


def calls_of(snapshot: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls that this file made; other tests' pools may not be collected yet."""
    return [call for call in snapshot["blocking_calls"] if call["file"] == __file__]


@pytest.fixture(autouse=True)
def no_pools_of_others() -> Iterator[None]:
    gc.collect()
    yield
    gc.collect()


def test_memory_is_bounded() -> None:
    """Ever new statements, routes and places fill a bounded table, and every call and second still counts."""
    calls = BlockedCalls()
    for number in range(5 * MOST_PATHS):
        line = SourceLine("file", number % (3 * MOST_PATHS), "function")
        calls.add(CallPath((line,), None), "execute", f"SELECT c{number}", 0.5)
    assert len(calls.paths()) <= 2 * MOST_PATHS + 1
    assert sum(path.count for path in calls.paths()) == calls.count == 5 * MOST_PATHS
    assert sum(place.seconds for place in calls.places()) == 2.5 * MOST_PATHS


# Routes


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"path": "/truck/7/x", "path_params": {"truck_id": 7}}, "GET /truck/{truck_id}/x"),
        ({"path": "/a/b/c/d", "path_params": {"x": "a/b", "y": "d"}}, "GET /{x}/c/{y}"),
        ({"path": "/1/1", "path_params": {"x": "1", "y": "1"}}, "GET /{x}/{y}"),
        ({"path": "/file-7.txt", "path_params": {"n": 7}}, "GET /file-{n}.txt"),
        ({"path": "/health", "path_params": {}}, "GET /health"),
        ({"path": "/in/5", "path_params": {"i": 5}, "root_path": "/sub", "app_root_path": ""}, "GET /sub/in/{i}"),
        ({"path": "/sub/in/5", "path_params": {"i": 5}, "root_path": "/sub", "app_root_path": ""}, "GET /sub/in/{i}"),
        ({"path": "/proxy/a", "root_path": "/proxy"}, "GET /a"),
        ({"path": "/float/1.50", "path_params": {"x": 1.5}}, "GET /float/{x}0"),
        ({"path": "/float/01", "path_params": {"x": 1.0}}, "GET …"),
        ({"type": "websocket", "method": None, "path": "/ws"}, "WEBSOCKET /ws"),
        ({"path": "/secret/7", "endpoint": None}, None),
        ({"type": "lifespan"}, None),
    ],
)
def test_routes_of_scopes(scope: dict[str, Any], expected: str | None) -> None:
    """A route is shown with its parameters' names, whatever the router says of it; without a router not at all."""
    found = endpoint_of({"type": "http", "method": "GET", "endpoint": test_routes_of_scopes, **scope})
    assert (None if found is None else str(found)) == expected


def raw_query(settings: dict[str, Any]) -> None:
    """Ask over a connection that the library knows nothing of."""
    connection = pymysql.connect(**{**QUICK, **settings})
    helper(connection, "SELECT 1")
    connection.close()


def backend(pool: OffloadPool, settings: dict[str, Any]) -> FastAPI:
    """Make an application with one blocking query in each kind of place."""

    def ask() -> None:
        with pool.connection() as connection:
            helper(connection, "SELECT 1")

    async def dependency() -> None:
        ask()

    router = APIRouter(prefix="/api")

    @router.get("/truck/{truck_id}/sensors")
    async def sensors(truck_id: str) -> str:
        ask()
        return truck_id

    @router.post("/trucks", dependencies=[Depends(dependency)])
    async def depending() -> None: ...

    @router.get("/children")
    async def children() -> None:
        async def child() -> None:
            ask()

        async with anyio.create_task_group() as group:
            group.start_soon(child)

    @router.get("/raw")
    @offload
    async def raw() -> None:
        raw_query(settings)

    @router.get("/free")
    @offload
    async def free() -> None:
        ask()

    app = FastAPI()
    app.include_router(router, prefix="/v1")

    @app.websocket("/live/{truck_id}")
    async def live(socket: WebSocket, truck_id: str) -> None:
        await socket.accept()
        ask()
        await socket.close()

    @app.middleware("http")
    async def middleware(request: Any, call_next: Any) -> Any:
        if request.headers.get("x-check"):
            ask()
        return await call_next(request)

    return app


@pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")
@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "trio"])
def test_routes_of_fastapi(loop: str, database: dict[str, Any]) -> None:
    """Handlers, dependencies, sockets and, with the middleware, child tasks are reported with method and path."""
    if loop != "asyncio":
        pytest.importorskip(loop)
    options: dict[str, Any] = {"backend": "trio" if loop == "trio" else "asyncio"}
    if loop == "uvloop":
        options["backend_options"] = {"use_uvloop": True}
    with pool_of(1, database, on_loop_call="allow") as pool, monitor.observe_pymysql() as observation:
        app = backend(pool, database)
        app.add_middleware(monitor.RequestScope)
        with TestClient(app, **options) as client:
            for number in range(2):
                assert client.get(f"/v1/api/truck/T{number}-{SECRET}/sensors").status_code == 200
            client.post("/v1/api/trucks", headers={"x-check": "1"})
            client.get("/v1/api/children")
            client.get("/v1/api/free")
            client.get("/v1/api/raw")
            with client.websocket_connect("/live/T7"):
                pass
        [place] = seen(pool)
        assert place.endpoints == (
            Endpoint("GET", "/v1/api/children"),
            Endpoint("GET", "/v1/api/truck/{truck_id}/sensors"),
            Endpoint("POST", "/v1/api/trucks"),
            Endpoint("WEBSOCKET", "/live/{truck_id}"),
        )
        assert place.count == 6
        assert {call.endpoints for call in observation.blocking_calls()} == {(Endpoint("GET", "/v1/api/raw"),)}
        handlers = {
            (call["stack"][0]["function"], str(call["endpoint"] and call["endpoint"]["path"]))
            for call in calls_of(monitor.snapshot())
            if call["source"] == "pool" and call["call"] == "execute"
        }
        assert handlers == {
            ("sensors", "/v1/api/truck/{truck_id}/sensors"),
            ("dependency", "/v1/api/trucks"),
            ("middleware", "None"),
            ("child", "/v1/api/children"),
            ("live", "/live/{truck_id}"),
        }
        assert SECRET not in repr(pool.blocking_calls())


@pytest.mark.anyio
async def test_libraries_between_are_passed_over(database: dict[str, Any]) -> None:
    """The place of a call is the user's own line, also below SQLAlchemy."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    with pool_of(1, database, on_loop_call="allow") as pool:
        engine = sqlalchemy.create_engine(
            "mysql+pymysql://", creator=pool.connection, poolclass=sqlalchemy.pool.NullPool
        )
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 42"))  # through the engine
        engine.dispose()
        lines = {(call.file, call.function) for call in pool.blocking_calls()}
        assert lines == {(__file__, "test_libraries_between_are_passed_over")}
        assert _line_with("# through the engine") in {call.line for call in seen(pool)}


# Raw PyMySQL


@pytest.mark.anyio
async def test_raw_connections_are_observed(database: dict[str, Any]) -> None:
    """Connections of PyMySQL and of an unwrapped PooledDB are seen on the loop's thread, without their values."""
    with monitor.observe_pymysql() as observation:
        raw = pymysql.connect(**{**QUICK, **database})
        helper(raw, f"SELECT '{SECRET}', SLEEP(%s)", 0.0001)
        raw.ping()
        raw.commit()
        dbutils = PooledDB(pymysql, maxconnections=1, **{**QUICK, **database})
        with dbutils.connection() as connection:
            helper(connection, "SELECT 2")
        dbutils.close()
        raw.close()
    found = {(call.call, call.function, call.statement): call.count for call in observation.blocking_calls()}
    me = "test_raw_connections_are_observed"
    assert found["query", "helper", "SELECT ?, SLEEP(?)"] == 1
    assert found["query", "helper", "SELECT ?"] == 1
    assert found["ping", me, None] == 1
    assert found["commit", me, None] == 1
    assert len([call for call in observation.blocking_calls() if (call.call, call.function) == ("connect", me)]) == 2
    assert SECRET not in repr(observation.blocking_calls())
    shown = [call for call in calls_of(monitor.snapshot()) if call["source"] == "pymysql"]
    assert {call["stack"][0]["function"] for call in shown} == {me}


@pytest.mark.anyio
async def test_engines_are_observed(database: dict[str, Any]) -> None:
    """What an engine of SQLAlchemy's own does is told apart, and the report says what to write for the engine."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    raw = sqlalchemy.create_engine("mysql+pymysql://", creator=lambda: pymysql.connect(**{**QUICK, **database}))

    def ask() -> None:
        with raw.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 43"))

    @offload
    async def decorated() -> None:
        ask()

    async def plain() -> None:
        ask()

    with monitor.observe_pymysql() as observation:
        await plain()
        await decorated()
        raw.dispose()
        assert any(call.function == "ask" for call in observation.blocking_calls())
        snapshot = monitor.snapshot()
    engines = [call for call in calls_of(snapshot) if call["source"] == "sqlalchemy"]
    assert {call["function"] for call in engines} == {"ask"}
    units = join(None, [{**snapshot, "blocking_calls": engines}])["migrate_next"]
    write = "put its engine on a pool with offload_db.contrib.sqlalchemy.create_engine"
    assert {unit["function"]: unit["remedy"] for unit in units} == {
        "plain": f"{write}, and put @offload_db.offload on it",
        "decorated": f"it is decorated, but its engine's connections are not ours: {write}, or use mode='thread'",
    }


@pytest.mark.anyio
async def test_a_finaliser_is_nobodys(database: dict[str, Any]) -> None:
    """What a dropped connection of DBUtils does when it is collected is not put down to whoever runs just then."""
    with monitor.observe_pymysql() as observation:
        dbutils = PooledDB(pymysql, maxconnections=1, **{**QUICK, **database})
        dropped = dbutils.connection()
        del dropped
        gc.collect()
        dbutils.close()
    [call] = [call for call in observation.blocking_calls() if call.call == "rollback"]
    assert (call.function, Path(call.file).name, call.endpoints) == ("__del__", "pooled_db.py", ())


@pytest.mark.anyio
async def test_unbuffered_rows_are_observed(database: dict[str, Any]) -> None:
    """A row of an unbuffered cursor that has to be waited for counts; the name of its call says so."""
    with monitor.observe_pymysql() as observation:
        raw = pymysql.connect(**{**QUICK, **database})
        with raw.cursor(SSCursor) as cursor:
            cursor.execute("SELECT SLEEP(0.01) UNION ALL SELECT SLEEP(0.01)")
            rows = cursor.fetchall()
        raw.close()
    assert list(rows) == [(0,), (0,)]
    assert {call.call for call in observation.blocking_calls()} <= {"connect", "query", "read_next"}


@pytest.mark.anyio
async def test_what_is_no_raw_call_on_the_loop(database: dict[str, Any]) -> None:
    """Threads block nothing, and what a pool has counted is not counted again."""

    def in_a_thread() -> None:
        raw = pymysql.connect(**{**QUICK, **database})
        helper(raw, "SELECT 1")
        raw.close()

    with pool_of(1, database, on_loop_call="allow") as pool, monitor.observe_pymysql() as observation:
        await outcome(in_thread(in_a_thread))
        with pool.connection() as connection:
            helper(connection, "SELECT 1")

        @offload
        async def handler() -> None:
            with pool.connection() as connection:
                helper(connection, "SELECT 1")

        await handler()
        assert len(seen(pool)) == 1
    assert observation.blocking_calls() == []


@pytest.mark.anyio
async def test_a_raw_connection_in_a_decorated_handler(database: dict[str, Any]) -> None:
    """A decorator does not free the loop from raw connections, and the observation says so."""
    with monitor.observe_pymysql() as observation:

        @offload
        async def handler() -> None:
            raw = pymysql.connect(**{**QUICK, **database})
            helper(raw, "SELECT 1")
            raw.close()

        await handler()
    assert {(call.call, call.count) for call in observation.blocking_calls()} >= {("query", 1), ("connect", 1)}


@pytest.mark.anyio
async def test_pymysql_is_as_it_was(database: dict[str, Any]) -> None:
    """Nested and failed observations share what is seen, and the last to end puts PyMySQL's methods back."""
    owners = {(owner, name): vars(owner)[name] for owner, name in OBSERVED}
    with pytest.raises(ZeroDivisionError), monitor.observe_pymysql() as outer:  # noqa: PT012  # the block is the test
        with monitor.observe_pymysql() as inner:
            assert inner is outer
        assert all(vars(owner)[name] is not method for (owner, name), method in owners.items())
        raw = pymysql.connect(**{**QUICK, **database})
        with pytest.raises(pymysql.err.ProgrammingError):
            helper(raw, "SELEC")
        raw.close()
        raise ZeroDivisionError
    assert all(vars(owner)[name] is method for (owner, name), method in owners.items())
    assert ("query", "SELEC") in {(call.call, call.statement) for call in outer.blocking_calls()}
    with monitor.observe_pymysql() as fresh:
        pass
    assert fresh.blocking_calls() == []


def test_a_later_patch_stays(monkeypatch: pytest.MonkeyPatch, database: dict[str, Any]) -> None:
    """What another tool has put above the observer's methods meanwhile is left in place, and works."""
    calls: list[str] = []
    original = pymysql.connections.Connection.query
    with monitor.observe_pymysql():
        below = pymysql.connections.Connection.query

        @functools.wraps(below)  # takes over all attributes
        def traced(self: Any, sql: Any, *args: Any) -> Any:
            calls.append("traced")
            return below(self, sql, *args)

        monkeypatch.setattr(pymysql.connections.Connection, "query", traced)
    assert pymysql.connections.Connection.query is traced
    raw = pymysql.connect(**{**QUICK, **database})
    assert value(raw, "SELECT 1") == 1
    raw.close()
    assert calls
    monkeypatch.undo()
    pymysql.connections.Connection.query = original  # type: ignore[method-assign]  # as it was


# The loop's lag


def stand_still(seconds: float) -> None:
    """Block whoever calls."""
    time.sleep(seconds)


@pytest.mark.anyio
async def test_lag_counts_whoever_would_have_waited() -> None:
    """While the loop stands still every sample that was due counts, so that percentiles are those of the time."""
    async with monitor.watch(interval=0.005) as watched:
        stand_still(0.02)  # before the sampler has had its first turn
        assert watched.lag().samples >= 2
        before = watched.lag().samples
        stand_still(0.25)
        await settled(lambda: watched.lag().samples > before)
        lag = watched.lag()
        assert lag.max >= 0.24
        assert lag.samples - before >= 45
        assert 0 <= lag.p50 <= lag.p99 <= lag.max
        assert lag.p99 > 0.1
        assert monitor.snapshot()["loop_lag"]["max"] >= 0.24
        # What is due is counted when somebody asks, and at the end: the sampler itself has had no turn yet.
        before = watched.lag().samples
        stand_still(0.05)
        assert watched.lag().samples - before >= 9
        stand_still(0.05)
    assert watched.lag().samples - before >= 18
    ended = watched.lag().samples
    await anyio.sleep(0.02)
    assert watched.lag().samples == ended


@pytest.mark.anyio
async def test_samples_that_are_always_late() -> None:
    """An interval that no loop can keep does the application no harm: the sampler stays a polite task."""
    async with monitor.watch(interval=1e-6) as watched:
        await settled(lambda: watched.lag().samples > 100_000)


@pytest.mark.anyio
async def test_watching_ends_with_its_block() -> None:
    """An error and a cancellation pass through the block as they are, and nothing is left running."""
    with pytest.raises(ZeroDivisionError):
        async with monitor.watch():
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with monitor.watch():
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught if hasattr(scope, "cancelled_caught") else scope.cancel_called


@pytest.mark.parametrize("interval", [0, -1, None, float("inf"), "fast"])
def test_bad_intervals(interval: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"monitor\.watch: interval="):
        monitor.watch(interval=interval)


# Files


@pytest.mark.anyio
async def test_dumps(tmp_path: Path, database: dict[str, Any]) -> None:
    """A dump holds the snapshot as JSON, one file for each process, written as a whole at the end of a watch."""
    with pool_of(1, database, on_loop_call="allow") as pool:
        async with monitor.watch(dump_to=tmp_path / "runtime-{pid}.json"):
            with pool.connection() as connection:
                helper(connection, f"SELECT '{SECRET}'")
        snapshot = monitor.snapshot()
    [file] = tmp_path.iterdir()  # noqa: ASYNC240  # a test may wait for the disk
    assert file.name == f"runtime-{snapshot['pid']}.json"
    text = file.read_text(encoding="utf-8")
    written = json.loads(text)
    assert written["format"] == snapshot["format"] == 1
    assert calls_of(written) == calls_of(snapshot)
    assert set(calls_of(written)[0]) == {
        *("file", "line", "function", "call", "statement", "endpoint", "stack", "source", "decorated"),
        *("count", "seconds", "max_seconds"),
    }
    assert SECRET not in text
    with pytest.raises(FileNotFoundError):
        await anyio.to_thread.run_sync(monitor.dump, tmp_path / "missing" / "runtime.json")


@pytest.mark.anyio
async def test_a_dump_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A dump that can't be written at the end of a watch is logged, and stops no application from ending."""
    async with monitor.watch(dump_to=tmp_path / "missing" / "runtime.json"):
        pass
    [record] = caplog.records
    assert "could not be written" in record.getMessage()


@pytest.mark.filterwarnings("ignore::offload_db.BlockingCallWarning")
@pytest.mark.anyio
async def test_unpooled_connections(database: dict[str, Any]) -> None:
    """Connections of offload_db.connect are part of the snapshot."""
    connection = offload_db.connect(**{**QUICK, **database})
    helper(connection, "SELECT 'unpooled'")
    connection.close()
    shown = {(call["source"], call["call"]) for call in calls_of(monitor.snapshot())}
    assert ("connect", "execute") in shown


# Warnings, in the three ways that could make them come twice or not at all


def test_one_warning_per_place(database: dict[str, Any]) -> None:
    """A place warns once, however many loops run it, one after the other or side by side."""
    import asyncio
    import warnings

    with pool_of(2, database) as pool, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        together = threading.Barrier(2)

        async def ask() -> None:
            with pool.connection() as connection:
                helper(connection, "SELECT 1")

        def side_by_side() -> None:
            together.wait(20)
            asyncio.run(ask())

        for future in [in_thread(side_by_side) for _ in range(2)]:
            future.result(20)
        for _ in range(2):
            asyncio.run(ask())
        lines = [warning.lineno for warning in caught if warning.category is offload_db.BlockingCallWarning]
        assert len(lines) == len(set(lines)) == 2


def test_warnings_as_errors(database: dict[str, Any]) -> None:
    """Where warnings are errors every call of a place raises, before anything is sent, and the pool stays whole."""
    import asyncio

    with pool_of(1, database) as pool:

        async def ask() -> None:
            with pool.connection() as connection:
                helper(connection, "SELECT 1")

        for _ in range(2):
            with pytest.raises(offload_db.BlockingCallWarning, match="blocks the event loop"):
                asyncio.run(ask())
        assert (pool.statistics().in_use, pool.statistics().statements) == (0, 0)
        in_thread(lambda: value(pool.connection(), "SELECT 1")).result(20)


def test_the_warning_names_the_route(database: dict[str, Any]) -> None:
    """A call that blocks is reported with its line, and with the route that it was made for."""
    app = FastAPI()
    with pool_of(1, database) as pool:

        @app.get("/truck/{truck_id}")
        async def truck(truck_id: int) -> int:
            with pool.connection() as connection:
                return int(value(connection, "SELECT 44"))

        with pytest.warns(offload_db.BlockingCallWarning) as caught, TestClient(app) as client:
            assert client.get("/truck/7").json() == 44
    said = [str(one.message) for one in caught]
    wanted = "execute() in value (for GET /truck/{truck_id}) blocks the event loop"
    assert any(wanted in one for one in said), said
    assert not any("/truck/7" in one for one in said)


@pytest.mark.anyio
async def test_waits_for_a_kept_connection(database: dict[str, Any]) -> None:
    """How long a caller waited for a connection that is kept for all is seen by line, and the report adds it up."""
    kept = in_thread(lambda: offload_db.connect(**{**QUICK, **database})).result(20)
    asleep = anyio.Event()

    @offload
    async def first() -> None:
        asleep.set()
        value(kept, "SELECT SLEEP(0.2)")

    @offload
    async def waits() -> None:
        value(kept, "SELECT 1")

    def waited() -> list[dict[str, Any]]:
        return [one for one in monitor.snapshot()["shared_waits"] if one["stack"][0]["function"] == "waits"]

    before = sum(one["count"] for one in waited())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await asleep.wait()
        tasks.start_soon(waits)
    in_thread(kept.close).result(20)
    assert sum(one["count"] for one in waited()) > before
    assert max(one["max_seconds"] for one in waited()) > 0.05
    joined = join(None, [{**monitor.snapshot(), "shared_waits": waited()}])
    assert joined["shared_waits"][0]["seconds"] > 0.05
    shown = as_text(joined)
    assert re.search(r"Waited for a connection that others had.*\n  \d\.\d\d s in \d+ calls, longest", shown)


def test_nothing_is_imported_for_it(mysql: MySQL) -> None:
    """The monitor needs no framework and no extra."""
    from tests.test_exports import EXTRAS, run

    code = "import sys, offload_db.monitor; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    assert not set(run(code).split()) & set(EXTRAS)
