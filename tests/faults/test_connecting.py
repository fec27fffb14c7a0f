"""One caller's trouble with connecting is nobody else's, and a server that can't be reached is everybody's."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pymysql
import pytest

import offload_db
from offload_db import offload
from offload_db.pool.reachability import like, reached
from offload_db.pool.throttle import ConnectThrottle
from tests.conftest import MySQL, needs
from tests.faults.inside import reaching
from tests.inside import core
from tests.support import PATIENCE, PLACES, attempt, in_thread, outcome, pool_of, run_at, settled, together, value
from tests.tls import certify, tls_server_in

from .checks import serve
from .proxy import Proxy, Way, _Link

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

# What one caller may ask for in vain, and the error that it gets.
BAD: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "charset": ({"charset": "klingon"}, Exception),
    "init_command": ({"init_command": "NONSENSE"}, pymysql.err.ProgrammingError),
    "init_command that loses the link": ({"init_command": "KILL CONNECTION_ID()"}, pymysql.err.MySQLError),
    "init_command that takes too long": ({"init_command": "DO SLEEP(9)", "read_timeout": 0.2}, pymysql.err.MySQLError),
    "sql_mode": ({"sql_mode": "NONSENSE"}, pymysql.err.MySQLError),
    "ssl_ca": ({"ssl_ca": "/nowhere/ca.pem"}, OSError),
    "bind_address": ({"bind_address": "192.0.2.1"}, pymysql.err.OperationalError),
    "a bad bind_address": ({"bind_address": "no-such-host.invalid"}, pymysql.err.OperationalError),
    "a type": ({"connect_timeout": "ten"}, TypeError),
    "an argument": ({"nonsense": 1}, TypeError),
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_bad_argument(place: str, database: dict[str, Any]) -> None:
    """Whatever one call of `pool.connect` is given, other calls connect as if it were not there."""
    with pool_of(4, database) as pool:

        def use() -> None:
            for kind, (bad, error) in BAD.items():
                settings = {**database, "ssl_disabled": "ssl_ca" not in bad, **bad}
                for _ in range(2):
                    with pytest.raises(error):
                        pool.connect(**settings)
                    core(pool).idle.close_all()
                    for good in (pool.connection, partial(pool.connect, **database, ssl_disabled=True)):
                        with good() as connection:
                            assert value(connection, "SELECT 1") == 1, kind

        await run_at(place, use)
        assert pool.statistics().in_use == 0
        await outcome(in_thread(partial(serve, pool)))


@pytest.mark.parametrize("changes", [{"password": "wrong"}, {"database": "missing"}, {"host": "no-such-host.invalid"}])
async def test_a_variant_that_cannot_connect(changes: dict[str, Any], database: dict[str, Any]) -> None:
    """A view of the pool with another login, database or address that fails keeps nobody from the pool's own."""
    with pool_of(4, database) as pool:
        bad = pool.variant(**changes)

        @offload
        async def handler(ask: Callable[[], Any]) -> Any:
            return attempt(lambda: value(ask(), "SELECT 1"))

        for _ in range(3):
            failed, served = await together(partial(handler, bad.connection), partial(handler, pool.connection))
            assert failed[0] == "OperationalError", failed  # type: ignore[index]
            assert served == 1
            core(pool).idle.close_all()


async def test_a_mixed_load(database: dict[str, Any]) -> None:
    """Among many callers with a bad argument each with a good one is served."""
    with pool_of(8, database, checkout_timeout=30) as pool:

        @offload
        async def good() -> Any:
            with pool.connection() as connection:
                connection.discard_later()  # the next one connects anew
                return value(connection, "SELECT 1")

        @offload
        async def bad() -> Any:
            return attempt(partial(pool.connect, **database, ssl_disabled=True, init_command="NONSENSE"))

        results = await together(*[good, bad] * 20)
        assert results[::2] == [1] * 20, results
        assert {result[0] for result in results[1::2]} == {"ProgrammingError"}  # type: ignore[index]
        assert pool.statistics().in_use == 0
        await outcome(in_thread(partial(serve, pool)))


