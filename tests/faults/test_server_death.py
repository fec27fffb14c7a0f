"""The server dies and comes back: what was acknowledged is there once, and the pool serves again at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import pymysql
import pytest

from examples.support.mariadb import PrivateServer
from offload_db import ConnectionLost, OffloadPool, StatementTimeout, offload
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PATIENCE, in_thread, pool_of, until, value

from .checks import adds_up, check, serve
from .proxy import Proxy

# Each test here kills a server that takes some seconds to come back.
pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]

CALLERS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with PrivateServer() as server:
        yield server


@pytest.fixture
def own(server: PrivateServer) -> Iterator[dict[str, Any]]:
    """Give the settings of a fresh database on the server that may be killed."""
    if not server.running:
        server.start()
    name = MySQL(server.endpoint).fresh_database()
    yield server.endpoint.settings(name)
    if not server.running:
        server.start()
    MySQL(server.endpoint).drop_database(name)


class Inserting:
    """Callers that insert numbers of their own choice until told to stop, each number once."""

    def __init__(self, pool: OffloadPool) -> None:
        self.acknowledged: list[int] = []
        self.certainly_not: list[int] = []
        """Numbers whose insert failed in a way that is said to have had no effect."""
        self.at: list[float] = []
        self.unexpected: list[BaseException] = []
        self.over = threading.Event()
        self._pool = pool
        self._numbers = itertools.count()

    def insert(self, number: int) -> None:
        with self._pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (%s)", (number,))

    def note(self, number: int, error: BaseException | None) -> None:
        if error is None:
            self.acknowledged.append(number)
            self.at.append(time.monotonic())
        elif isinstance(error, ConnectionLost):
            if not error.may_have_run:
                self.certainly_not.append(number)
        elif isinstance(error, pymysql.err.OperationalError):
            self.certainly_not.append(number)  # no connection at all, or refused by a server that shuts down
        else:
            self.unexpected.append(error)

    def in_a_thread(self) -> None:
        while not self.over.is_set():
            number = next(self._numbers)
            try:
                self.insert(number)
            except Exception as error:
                self.note(number, error)
                time.sleep(0.01)
            else:
                self.note(number, None)

    async def in_a_task(self) -> None:
        handler = offload(self._insert)
        while not self.over.is_set():
            number = next(self._numbers)
            try:
                await handler(number)
            except Exception as error:
                self.note(number, error)
                await anyio.sleep(0.01)
            else:
                self.note(number, None)

    async def _insert(self, number: int) -> None:
        self.insert(number)


def kill_and_restart(server: PrivateServer, inserting: Inserting, times: int) -> list[float]:
    """Kill the server under the callers, again and again; return the seconds until it served them again."""
    back = []
    for _ in range(times):
        served = len(inserting.at)
        until(lambda: len(inserting.at) >= served + 50)  # noqa: B023
        server.kill()
        time.sleep(0.2)
        server.start()
        accepts = time.monotonic()
        until(lambda: inserting.at and inserting.at[-1] > accepts)  # noqa: B023
        back.append(next(at for at in inserting.at if at > accepts) - accepts)
    return back


def survive(server: PrivateServer, settings: dict[str, Any], callers: str, times: int) -> tuple[list[float], int, int]:
    """Kill the server under inserting callers; assert that nothing is lost, and return the times to recover."""
    table = f"{settings['database']}.t"
    with MySQL(server.endpoint).connect() as plain, plain.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {table} (id INT) ENGINE=InnoDB")
    with pool_of(10, settings) as pool:
        inserting = Inserting(pool)
        if callers == "threads":
            crowd = [in_thread(inserting.in_a_thread) for _ in range(CALLERS)]
        else:

            async def main() -> None:
                async with anyio.create_task_group() as group:
                    for _ in range(CALLERS):
                        group.start_soon(inserting.in_a_task)

            crowd = [in_thread(lambda: anyio.run(main))]
        try:
            back = kill_and_restart(server, inserting, times)
        finally:
            inserting.over.set()
            for caller in crowd:
                caller.result(PATIENCE)
        assert inserting.unexpected == []
        adds_up(pool)
        serve(pool)
        with MySQL(server.endpoint).connect() as plain, plain.cursor() as cursor:
            cursor.execute(f"SELECT id, COUNT(*) FROM {table} GROUP BY id")
            found = dict(cursor.fetchall())
        assert set(inserting.acknowledged) <= set(found)
        assert set(found.values()) == {1}
        assert not set(inserting.certainly_not) & set(found)
        return back, len(inserting.acknowledged), len(inserting.certainly_not)


@pytest.mark.timing_bound("service is promised to be back within two seconds")
@pytest.mark.parametrize("callers", ["tasks", "threads"])
def test_killed_under_twenty_inserting_callers(callers: str, server: PrivateServer, own: dict[str, Any]) -> None:
    """Every acknowledged insert is there exactly once, no other one twice, and service is back within 2 s."""
    back, acknowledged, _ = survive(server, own, callers, 2)
    assert acknowledged > 100
    assert max(back) < 2.0


def test_restarted_while_idle(server: PrivateServer, own: dict[str, Any]) -> None:
    """After a restart in a quiet moment nobody meets an error: idle links are found dead before they are used."""
    with pool_of(4, own) as pool:
        serve(pool)
        server.restart()
        serve(pool)
        now = pool.statistics()
        assert now.discards == {"dead_idle": 4}
        check(pool, MySQL(server.endpoint), own["database"])


def test_a_kill_after_a_restart(server: PrivateServer, own: dict[str, Any]) -> None:
    """A server gives its session ids anew when it was restarted: a kill meant for one of before hits nobody."""
    with pool_of(1, own, statement_timeout=0.3) as pool:
        serve(pool)
        (link,) = core(pool).links
        before = link.identity
        server.kill()
        server.start()
        serve(pool)
        (link,) = core(pool).links
        assert before is not None
        assert link.identity is not None
        # As if the link had lasted, and its id were somebody else's by now.
        link.identity = replace(link.identity, server=before.server)
        with pool.connection() as connection, pytest.raises(StatementTimeout, match="could not be killed"):
            value(connection, "SELECT SLEEP(2)")
        assert (pool.statistics().kills, pool.statistics().kills_failed) == (0, 1)


def test_no_storm_of_connects(server: PrivateServer, own: dict[str, Any]) -> None:
    """Twenty callers of a dead server make few attempts to connect, with growing pauses, whose errors all get."""
    with Proxy((server.endpoint.host, server.endpoint.port)) as proxy, pool_of(20, {**own, **proxy.address}) as pool:
        serve(pool)
        links = list(core(pool).links)
        server.kill()
        until(lambda: not any(link.driver.alive_at_rest(link.raw) for link in links))
        before, started = proxy.accepted, time.monotonic()
        refused: list[float] = []

        def call() -> None:
            while time.monotonic() < started + 2.0:
                asked = time.monotonic()
                with pytest.raises(pymysql.err.OperationalError):
                    pool.connection()
                refused.append(time.monotonic() - asked)
                time.sleep(0.005)

        for thread in [in_thread(call) for _ in range(20)]:
            thread.result(PATIENCE)
        # At most four at once, then 50, 100, 200, 400, 800 ms apart.
        assert 2 <= proxy.accepted - before <= 12
        assert len(refused) > 20
        assert max(refused) < 2.5
        server.start()
        until(lambda: _served(pool))
        adds_up(pool)
        serve(pool)


def _served(pool: OffloadPool) -> bool:
    try:
        with pool.connection() as connection:
            return bool(value(connection, "SELECT 1") == 1)
    except pymysql.err.OperationalError:
        return False


def test_killed_in_a_transaction(server: PrivateServer, own: dict[str, Any]) -> None:
    """A transaction that the server's death interrupts is not there afterwards, and the caller is told."""
    with pool_of(2, own, autocommit=False) as pool:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id INT) ENGINE=InnoDB")
            cursor.execute("INSERT INTO t VALUES (1)")
            server.kill()
            with pytest.raises(ConnectionLost):
                cursor.execute("INSERT INTO t VALUES (2)")
            with pytest.raises(pymysql.err.InterfaceError):
                connection.commit()
        server.start()
        until(lambda: _served(pool))
        with pool.connection() as connection:
            assert value(connection, "SELECT COUNT(*) FROM t") == 0
        check(pool, MySQL(server.endpoint), own["database"])


