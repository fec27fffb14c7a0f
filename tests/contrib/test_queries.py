"""The default pool: made once from the environment, closed and made anew, and never a riddle when it is wrong."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from offload_db import ConfigurationError, OffloadPool, PoolClosed, StatementTimeout, queries
from tests.conftest import DATABASE_VARIABLES, MySQL
from tests.contrib.inside import default_pool
from tests.support import in_thread, outcome, together


@pytest.fixture
async def default(
    mysql: MySQL, database: dict[str, Any], monkeypatch: pytest.MonkeyPatch, anyio_backend: Any
) -> AsyncIterator[dict[str, Any]]:
    """Name the test's database in the environment, and close the default pool afterwards."""
    for name, text in mysql.endpoint.environment(database["database"]).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("DB_POOL_MIN_SIZE", "0")
    monkeypatch.setenv("DB_POOL_MAX_SIZE", "3")
    yield database
    await queries.close_async_pool()


@pytest.mark.anyio
async def test_the_functions_by_name(default: dict[str, Any]) -> None:
    """Each function runs its query on the default pool, commits it, and gives dictionaries."""
    await queries.execute_update("CREATE TABLE t (id INT PRIMARY KEY AUTO_INCREMENT, n INT NOT NULL)")
    assert await queries.execute_insert("INSERT INTO t (n) VALUES (%s)", (10,)) == 1
    assert await queries.execute_insert("INSERT INTO t (n) VALUES (%(n)s)", {"n": 20}) == 2
    assert await queries.execute_many("INSERT INTO t (n) VALUES (%s)", [(30,), (40,)]) == 2
    assert await queries.execute_update("UPDATE t SET n = n + 1 WHERE id > %s", (2,)) == 2
    assert await queries.execute_delete("DELETE FROM t WHERE id = 4") == 1
    assert await queries.execute_query("SELECT n FROM t ORDER BY id") == [{"n": 10}, {"n": 20}, {"n": 31}]
    assert await queries.execute_query_one("SELECT n FROM t WHERE id = %s", (1,)) == {"n": 10}
    assert await queries.execute_query_one("SELECT n FROM t WHERE id = 99") is None
    with pytest.raises(StatementTimeout):
        await queries.execute_query("SELECT SLEEP(30)", timeout=0.1)
    assert await queries.health_check() == {"healthy": True, "error": None}
    statistics = queries.get_pool_stats()
    assert statistics is not None
    assert (statistics.size, statistics.in_use, statistics.blocking_calls) == (3, 0, 0)
    assert statistics.checkouts == 11


