"""What a server's errors say of it and of its transactions: other connections to it, and trying again."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import pymysql
import pytest

from offload_db import AsyncConnection, ConnectionLost, OffloadPool
from offload_db.pool import idle
from tests.fuzz.wire import OK, packets
from tests.support import pool_of, value

from .proxy import Proxy
from .scripted import Scripted, answer, usual

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

READ_ONLY = "The MySQL server is running with the --read-only option so it cannot execute this statement"
SECURE_FILES = "The MySQL server is running with the --secure-file-priv option so it cannot execute this statement"


def refusal(code: int, text: str) -> bytes:
    """Return a server's error."""
    return packets(b"\xff" + code.to_bytes(2, "little") + b"#HY000" + text.encode(), 1)


class Node(Scripted):
    """A server of a cluster, which may lose its right to write.

    :param folder: that of its data, five letters, which tells it apart
    """

    def __init__(self, folder: bytes = b"/data") -> None:
        super().__init__(self._answer)
        self._folder = folder
        self.error: tuple[int, str] | None = None
        """What writes are refused with."""
        self.hangs = 0.0
        """Seconds that it takes to say whether it is fit."""
        self.looks = 0
        """How often it was asked."""
        self.commits: list[bytes] = []
        """What it answers to COMMITs, one after the other, before all is well."""
        self.cluster = "ON"

    def _answer(self, command: bytes) -> bytes:
        text = command[1:].decode()
        if "read_only" in text:
            self.looks += 1
            time.sleep(self.hangs)
            return answer(("0" if self.error is None or self.error[0] == 1047 else "1", "0"))
        if "wsrep_ready" in text:
            return answer(("wsrep_ready", "OFF" if self.error is not None and self.error[0] == 1047 else "ON"))
        if "wsrep_on" in text:
            return answer(("wsrep_on", self.cluster))
        if text.startswith("INSERT") and self.error is not None:
            return refusal(*self.error)
        if text == "COMMIT" and self.commits:
            return self.commits.pop(0)
        return usual(command).replace(b"/data", self._folder)


def write(pool: OffloadPool) -> str:
    """Write over a connection of the pool; returns the name of the server that it leads to, or the error."""
    with pool.connection() as connection:
        try:
            connection.cursor().execute("INSERT INTO t VALUES (1)")
        except pymysql.MySQLError as error:
            return str(error.args[0])
        return "written"


def fill(pool: OffloadPool, number: int) -> None:
    """Open *number* connections."""
    with ExitStack() as stack:
        for _ in range(number):
            stack.enter_context(pool.connection())


@pytest.mark.parametrize("error", [(1290, READ_ONLY), (1047, "WSREP has not yet prepared node")], ids=["1290", "1047"])
def test_the_other_connections_are_looked_at(error: tuple[int, str]) -> None:
    """After one refused write nobody gets another idle connection to that server; those to other servers stay."""
    with Node() as bad, Node(b"/else") as good, Proxy() as proxy:
        proxy.targets = [_listens(bad), _listens(good)]
        with pool_of(6, {**bad.address, **proxy.address, "autocommit": None}) as pool:
            fill(pool, 6)
            bad.error, ended = error, ""
            with ExitStack() as held:
                while (ended := write(pool)) == "written":
                    held.enter_context(pool.connection())  # one that leads to the other server
            assert ended == str(error[0])
            proxy.targets = [_listens(good)]
            assert [write(pool) for _ in range(12)] == ["written"] * 12
            fill(pool, 6)
            assert [write(pool) for _ in range(12)] == ["written"] * 12
            assert pool.statistics().discards == {"unfit_server": 3}
            assert (bad.looks, good.looks) == (2, 0)


def _listens(node: Node) -> tuple[str, int]:
    return "127.0.0.1", int(str(node.address["port"]))


def test_a_false_alarm() -> None:
    """A server that is fit after all keeps its connections, each of which is looked at once."""
    with Node() as node, pool_of(4, {**node.address, "autocommit": None}) as pool:
        fill(pool, 4)
        node.error = (1290, READ_ONLY)
        assert write(pool) == "1290"
        node.error = None
        for _ in range(3):
            fill(pool, 3)
        assert node.looks == 3
        assert pool.statistics().discards == {"unfit_server": 1}


def test_no_better_server_to_be_had() -> None:
    """Where new connections lead to the same server, another refused write throws out its own connection alone."""
    with Node() as node, pool_of(4, {**node.address, "autocommit": None}) as pool:
        fill(pool, 4)
        node.error = (1290, READ_ONLY)
        assert write(pool) == "1290"
        fill(pool, 4)
        assert pool.statistics().discards == {"unfit_server": 4}
        looks = node.looks
        for _ in range(5):
            assert write(pool) == "1290"
            fill(pool, 4)
        assert pool.statistics().discards == {"unfit_server": 9}
        assert node.looks == looks