def test_a_dead_server_is_tried_by_few_for_all(
    through: dict[str, Any], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers with the same address and user wait for each other's attempts, whatever else they ask for."""
    monkeypatch.setattr("offload_db.pool.throttle.AWAY_AFTER", 0.2)
    with pool_of(8, through) as pool:
        proxy.targets = [("127.0.0.1", _closed_port())]
        kinds: list[Callable[[], Any]] = [
            pool.connection,
            partial(pool.connect, **through, autocommit=True),
            pool.variant(charset="latin1").connection,
        ]
        callers = [in_thread(kind) for kind in kinds * 5]
        for caller in callers:
            with pytest.raises(pymysql.err.OperationalError, match=r"Lost connection|Can't connect"):
                caller.result(PATIENCE)
        assert proxy.accepted < 10
        # One more comes while the pause is long: it waits for the next attempt, as everybody does.
        with pytest.raises(pymysql.err.OperationalError):
            pool.connection()
        assert proxy.accepted < 12


def test_who_has_less_patience_says_nothing_to_others(through: dict[str, Any], proxy: Proxy) -> None:
    """A server that does not answer one caller within its own short time may answer those who wait for longer."""
    with pool_of(8, through, connect_timeout=5) as pool:
        value(pool.connection(), "SELECT 1")
        proxy.delay = 0.3
        hasty = partial(pool.connect, **through, ssl_disabled=True, connect_timeout=0.1)
        for _ in range(2):
            with pytest.raises(pymysql.err.OperationalError, match="timed out"):
                hasty()
            assert value(pool.connection(), "SELECT 1") == 1
        proxy.delay = 0


def _closed_port() -> int:
    with Proxy() as unused:
        return unused.port


def test_the_shared_error_is_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised for those who have waited has all that the driver's error had, but for its history."""
    monkeypatch.setattr("offload_db.pool.throttle.AWAY_AFTER", 0.0)
    made: list[BaseException] = []

    class Held:
        pass

    held = Held()
    gone = weakref.ref(held)

    def fail(held: Any) -> None:
        try:
            raise ConnectionRefusedError(111, "refused")
        except OSError as origin:
            error = pymysql.err.OperationalError(2003, "Can't connect")
            error.original_exception = origin  # type: ignore[attr-defined]
            error.sqlstate = "HY000"
            raise error from None

    gate = ConnectThrottle()
    for _ in range(2):
        try:
            gate.attempt(partial(fail, held), float("inf"), 10.0, came=0.0)
        except pymysql.err.OperationalError as error:
            made.append(error)
    first, second = made
    assert first is not second
    assert (second.args, second.sqlstate) == ((2003, "Can't connect"), "HY000")  # type: ignore[attr-defined]
    assert isinstance(second.original_exception, ConnectionRefusedError)  # type: ignore[attr-defined]
    assert second.original_exception.errno == 111  # type: ignore[attr-defined]
    made.clear()
    del held, first, second
    gc.collect()
    assert gone() is None, "the gate keeps alive what its callers held"


@needs("mysql.connector")
def test_the_paced_error_of_another_driver() -> None:
    """mysql-connector's errors keep number, message and SQLSTATE."""
    from mysql.connector.errors import InterfaceError

    error = InterfaceError(errno=2003, msg="Can't connect", sqlstate="HY000")
    again = like(error)
    assert (again.errno, again.msg, again.sqlstate, str(again)) == (2003, error.msg, "HY000", str(error))
    assert reached(error) is False


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (pymysql.err.OperationalError(1040, "Too many connections"), False),
        (pymysql.err.OperationalError(1203, "more than max_user_connections"), False),
        (pymysql.err.OperationalError(1226, "max_connections_per_hour"), False),
        (pymysql.err.OperationalError(1045, "Access denied"), True),
        (pymysql.err.OperationalError(1049, "Unknown database"), True),
        (pymysql.err.OperationalError(2003, "Can't connect"), False),
        (pymysql.err.OperationalError(2013, "reading initial communication packet"), False),
        (pymysql.err.OperationalError(2013, "reading authorization packet"), None),
        (pymysql.err.OperationalError(2026, "SSL connection error"), None),
        (ConnectionRefusedError(111, "refused"), False),
        (FileNotFoundError(2, "no such file"), None),
        (OSError(24, "Too many open files"), None),
        (MemoryError(), None),
        (LookupError("unknown encoding"), None),
        (TypeError("unexpected keyword argument"), None),
        (ValueError("the type of port"), None),
    ],
    ids=repr,
)
def test_what_an_error_says_of_the_server(error: Exception, says: bool | None) -> None:
    """Only an error of the server's reach, or of its room for this user, is everybody's."""
    assert reached(error) is says
    assert reached(copy.copy(error)) is says