@pytest.mark.anyio
async def test_made_once(default: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and threads that ask at the same moment get the same pool, and only one was made."""
    made: list[OffloadPool] = []
    original = OffloadPool.from_env

    def slow(*args: Any) -> OffloadPool:
        threading.Event().wait(0.05)  # all the others ask meanwhile
        made.append(original(*args))
        return made[-1]

    monkeypatch.setattr(OffloadPool, "from_env", slow)
    assert queries.get_pool_stats() is None
    assert made == []
    barrier = threading.Barrier(8)
    threads = [in_thread(lambda: (barrier.wait(), default_pool())[1]) for _ in range(8)]
    tasks = await together(*[queries.get_async_pool] * 8)
    found = [await outcome(thread) for thread in threads] + tasks
    assert len(made) == 1
    assert all(pool is made[0] for pool in found)


@pytest.mark.anyio
async def test_the_sizes_of_the_default_pool(default: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool tells its sizes under the names that code written for aiomysql asks for."""
    for name in ("DB_POOL_MIN_SIZE", "DB_POOL_MAX_SIZE"):
        monkeypatch.delenv(name)
    pool = await queries.get_async_pool()
    assert (pool.minsize, pool.maxsize) == (5, 20)


@pytest.mark.anyio
async def test_closed_and_made_anew(default: dict[str, Any]) -> None:
    """After closing, the old pool is of no use and the next query makes another; closing twice is fine."""
    await queries.close_async_pool()
    first = await queries.get_async_pool()
    assert await queries.execute_query_one("SELECT 1 AS one") == {"one": 1}
    await queries.close_async_pool()
    await queries.close_async_pool()
    assert queries.get_pool_stats() is None
    assert first.statistics().open == 0
    with pytest.raises(PoolClosed):
        await first.fetch_value("SELECT 1")
    assert await queries.execute_query_one("SELECT 2 AS two") == {"two": 2}
    assert await queries.get_async_pool() is not first


@pytest.mark.anyio
async def test_several_event_loops(default: dict[str, Any], anyio_backend: tuple[str, dict[str, Any]]) -> None:
    """The default pool serves event loops of several threads at once."""

    async def work(number: int) -> Any:
        return [await queries.execute_query_one("SELECT %s AS n", (number,)) for _ in range(10)]

    name, options = anyio_backend
    threads = [
        in_thread(partial(anyio.run, work, number, backend=name, backend_options=options)) for number in range(4)
    ]
    assert await work(9) == [{"n": 9}] * 10
    for number, thread in enumerate(threads):
        assert await outcome(thread) == [{"n": number}] * 10
    statistics = queries.get_pool_stats()
    assert statistics is not None
    assert (statistics.checkouts, statistics.checkins, statistics.in_use) == (50, 50, 0)
    assert statistics.open <= 3


CALLS: dict[str, Callable[[], Awaitable[Any]]] = {
    "get_async_pool": queries.get_async_pool,
    "execute_query": lambda: queries.execute_query("SELECT 1"),
    "execute_query_one": lambda: queries.execute_query_one("SELECT 1"),
    "execute_insert": lambda: queries.execute_insert("DO 1"),
    "execute_update": lambda: queries.execute_update("DO 1"),
    "execute_delete": lambda: queries.execute_delete("DO 1"),
    "execute_many": lambda: queries.execute_many("DO %s", [(1,)]),
}


@pytest.mark.anyio
@pytest.mark.parametrize("name", CALLS)
async def test_a_wrong_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function says at once everything that is wrong with the environment; no pool is left half made."""
    monkeypatch.setenv("MYSQL_HOST", "db")
    monkeypatch.setenv("MYSQL_PASSWORD", "swordfish-1906")
    monkeypatch.setenv("MYSQL_PORT", "many")
    with pytest.raises(ConfigurationError) as caught:
        await CALLS[name]()
    for words in ("MYSQL_USER is not set", "MYSQL_DATABASE is not set", "MYSQL_PORT=<text, not shown>"):
        assert words in str(caught.value)
    assert "swordfish-1906" not in repr(caught.value)
    assert queries.get_pool_stats() is None
    await queries.close_async_pool()


@pytest.mark.anyio
async def test_health_check_never_raises(
    default: dict[str, Any], monkeypatch: pytest.MonkeyPatch, mysql: MySQL
) -> None:
    """A health check tells what is wrong in words: settings, a refused login, no server, no time; never a password."""
    seen: list[str] = []

    async def ill(timeout: Any = 5.0) -> str:
        health = await queries.health_check(timeout)
        assert health["healthy"] is False
        await queries.close_async_pool()
        seen.append(health["error"])
        return seen[-1]

    assert "timeout=0" in await ill(0)
    with monkeypatch.context() as patch:
        patch.setenv("MYSQL_PASSWORD", "swordfish-1906")
        patch.setenv("MYSQL_USER", "nobody-here")
        assert "OperationalError" in await ill()
    with monkeypatch.context() as patch:
        patch.setenv("MYSQL_PORT", "1")
        assert "OperationalError" in await ill()
    pool = await queries.get_async_pool()
    held = [await pool.acquire() for _ in range(3)]
    health = await queries.health_check(0.05)
    assert health["healthy"] is False
    assert "CheckoutTimeout" in health["error"]
    for connection in held:
        await pool.release(connection)
    assert await queries.health_check() == {"healthy": True, "error": None}
    await queries.close_async_pool()
    for variable in DATABASE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert "MYSQL_HOST is not set" in await ill()
    assert not any("swordfish-1906" in text or mysql.password in text for text in seen)
