"""A forked child, as of a preforking web server, has a pool of its own, and its parent keeps what it had."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pymysql
import pytest

from offload_db import OffloadPool, connect, offload
from offload_db.connection.physical import PhysicalConnection
from tests.conftest import MySQL
from tests.inside import link_of
from tests.support import attempt, in_thread, pool_of, until, value

from .checks import check, serve

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def in_child(function: Callable[[], Any], timeout: float = 20.0) -> str:
    """Run *function* in a forked child; return what it returned or the traceback of what it raised."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside threads is what is tested
        child = os.fork()
    if child == 0:
        try:
            text = repr(function())
        except BaseException:
            text = traceback.format_exc()
        os.write(writer, text.encode()[:60000])
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + timeout
    try:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                return "the child hangs"
            time.sleep(0.01)
        return os.read(reader, 60000).decode()
    finally:
        os.close(reader)


def sessions(pool: OffloadPool, number: int) -> list[int]:
    """Use *number* connections at the same time and return their sessions' ids."""
    held = [pool.connection() for _ in range(number)]
    ids = [value(connection, "SELECT CONNECTION_ID()") for connection in held]
    for connection in held:
        connection.close()
    return sorted(ids)


def test_a_child_has_connections_of_its_own(database: dict[str, Any], mysql: MySQL) -> None:
    """The child never uses the parent's sockets, and neither its work nor its end touches the parent's links."""
    with pool_of(3, database) as pool:
        before = sessions(pool, 3)

        def child() -> list[int]:
            now = pool.statistics()
            assert (now.open, now.in_use, now.checkouts) == (0, 0, 0), now
            mine = sessions(pool, 3)
            pool.close()
            return mine

        theirs = in_child(child)
        assert theirs.startswith("["), theirs
        assert not set(eval(theirs)) & set(before)
        assert sessions(pool, 3) == before
        assert pool.statistics().discards == {}
        check(pool, mysql, database["database"])


def test_a_child_that_is_a_web_worker(database: dict[str, Any], mysql: MySQL) -> None:
    """A preforked worker runs an event loop with offloaded handlers over the pool that its parent made."""
    with pool_of(2, database) as pool:
        before = sessions(pool, 2)

        @offload
        async def handler() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT CONNECTION_ID()")

        async def main() -> list[int]:
            found: list[int] = []

            async def call() -> None:
                found.append(await handler())

            async with pool, anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(call)
            return sorted(set(found))

        anyio.run(_twice, handler)  # the parent, too, has had a loop
        theirs = in_child(lambda: anyio.run(main))
        assert theirs.startswith("["), theirs
        assert not set(eval(theirs)) & set(before)
        assert sessions(pool, 2) == before
        check(pool, mysql, database["database"])


async def _twice(handler: Callable[[], Any]) -> None:
    await handler()
    await handler()


def test_forked_while_a_connection_is_out(database: dict[str, Any], mysql: MySQL) -> None:
    """A connection that the parent holds is of no use in the child, does no harm there, and stays the parent's."""
    with pool_of(1, database, autocommit=False) as pool, pool.connection() as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (id INT) ENGINE=InnoDB")
        cursor.execute("INSERT INTO t VALUES (1)")

        def child() -> str:
            with pytest.raises(pymysql.err.InterfaceError):
                cursor.execute("INSERT INTO t VALUES (2)")
            connection.close()
            now = pool.statistics()
            assert (now.in_use, now.open, now.idle) == (0, 0, 0), now
            # Not one connection more than the pool's size.
            with pool.connection() as mine:
                value(mine, "SELECT 1")
                assert pool.statistics().in_use == 1
                thread = in_thread(pool.connection)
                until(lambda: pool.statistics().waiting == 1)
            thread.result(10)
            return "fine"

        assert in_child(child) == "'fine'"
        cursor.execute("INSERT INTO t VALUES (3)")
        connection.commit()
        cursor.execute("SELECT id FROM t ORDER BY id")
        assert cursor.fetchall() == ((1,), (3,))


def test_forked_while_other_threads_are_in_the_middle(database: dict[str, Any], mysql: MySQL) -> None:
    """Forking at any moment of other threads' work leaves the child a pool that serves: no lock stays held."""
    over = threading.Event()
    with pool_of(4, database, leak_warning=60.0) as pool:

        def work() -> None:
            while not over.is_set():
                with pool.connection() as connection:
                    value(connection, "SELECT 1")

        threads = [in_thread(work) for _ in range(6)]
        try:
            for _ in range(15):
                assert in_child(lambda: serve(pool)) == "None"
        finally:
            over.set()
            for thread in threads:
                thread.result(20)
        assert pool.statistics().discards == {}
        check(pool, mysql, database["database"])


@pytest.mark.skipif(sys.platform == "win32", reason="fork is the way of Unix")
def test_the_forking_of_multiprocessing(database: dict[str, Any], mysql: MySQL) -> None:
    """The same holds for processes that multiprocessing forks, which end by Python's own cleanup."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    with pool_of(2, database) as pool:
        before = sessions(pool, 2)
        results = context.SimpleQueue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            children = [context.Process(target=lambda: results.put(sessions(pool, 2))) for _ in range(3)]
            for child in children:
                child.start()
        for child in children:
            child.join(20)
            assert child.exitcode == 0
        seen = [session for _ in children for session in results.get()]
        assert len(set(seen)) == 6
        assert not set(seen) & set(before)
        assert sessions(pool, 2) == before
        check(pool, mysql, database["database"])


def test_a_connection_of_no_pool(database: dict[str, Any]) -> None:
    """One that belongs to no pool stays the parent's as well; the child may connect it anew for itself."""
    connection = connect(**database)
    session = value(connection, "SELECT CONNECTION_ID()")

    def use() -> Any:
        return attempt(value, connection, "SELECT CONNECTION_ID()")

    def close() -> str:
        connection.close()
        return "closed"

    def reconnect() -> bool:
        connection.connect()
        other = value(connection, "SELECT CONNECTION_ID()")
        connection.close()
        return bool(other != session)

    assert "ConnectionClosed" in in_child(use)
    assert in_child(close) == "'closed'"
    assert in_child(reconnect) == "True"
    busy = in_thread(lambda: value(connection, "SELECT SLEEP(0.5)"))
    until(lambda: (link := link_of(connection)) is None or link.busy)
    assert "ConnectionClosed" in in_child(use)
    assert in_child(reconnect) == "True"
    assert busy.result(10) == 0
    assert value(connection, "SELECT CONNECTION_ID()") == session
    connection.close()


def test_a_connection_that_is_collected_while_the_child_begins(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector may drop the parent's connections while the child puts its pool in order."""
    after_fork, parent = PhysicalConnection.after_fork, os.getpid()
    with pool_of(3, database) as pool:
        dropped = [pool.connection() for _ in range(3)]
        for connection in dropped:
            connection.discard_later()

        def collected(link: PhysicalConnection) -> None:
            after_fork(link)
            if os.getpid() != parent:
                dropped.clear()

        def child() -> list[Any]:
            now = pool.statistics()
            return [now.open, now.in_use, len(sessions(pool, 3))]

        monkeypatch.setattr(PhysicalConnection, "after_fork", collected)
        assert in_child(child) == "[0, 0, 3]"
        del connection
        assert sorted(value(connection, "SELECT 1") for connection in dropped) == [1] * 3