class Listener(Proxy):
    """A proxy that notes which logins came by TLS."""

    def __init__(self, *targets: tuple[str, int]) -> None:
        super().__init__(*targets)
        self.logins: list[str] = []
        self._known: set[_Link] = set()

    def _censored(self, link: _Link, way: Way, data: bytes) -> tuple[bytes, bool]:
        if way == "to server" and link not in self._known:
            self._known.add(link)
            # To ask for TLS takes 32 bytes and no more; a login in plain text is longer.
            self.logins.append("TLS" if data[:4] == b"\x20\0\0\1" else "plain")
        return super()._censored(link, way, data)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def tls_server(certificates: Path) -> Iterator[MySQL]:
    with tls_server_in(certificates) as server:
        yield server


@pytest.fixture
def listener(tls_server: MySQL) -> Iterator[Listener]:
    listener = Listener((tls_server.host, tls_server.port))
    with listener:
        yield listener


def verified(certificate: Path) -> dict[str, Any]:
    """Return settings with which PyMySQL verifies who answers."""
    return {"ssl_disabled": False, "ssl_ca": str(certificate), "ssl_verify_cert": True}


@pytest.mark.parametrize("kind", ["connect", "variant", "own", "unpooled"])
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted any more"])
async def test_a_kill_logs_in_as_its_connection_did(
    kind: str, *, trusted: bool, tls_server: MySQL, listener: Listener, certificates: Path, tmp_path: Path
) -> None:
    """It verifies what the connection verified, whatever the pool's own settings are; or the link is cut."""
    authority = tmp_path / "authority"
    authority.write_bytes((certificates / "cert").read_bytes())
    settings = {**tls_server.settings(), **listener.address}
    secure = {**settings, **verified(authority)}
    with pool_of(2, settings, **(verified(authority) if kind == "own" else {})) as pool:
        ways: dict[str, Callable[[], Any]] = {
            "connect": partial(pool.connect, **secure),
            "variant": pool.variant(**verified(authority)).connection,
            "own": pool.connection,
            "unpooled": partial(offload_db.connect, **secure),
        }

        @offload
        async def handler() -> None:
            with ways[kind]() as connection:
                if not trusted:
                    certify(tmp_path, "authority")
                value(connection, "SELECT SLEEP(20)")

        async with anyio.create_task_group() as group:
            group.start_soon(handler)
            await settled(lambda: _sleeps(tls_server))
            group.cancel_scope.cancel()
        if kind != "unpooled":
            now = pool.statistics()
            assert (now.kills, now.kills_failed) == ((1, 0) if trusted else (0, 1))
        assert listener.logins == ["TLS", "TLS"], "the connection's own login, and the kill's"
        for process in tls_server.process_list() if not trusted else []:
            tls_server.kill_connection(process["ID"])  # the server would notice by itself, in some seconds
        await settled(lambda: not _sleeps(tls_server))


def _sleeps(server: MySQL) -> bool:
    return any("SLEEP" in str(process["INFO"]) for process in server.process_list())


async def test_kills_of_several_kinds_share_no_connections(
    tls_server: MySQL, listener: Listener, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that one kill leaves to another is used only by kills of connections with the same settings."""
    settings = {**tls_server.settings(), **listener.address}
    with pool_of(16, settings) as pool:
        secure = pool.variant(**verified(certificates / "cert"))

        @offload
        async def handler(kind: Any) -> None:
            with kind.connection() as connection:
                value(connection, "SELECT SLEEP(20)")

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for kind in [pool, secure] * 8:
                    group.start_soon(handler, kind)
                await settled(lambda: sum("SLEEP" in str(p["INFO"]) for p in tls_server.process_list()) == 16)
                killed: dict[str, set[str]] = {"TLS": set(), "plain": set()}

                def note(reach: Callable[[], Any], server: Any, connect: Any, *_: Any) -> Any:
                    admin = reach()
                    if admin is not None:
                        mine = "plain" if connect is None else "TLS"  # None is the pool's own way
                        killed[mine].add("TLS" if "SSL" in type(admin.raw._sock).__name__ else "plain")
                    return admin

                reaching(monkeypatch, note)
                group.cancel_scope.cancel()
        assert killed == {"TLS": {"TLS"}, "plain": {"plain"}}
        assert pool.statistics().kills == 16