def test_failover_to_a_writable_node(server: PrivateServer, own: dict[str, Any]) -> None:
    """A node that turned read-only is left at the first refused write; the next checkout goes to the new one."""
    first = MySQL(server.endpoint)
    name = own["database"]
    user = {"user": "writer", "password": "w"}
    with PrivateServer() as other, Proxy((first.host, first.port)) as proxy:
        second = MySQL(other.endpoint)
        for node in (first, second):
            with node.connect() as plain, plain.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name}")
                cursor.execute(f"CREATE OR REPLACE TABLE {name}.t (id INT)")
                cursor.execute("CREATE OR REPLACE USER writer@'127.0.0.1' IDENTIFIED BY 'w'")
                cursor.execute(f"GRANT ALL ON {name}.* TO writer@'127.0.0.1'")
        with pool_of(2, {**own, **proxy.address, **user}) as pool:
            serve(pool)
            with first.connect() as plain, plain.cursor() as cursor:
                cursor.execute("SET GLOBAL read_only = 1")
                proxy.targets = [(second.host, second.port)]
                try:
                    with pool.connection() as connection, pytest.raises(pymysql.MySQLError) as caught:
                        connection.cursor().execute("INSERT INTO t VALUES (1)")
                    assert caught.value.args[0] == 1290
                    assert pool.statistics().discards == {"unfit_server": 1}
                    with pool.connection() as connection:
                        connection.cursor().execute("INSERT INTO t VALUES (2)")
                        assert value(connection, "SELECT @@port") == second.port
                    assert pool.statistics().discards == {"unfit_server": 2}
                finally:
                    cursor.execute("SET GLOBAL read_only = 0")
            adds_up(pool)
            serve(pool)
