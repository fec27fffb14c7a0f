"""A statement that runs past its time is killed wherever it was called, and the error is honest about it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor

from offload_db import CheckoutTimeout, Lane, OffloadPool, StatementTimeout, connect, offload
from offload_db.bridge.hops import Hop
from offload_db.connection import killer
from offload_db.connection.killer import TURN
from offload_db.drivers.pymysql import PyMySQLDriver
from offload_db.pool import idle
from offload_db.pool.connector import Connector
from offload_db.pool.throttle import AT_ONCE
from tests.conftest import MySQL
from tests.inside import core, looks_at_timers, timers
from tests.support import attempt, in_thread, outcome, pool_of, settled, until, value

from .checks import assert_ended, checked, serve
from .proxy import Proxy
from .storms import the_general_way

pytestmark = pytest.mark.anyio

LONG = "SELECT SLEEP(50)"

WAYS = pytest.mark.parametrize("way", ["bridge", "thread", "def", "plain"])


def handler_of(way: str, body: Callable[[], Any], **options: Any) -> Callable[[], Awaitable[Any]]:
    """Make a handler of *body*: bridged, as a whole in a thread, a decorated def, or a thread of its own."""
    if way == "plain":
        assert not options
        return lambda: outcome(in_thread(body))
    if way == "def":

        @offload(**options)
        def plain() -> Any:
            return body()

        return plain

    @offload(mode="thread" if way == "thread" else "bridge", **options)
    async def handler() -> Any:
        return body()

    return handler


def run(pool: OffloadPool, statement: str, lane: str | None = None, cursor_class: Any = None) -> Any:
    with pool.connection(lane=lane) as connection, connection.cursor(cursor_class) as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


@WAYS
async def test_limits_that_are_not_over(way: str, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred limited statements start one thread at most, which waits for all limits and hardly ever wakes."""

    def body() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            for _ in range(100):
                cursor.execute("SELECT 1")

    names: list[str] = []
    start, looks = threading.Thread.start, looks_at_timers(monkeypatch)

    def starting(thread: threading.Thread) -> None:
        names.append(thread.name)
        start(thread)

    with pool_of(2, database, statement_timeout=20.0, leak_warning=30.0) as pool:
        monkeypatch.setattr(threading.Thread, "start", starting)
        await handler_of(way, body)()
        await handler_of(way, body)()
        assert [name for name in names if name.startswith("offload_db")] in ([], ["offload_db timer"])
        assert len(looks) < 10
        assert timers() == 0


@WAYS
@pytest.mark.parametrize("general", [False, True], ids=["by query id", "general way"])
async def test_the_pools_statement_timeout(way: str, general: bool, database: dict[str, Any], mysql: MySQL) -> None:
    """A statement past the pool's statement_timeout is killed; the error says so, and the same link goes on."""

    def body() -> tuple[StatementTimeout, Any]:
        with pool.connection() as connection:
            before = value(connection, "SELECT CONNECTION_ID()")
            with pytest.raises(StatementTimeout) as caught:
                value(connection, LONG)
            assert value(connection, "SELECT CONNECTION_ID()") == before
            return caught.value, value(connection, "SELECT SLEEP(0)")

    with the_general_way() if general else pool_of(1, database), pool_of(2, database, statement_timeout=0.3) as pool:
        started = time.monotonic()
        error, after = await handler_of(way, body)()
        assert time.monotonic() - started < 10
        assert after == 0
        bases: tuple[type, ...] = (TimeoutError, pymysql.err.OperationalError)
        assert all(isinstance(error, base) for base in bases)
        assert error.may_have_run
        assert "0.30 s" in str(error)
        assert "killed" in str(error)
        assert_ended(mysql, LONG)
        now = pool.statistics()
        assert (now.timeouts, now.kills, now.kills_failed, now.cancelled) == (1, 1, 0, 0)
        assert now.discards == {}
        await checked(pool, mysql, database["database"])