def test_a_look_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not say whether it is fit is waited for no longer than a sign of life is."""
    monkeypatch.setattr(idle, "PING_TIMEOUT", 0.1)
    with Node() as node, pool_of(2, {**node.address, "autocommit": None}) as pool:
        fill(pool, 2)
        node.error = (1290, READ_ONLY)
        assert write(pool) == "1290"
        node.error, node.hangs = None, 1.0
        started = time.monotonic()
        assert write(pool) == "written"
        assert time.monotonic() - started < 0.9
        assert pool.statistics().discards == {"unfit_server": 2}


@pytest.mark.parametrize(
    ("code", "text", "unfit"),
    [
        (1290, READ_ONLY.replace("read-only", "super-read-only"), True),
        (1290, SECURE_FILES, False),
        (1290, SECURE_FILES.replace("secure-file-priv", "skip-grant-tables"), False),
        (1015, "Can't lock file (errno: 165 - Table is read only)", True),
        (1015, "Can't lock file (errno: 11 - Resource temporarily unavailable)", False),
        (3100, "Error on observer while running replication hook 'before_commit'.", True),
        (1836, "Running in read-only mode", True),
    ],
)
def test_which_errors_tell_of_an_unfit_server(code: int, text: str, *, unfit: bool) -> None:
    """An option that forbids a statement, or a lock that can't be had, is no reason to leave the server by itself."""
    with Node() as node, pool_of(1, {**node.address, "autocommit": None}) as pool:
        node.error = (code, text)
        assert write(pool) == str(code)
        assert dict(pool.statistics().discards) == ({"unfit_server": 1} if unfit else {})


def test_closed_for_its_idleness() -> None:
    """MySQL's notice that it has closed an idle connection (4031) says that the statement did not run."""
    with Node() as node, pool_of(1, {**node.address, "autocommit": None}) as pool:
        node.error = (4031, "The client was disconnected by the server because of inactivity.")
        with pool.connection() as connection, pytest.raises(ConnectionLost, match="did not run") as caught:
            connection.cursor().execute("INSERT INTO t VALUES (1)")
        assert caught.value.may_have_run is False


@pytest.mark.parametrize(
    ("error", "cluster", "attempts"),
    [
        ((1180, 'Got error 149 "Lock deadlock; Retry transaction" during COMMIT'), "ON", 3),
        ((1180, "Got error 28 during COMMIT"), "OFF", 1),
        ((1213, "Deadlock found when trying to get lock; try restarting transaction"), "OFF", 3),
        ((1047, "WSREP has not yet prepared node for application use"), "OFF", 3),
        ((3101, "Plugin instructed the server to rollback the current transaction."), "OFF", 3),
        ((3100, "Error on observer while running replication hook 'before_commit'."), "OFF", 3),
        ((1105, "Unknown error"), "ON", 1),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
async def test_a_commit_that_a_cluster_has_rolled_back(error: tuple[int, str], cluster: str, attempts: int) -> None:
    """`run_transaction` runs all of it again where nothing was committed for certain, and nowhere else."""
    with Node() as node, pool_of(1, {**node.address, "autocommit": None}) as pool:
        node.cluster = cluster
        node.commits = [refusal(*error)] * 2
        ran: list[Any] = []

        async def transfer(connection: AsyncConnection) -> int:
            ran.append(connection)
            async with connection.cursor() as cursor:
                await cursor.execute("UPDATE t SET n = 1")
            return 7

        if attempts == 3:
            assert await pool.run_transaction(transfer) == 7
        else:
            with pytest.raises(pymysql.MySQLError) as caught:
                await pool.run_transaction(transfer)
            assert getattr(caught.value, "may_have_run", None) is not False
        assert len(ran) == attempts
        assert pool.statistics().in_use == 0


def test_a_lock_of_the_instance() -> None:
    """MySQL's LOCK INSTANCE FOR BACKUP, which no rollback ends, ends with its checkout: the connection is closed."""
    locking = Scripted(lambda command: packets(OK, 1) if b"LOCK" in command else usual(command))
    with locking as server, pool_of(1, {**server.address, "autocommit": None}) as pool:
        with pool.connection() as connection:
            connection.cursor().execute("LOCK INSTANCE FOR BACKUP")
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == "1"
        assert pool.statistics().discards == {"altered": 1}
