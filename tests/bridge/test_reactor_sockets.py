"""Claims about the sockets of a shared thread, with TLS and without: who waits for one keeps up nobody."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pymysql
import pytest

from offload_db.bridge.reactor import current_reactor, make_patient
from tests.bridge.reactors import opened, share
from tests.conftest import MySQL
from tests.faults.proxy import Proxy
from tests.support import until, value
from tests.tls import tls_server_in

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

SLOW = "SELECT SLEEP(30)"


@pytest.fixture(scope="module")
def tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MySQL]:
    """Give a server that speaks TLS."""
    with tls_server_in(tmp_path_factory.mktemp("tls")) as server:
        yield server


either_link = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@either_link
def test_a_link_that_falls_silent_in_mid_answer(*, tls: bool, tls_server: MySQL) -> None:
    """While one call waits for the rest of a packet, or of a TLS record, the others are answered."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        held = opened(stack, tls_server, tls=tls, **proxy.address)
        free = opened(stack, tls_server, tls=tls)
        over: list[str] = []

        def slow() -> None:
            assert value(held, "SELECT REPEAT('x', 10000)") == "x" * 10000
            over.append("slow")

        def quick() -> None:
            until(lambda: not proxy.flows)
            assert value(free, "SELECT SLEEP(0.1)") == 0
            over.append("quick")
            proxy.flow()

        proxy.silence_after(5000)
        share(slow, quick)
        assert over == ["quick", "slow"]


@either_link
def test_a_server_that_takes_nothing(*, tls: bool, tls_server: MySQL) -> None:
    """While one call cannot send its statement, the others are answered."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        held = opened(stack, tls_server, tls=tls, **proxy.address)
        free = opened(stack, tls_server, tls=tls)
        over: list[str] = []
        text = "x" * 15_000_000

        def large() -> None:
            assert value(held, "SELECT LENGTH(%s)", text) == len(text)
            over.append("large")

        def quick() -> None:
            assert value(free, "SELECT 1") == 1
            over.append("quick")
            proxy.flow()

        proxy.blackhole()
        share(large, quick)
        assert over == ["quick", "large"]


@either_link
@pytest.mark.parametrize("way", ["reading", "writing"])
def test_the_links_own_timeouts(way: str, *, tls: bool, tls_server: MySQL) -> None:
    """read_timeout and write_timeout hold, with PyMySQL's own errors."""
    address = (tls_server.host, tls_server.port)
    with Proxy(address) as proxy, ExitStack() as stack:
        limits = {"read_timeout": 1} if way == "reading" else {"write_timeout": 1}
        held = opened(stack, tls_server, tls=tls, **limits, **proxy.address)
        free = opened(stack, tls_server, tls=tls)
        errors: list[Any] = []

        def late() -> None:
            with pytest.raises(pymysql.err.OperationalError) as caught:
                value(held, "SELECT LENGTH(%s)", "x" * (15_000_000 if way == "writing" else 1))
            errors.append(caught.value.args)

        def quick() -> None:
            assert value(free, "SELECT SLEEP(0.2)") == 0

        proxy.blackhole()
        started = time.monotonic()
        share(late, quick)
        assert 0.9 < time.monotonic() - started < 5
        proxy.flow()
        ((code, text),) = errors
        assert code == (2013 if way == "reading" else 2006)
        assert "timed out" in text
        assert not held.open


def test_a_socket_that_is_closed() -> None:
    """Who reads from a socket that was closed gets the error, instead of waiting for ever."""
    near, far = socket.socketpair()
    reader = near.makefile("rb")
    make_patient(reader)
    near.detach()
    errors: list[OSError] = []

    def read() -> None:
        with pytest.raises(OSError, match="descriptor") as caught:
            reader.read(1)
        errors.append(caught.value)

    share(read)
    assert [error.errno for error in errors] == [errno.EBADF]
    far.close()


def test_a_late_one_beside_one_that_always_gets_something(mysql: MySQL) -> None:
    """A timeout comes when it is due, though another call of the thread is never kept waiting."""
    with ExitStack() as stack:
        late = opened(stack, mysql, tls=False, read_timeout=1)
        near, far = socket.socketpair()
        far.send(b"there is always something to read")
        over: list[float] = []
        started = time.monotonic()

        def wait() -> None:
            with pytest.raises(pymysql.err.OperationalError, match="timed out"):
                value(late, SLOW)
            over.append(time.monotonic() - started)

        def read() -> None:
            hub = current_reactor()
            assert hub is not None
            while not over and time.monotonic() - started < 10:
                hub.wait(near, select.POLLIN, None)

        session = late.thread_id()
        share(wait, read)
        mysql.kill_connection(session)
        near.close()
        far.close()
        assert 0.9 < over[0] < 5