@WAYS
async def test_the_lanes_statement_timeout(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """A lane's statement_timeout holds for its own statements, and the pool's for the others."""
    lanes = [Lane("quick", 1, statement_timeout=0.2)]
    with pool_of(2, database, statement_timeout=40.0, lanes=lanes) as pool:
        with pytest.raises(StatementTimeout, match=r"0\.20 s"):
            await handler_of(way, lambda: run(pool, LONG, "quick"))()
        await handler_of(way, lambda: run(pool, "SELECT SLEEP(0.3)"))()
        assert_ended(mysql, LONG)
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_one_deadline_over_many_statements(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """@offload(timeout=…) limits a call's statements together: the one that crosses it is killed."""

    def body() -> None:
        with pool.connection() as connection:
            for seconds in (0.1, 0.1, 0.95):  # none of them takes all of the time, and the last one most of it
                value(connection, f"SELECT SLEEP({seconds})")
                done.append(True)

    done: list[bool] = []
    with pool_of(2, database) as pool:
        with pytest.raises(StatementTimeout, match=r"timeout of 1\.00 s for the whole call .* s executing") as caught:
            await handler_of(way, body, timeout=1.0)()
        assert len(done) == 2
        assert caught.value.may_have_run
        assert pool.statistics().discards == {}
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_the_deadline_covers_waiting(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """Where waiting for a connection takes the time, the error is a CheckoutTimeout after that time."""
    with pool_of(1, database) as pool:
        holder = await outcome(in_thread(pool.connection))
        started = time.monotonic()
        with pytest.raises(CheckoutTimeout, match=r"no connection within 0\.[23]\d s \(1 of 1 in use"):
            await handler_of(way, lambda: run(pool, "SELECT 1"), timeout=0.3)()
        assert 0.25 < time.monotonic() - started < 10
        await outcome(in_thread(holder.close))
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_the_deadline_covers_connecting(way: str, proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """Where opening a connection takes the time, the call ends with its deadline and says so; the slot comes back."""
    with pool_of(1, through, connect_timeout=9) as pool:
        proxy.deaf = True
        started = time.monotonic()
        with pytest.raises(CheckoutTimeout, match=r"timeout of 0\.30 s .* connecting"):
            await handler_of(way, lambda: run(pool, "SELECT 1"), timeout=0.3)()
        assert time.monotonic() - started < 6
        proxy.deaf = False
        await settled(lambda: pool.statistics().in_use == 0)
        await settled(lambda: _answers(pool))
        await checked(pool, mysql, through["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_the_deadline_covers_connecting_without_a_pool(way: str, proxy: Proxy, through: dict[str, Any]) -> None:
    """A connection that belongs to no pool is waited for no longer, and none stays open; later ones have time again."""
    proxy.deaf = True
    started = time.monotonic()
    with pytest.raises(CheckoutTimeout, match=r"timeout of 0\.30 s .* connecting"):
        await handler_of(way, lambda: connect(**through), timeout=0.3)()
    assert time.monotonic() - started < 5
    proxy.deaf = False

    def limits() -> Any:
        with connect(**through) as connection:
            raw: Any = connection.driver_connection
            return raw._read_timeout, raw.connect_timeout

    assert await handler_of(way, limits, timeout=9.0)() == (None, 10)


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_the_deadline_covers_a_sign_of_life(
    way: str, proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking a link that has rested long takes no longer than the deadline; links that were not asked stay."""
    monkeypatch.setattr(idle, "PING_AFTER", 0.0)
    with pool_of(3, through) as pool:
        await outcome(in_thread(lambda: serve(pool)))
        proxy.blackhole()
        started = time.monotonic()
        with pytest.raises(CheckoutTimeout, match=r"timeout of 0\.30 s .* connecting"):
            await handler_of(way, lambda: run(pool, "SELECT 1"), timeout=0.3)()
        assert time.monotonic() - started < 4
        assert pool.statistics().discards == {"dead_idle": 1}
        proxy.flow()
        await checked(pool, mysql, through["database"])


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # all who wait are threads
async def test_the_deadline_covers_the_turn_to_connect(proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """Threads wait for others to connect no longer than their own time lasts, and their lateness is theirs alone."""
    with pool_of(6, through, connect_timeout=3) as pool:
        proxy.deaf = True
        others = [in_thread(lambda: attempt(pool.connection)) for _ in range(AT_ONCE)]
        await settled(lambda: proxy.accepted == AT_ONCE)
        with pytest.raises(CheckoutTimeout, match=r"timeout of 0\.30 s .* connecting"):
            await handler_of("thread", lambda: run(pool, "SELECT 1"), timeout=0.3)()
        assert not any(other.done() for other in others), "it has waited for those who came before"
        for other in others:
            await outcome(other)
        proxy.deaf = False
        await settled(lambda: _answers(pool))
        await outcome(in_thread(core(pool).idle.close_all))
        proxy.deaf = True
        with pytest.raises(CheckoutTimeout):
            await handler_of("thread", lambda: run(pool, "SELECT 1"), timeout=0.3)()
        proxy.deaf = False
        assert await outcome(in_thread(lambda: run(pool, "SELECT 1"))) == ((1,),)
        await checked(pool, mysql, through["database"])


async def test_a_connection_that_comes_just_after_its_time(
    database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to rest for the next one, and does not belong to the caller who was given up as well."""
    given_up = threading.Event()
    leave, connect = Hop.detach, Connector.connect

    def leave_and_wait(trip: Hop[Any], late: Callable[[], None]) -> bool:
        left = leave(trip, late)
        given_up.set()
        until(lambda: trip.back)
        return left

    def connect_late(connector: Connector, seconds: float | None, **_: Any) -> Any:
        assert given_up.wait(20)
        return connect(connector, None)

    monkeypatch.setattr(Hop, "detach", leave_and_wait)
    monkeypatch.setattr(Connector, "connect", connect_late)
    with pool_of(1, database) as pool:
        with pytest.raises(CheckoutTimeout, match=r"timeout of 0\.10 s .* connecting"):
            await handler_of("bridge", lambda: run(pool, "SELECT 1"), timeout=0.1)()
        await settled(lambda: pool.statistics().in_use == 0)
        assert (pool.statistics().open, pool.statistics().idle) == (1, 1)
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_the_deadline_covers_fetching(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """Where fetching takes the time, the statement is killed and the error says that it was the fetching."""
    slow = "SELECT seq, IF(seq < 5000, REPEAT('x', 1000), SLEEP(50)) FROM seq_1_to_200000"

    def body() -> None:
        with pool.connection() as connection:
            cursor = connection.cursor(SSCursor)
            cursor.execute(slow)
            while cursor.fetchmany(1000):
                pass

    with pool_of(1, database) as pool:
        with pytest.raises(StatementTimeout, match=r"fetch was killed: .* executing, .* fetching"):
            await handler_of(way, body, timeout=1.0)()
        assert_ended(mysql, "seq_1_to_200000")
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("way", ["bridge", "thread", "def"])
async def test_a_deadline_that_is_over_sends_nothing(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """After the deadline no further statement is sent, and its error says that it did not run."""
    name = database["database"]

    def body() -> StatementTimeout:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id INT)")
            time.sleep(0.5)  # the call's own work  # noqa: ASYNC251,RUF100
            with pytest.raises(StatementTimeout) as caught:
                cursor.execute("INSERT INTO t VALUES (1)")
            return caught.value

    with pool_of(1, database) as pool:
        error = await handler_of(way, body, timeout=0.4)()
        assert not error.may_have_run
        assert "was not sent" in str(error)
        with mysql.connect() as plain:
            assert value(plain, f"SELECT COUNT(*) FROM {name}.t") == 0
        await checked(pool, mysql, name)


async def test_a_nested_call_keeps_the_shorter_limit(database: dict[str, Any], mysql: MySQL) -> None:
    """Of the timeouts of a call and of the one that called it, the one that is over first holds."""
    with pool_of(1, database) as pool:

        @offload(timeout=40.0)
        async def inner() -> None:
            run(pool, LONG)

        @offload(timeout=0.3)
        async def outer() -> None:
            await inner()

        @offload(timeout=0.3)
        async def short() -> None:
            run(pool, LONG)

        @offload(timeout=40.0)
        async def long() -> None:
            await short()

        for handler in (outer, long):
            started = time.monotonic()
            with pytest.raises(StatementTimeout, match=r"0\.30 s"):
                await handler()
            assert time.monotonic() - started < 10
        await checked(pool, mysql, database["database"])


@WAYS
async def test_a_transaction_after_a_timeout(way: str, database: dict[str, Any], mysql: MySQL) -> None:
    """A timed-out statement does not end its transaction: the caller may still commit or roll back the rest."""
    name = database["database"]

    def body(end: str) -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (%s)", (end,))
            with pytest.raises(StatementTimeout):
                cursor.execute("INSERT INTO t SELECT CONCAT('late', SLEEP(50))")
            if end == "commit":
                connection.commit()

    with (
        mysql.connect(database=None) as plain,
        pool_of(1, database, autocommit=False, statement_timeout=0.3) as pool,
    ):
        plain.cursor().execute(f"CREATE TABLE {name}.t (text VARCHAR(20)) ENGINE=InnoDB")
        await handler_of(way, lambda: body("commit"))()
        await handler_of(way, lambda: body("nothing"))()
        cursor = plain.cursor()
        cursor.execute(f"SELECT text FROM {name}.t")
        assert cursor.fetchall() == (("commit",),)
        await checked(pool, mysql, name)


@WAYS
async def test_a_blackholed_link(
    way: str, proxy: Proxy, through: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a link that swallows everything a statement_timeout costs a bounded wait; the link is cut and counted."""
    monkeypatch.setattr(killer, "PATIENCE", 0.7)  # what the library grants a kill; not waited for in full here

    def body() -> StatementTimeout:
        with pool.connection() as connection:
            value(connection, "SELECT 1")
            proxy.blackhole()
            with pytest.raises(StatementTimeout) as caught:
                value(connection, "SELECT 2")
            return caught.value

    with pool_of(1, through, statement_timeout=0.3, connect_timeout=2) as pool:
        started = time.monotonic()
        error = await handler_of(way, body)()
        assert time.monotonic() - started < 10
        assert error.may_have_run
        assert "cut" in str(error)
        now = pool.statistics()
        assert (now.kills, now.kills_failed) == (0, 1)
        assert sum(now.discards.values()) == 1
        proxy.flow()
        await settled(lambda: _answers(pool))
        await checked(pool, mysql, through["database"])


def _answers(pool: OffloadPool) -> bool:
    """Tell whether the pool's server can be reached again; off the loop or a moment on it is the same here."""
    try:
        in_thread(lambda: run(pool, "SELECT 1")).result(10)
    except pymysql.err.OperationalError:
        return False
    return True


async def test_the_natural_end_beats_the_timeout(database: dict[str, Any], mysql: MySQL) -> None:
    """Statements that end about when their time is over return their rows or raise, never both and never neither."""
    ended = {"rows": 0, "timeout": 0}

    @offload
    async def handler(seconds: float) -> None:
        try:
            assert run(pool, f"SELECT SLEEP({seconds:.4f})") == ((0,),)
            ended["rows"] += 1
        except StatementTimeout:
            ended["timeout"] += 1

    with pool_of(1, database, statement_timeout=0.02) as pool:
        for step in range(60):
            await handler(0.012 + step * 0.0002)
        assert sum(ended.values()) == 60
        now = pool.statistics()
        assert now.kills_failed == 0
        assert now.timeouts == ended["timeout"]
        await checked(pool, mysql, database["database"])


async def test_many_timeouts_at_once(database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads whose statements time out together are all killed, one after the other."""
    kill = PyMySQLDriver.kill
    sent: list[tuple[float, float]] = []

    def recorded(self: PyMySQLDriver, *args: Any) -> bool:
        began = time.monotonic()
        try:
            return kill(self, *args)
        finally:
            sent.append((began, time.monotonic()))

    monkeypatch.setattr(PyMySQLDriver, "kill", recorded)
    with pool_of(8, database, statement_timeout=0.3) as pool:
        threads = [in_thread(lambda: run(pool, LONG)) for _ in range(8)]
        for thread in threads:
            with pytest.raises(StatementTimeout):
                await outcome(thread)
        assert pool.statistics().kills == pool.statistics().timeouts == 8
        assert_ended(mysql, LONG)
        await checked(pool, mysql, database["database"])
    sent.sort()
    first = sent[0][0]
    for (_, ended), (next_began, _) in itertools.pairwise(sent):
        assert next_began >= ended or next_began - first > 0.9 * TURN  # who has waited so long waits no longer
