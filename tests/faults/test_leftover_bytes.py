"""A server or proxy that says more than it was asked for: nobody gets another's answer, and nobody is told a lie."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest

from offload_db import ConnectionLost, OffloadPool, connect
from tests.conftest import MySQL, needs
from tests.support import PLACES, pool_of, run_at, value

from .proxy import Proxy
from .scripted import Scripted, answer, usual


class Own(pymysql.connections.Connection):  # type: ignore[type-arg,unused-ignore]  # the cursor's class does not matter
    """What a user makes of PyMySQL's connection."""


def own(**settings: Any) -> Own:
    """Connect as a user's own function does."""
    return Own(**settings)


KINDS: dict[str, dict[str, Any]] = {"fast": {}, "plain": {"fast": False}, "own": {"creator": own}}


def checkouts(pool: OffloadPool, before: Callable[[], None]) -> list[Any]:
    """Ask three things, each over a connection that is checked out for it."""
    found = []
    for word in (101, 102, 103):
        with pool.connection() as connection:
            if word == 101:
                before()
            found.append(int(value(connection, f"SELECT {word}")))
    return found


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.anyio
async def test_an_answer_too_many_is_nobodys(
    *, place: str, kind: str, autocommit: bool, proxy: Proxy, through: dict[str, Any]
) -> None:
    """What came in one segment with an answer is not the next user's: the connection is thrown out at rest."""
    with pool_of(1, through, autocommit=autocommit, **KINDS[kind]) as pool:
        assert await run_at(place, partial(checkouts, pool, lambda: proxy.double(b"SELECT 101"))) == [101, 102, 103]
        statistics = pool.statistics()
        assert sum(dict(statistics.discards).values()) == 1
        assert statistics.open == 1


def statements(connection: Any, before: Callable[[], None]) -> list[Any]:
    """Ask three things over one connection, and tell of the error."""
    before()
    found: list[Any] = [int(value(connection, "SELECT 101"))]
    for word in (102, 103):
        try:
            found.append(int(value(connection, f"SELECT {word}")))
        except pymysql.MySQLError as error:
            found.append(error)
    return found


def of_one_connection(through: dict[str, Any], proxy: Proxy, pooled: dict[str, Any] | None) -> list[Any]:
    if pooled is None:
        with connect(**through, autocommit=True, ssl_disabled=True) as connection:
            return statements(connection, lambda: proxy.double(b"SELECT 101"))
    with pool_of(1, through, **pooled) as pool, pool.connection() as connection:
        return statements(connection, lambda: proxy.double(b"SELECT 101"))


@pytest.mark.parametrize("kind", [*KINDS, "unpooled"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.anyio
async def test_an_answer_too_many_is_no_later_statements(
    place: str, kind: str, proxy: Proxy, through: dict[str, Any]
) -> None:
    """Nor is it the next statement's of the same user: that is not sent, and the error says so."""
    first, error, closed = await run_at(place, partial(of_one_connection, through, proxy, KINDS.get(kind)))
    assert first == 101
    assert isinstance(error, ConnectionLost)
    assert not error.may_have_run
    assert error.args[0] == 2006
    assert "nothing was sent" in str(error)
    assert isinstance(closed, pymysql.err.InterfaceError)


@pytest.mark.anyio
async def test_an_awaited_answer_too_many(proxy: Proxy, through: dict[str, Any], mysql: MySQL) -> None:
    """The awaitable surface and a transaction of it: the second statement is not sent, and nothing is committed."""
    with pool_of(1, through) as pool:
        await pool.execute("CREATE TABLE t (n INT) ENGINE=InnoDB")

        async def both() -> None:
            async with pool.transaction() as connection, connection.cursor() as cursor:
                proxy.double(b"INSERT INTO t VALUES (1)")
                await cursor.execute("INSERT INTO t VALUES (1)")
                await cursor.execute("INSERT INTO t VALUES (2)")

        with pytest.raises(ConnectionLost) as caught:
            await both()
        assert not caught.value.may_have_run
        assert await pool.fetch_value("SELECT COUNT(*) FROM t") == 0
        proxy.double(b"SELECT 7")
        assert await pool.fetch_value("SELECT 7") == 7
        assert await pool.fetch_value("SELECT 8") == 8


@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_goodbye_in_the_buffer(size: int) -> None:
    """A goodbye that came with an answer is told as a lost link, as PyMySQL does, in part or in whole."""
    goodbye = b"\x0d\0\0\0\xff\x87\x07#08S01bye"

    def script(command: bytes) -> bytes:
        return usual(command) + (goodbye[: 13 if size == 4 else size] if b"101" in command else b"")

    with Scripted(script) as server, pool_of(1, server.address) as pool:
        assert checkouts(pool, lambda: None) == [101, 102, 103]
        with pool.connection() as connection, pytest.raises(ConnectionLost):
            statements_of(connection, 101, 102)


def statements_of(connection: Any, *words: int) -> None:
    """Ask some things over one connection."""
    for word in words:
        value(connection, f"SELECT {word}")


def padded(size: int) -> bytes:
    """Return an answer of so many bytes in all."""
    empty = len(answer(("",)))
    return answer(("x" * (size - empty - 2),))


@needs("cryptography")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [400, 8192])
def test_an_answer_too_many_in_one_record(*, size: int, kind: str, tmp_path: Path) -> None:
    """Over TLS what is too much may be in the reader's buffer or, behind a bufferful, in the TLS layer alone."""
    told = padded(size)
    assert len(told) == size

    def script(command: bytes) -> bytes:
        return told + answer(("of another",)) if b"101" in command else usual(command)

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Scripted(script, tmp_path) as server:
        settings = {**server.address, "ssl": context, "ssl_disabled": False, "autocommit": None}
        with pool_of(1, settings, **KINDS[kind]) as pool:
            with pool.connection() as connection:
                assert set(value(connection, "SELECT 101")) == {"x"}
            with pool.connection() as connection:
                assert value(connection, "SELECT 102") == "102"
                assert set(value(connection, "SELECT 101")) == {"x"}
                sent = len(server.commands)
                with pytest.raises(ConnectionLost) as caught:
                    value(connection, "SELECT 103")
            assert not caught.value.may_have_run
            assert not any(b"103" in command for command in server.commands[sent:])


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=needs("cryptography"))])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.anyio
async def test_an_answer_too_many_that_comes_later(*, place: str, kind: str, tls: bool, tmp_path: Path) -> None:
    """What comes after an answer was read is no later statement's either, though only the system has it yet."""
    go_on, said = threading.Event(), threading.Event()

    def script(command: bytes) -> Iterator[bytes]:
        told = usual(command)
        assert isinstance(told, bytes)
        yield told
        if b"101" in command:
            assert go_on.wait(20)
            yield answer(("of another",))
            said.set()

    def use(pool: OffloadPool) -> ConnectionLost:
        with pool.connection() as connection:
            assert value(connection, "SELECT 101") == "101"
            go_on.set()
            assert said.wait(20)
            with pytest.raises(ConnectionLost) as caught:
                value(connection, "SELECT 102")
        return caught.value

    settings: dict[str, Any] = {"ssl_disabled": True}
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        settings = {"ssl": context, "ssl_disabled": False}
    with (
        Scripted(script, tmp_path if tls else None) as server,
        pool_of(1, {**server.address, **settings, "autocommit": None}, **KINDS[kind]) as pool,
    ):
        error = await run_at(place, partial(use, pool))
        assert not error.may_have_run
        assert not any(b"102" in command for command in server.commands)
