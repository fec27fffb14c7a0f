"""Owns what several test files share: pools on the test server, waiting for a state, threads that give a result."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, TimeoutError as FutureTimeout
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import anyio
import pymysql

import offload_db
from offload_db import OffloadPool, connect, offload
from tests.conftest import MySQL

T = TypeVar("T")

# Long enough for a busy machine; a test that needs it has failed.
PATIENCE = 20.0

# Loopback needs no TLS, and PyMySQL spends 20 ms of CPU per connection on preparing it.
QUICK: dict[str, Any] = {"autocommit": True, "ssl_disabled": True}


def settings_for(driver: str, database: dict[str, Any]) -> dict[str, Any]:
    """Return where a database is as the driver of this name takes it, without TLS."""
    where = {name: database[name] for name in ("host", "port", "user", "password", "database")}
    return {**where, **({"ssl_mode": "DISABLED"} if driver == "MySQLdb" else {"ssl_disabled": True})}


@contextmanager
def pool_of(size: int, settings: dict[str, Any], *, creator: Any = pymysql, **options: Any) -> Iterator[OffloadPool]:
    """Make a pool of *size* connections, and close it afterwards; *options* are its own or the driver's."""
    quick = {"autocommit": True} if "ssl_mode" in settings else QUICK  # which is mysqlclient's name for it
    pool = OffloadPool.create(creator, min_size=0, max_size=size, **{**quick, **settings, **options})
    try:
        yield pool
    finally:
        pool.close()


async def warm(pool: OffloadPool, number: int) -> None:
    """Open *number* connections."""
    leases = [await pool.acquire() for _ in range(number)]
    for lease in leases:
        await pool.release(lease)


def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    """Wait in a plain thread for a state that nothing signals, such as a queue's length."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the state that the test waits for did not come"
        time.sleep(0.001)


async def settled(condition: Callable[[], Any], timeout: float = PATIENCE) -> None:
    """Wait in a task for a state that nothing signals, such as a queue's length."""
    with anyio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110  # the state is the library's own, which signals nobody
            await anyio.sleep(0.001)


def in_thread(function: Callable[[], T]) -> Future[T]:
    """Run *function* in a thread of its own, outside of any pool of threads and with an empty context."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


async def outcome(future: Future[T]) -> T:
    """Wait in a task for the result of a thread, without taking a thread to do so."""
    await settled(future.done)
    return future.result()


async def together(*functions: Callable[[], Awaitable[T]]) -> list[T | BaseException]:
    """Run coroutine functions side by side; give what each returned or raised, in their order."""
    results: list[Any] = [None] * len(functions)

    async def run(number: int) -> None:
        try:
            results[number] = await functions[number]()
        except Exception as error:
            results[number] = error

    with anyio.fail_after(2 * PATIENCE):
        async with anyio.create_task_group() as group:
            for number in range(len(functions)):
                group.start_soon(run, number)
    return results


class Wire:
    """What goes through the sockets of this process: which thread connected, sent, or waited for an answer."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def on(self, thread: int) -> list[str]:
        """Return what *thread* did."""
        return [name for name, number in list(self.events) if number == thread]

    def clear(self) -> None:
        """Forget what happened so far."""
        self.events.clear()


@contextmanager
def watched_wire() -> Iterator[Wire]:
    """Record the calls of Python's sockets that talk to a server; the event loops use none of them."""
    wire = Wire()
    originals = {name: getattr(socket.socket, name) for name in ("connect", "sendall", "recv_into")}

    def spy(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
            wire.events.append((name, threading.get_ident()))
            return original(self, *args, **kwargs)

        return call

    try:
        for name, original in originals.items():
            setattr(socket.socket, name, spy(name, original))
        yield wire
    finally:
        for name, original in originals.items():
            if name in vars(socket.socket):
                delattr(socket.socket, name)
            if getattr(socket.socket, name) is not original:
                setattr(socket.socket, name, original)


def value(connection: Any, query: str, *args: Any) -> Any:
    """Run a query on a connection of any kind and return the one value of its answer."""
    cursor = connection.cursor()
    try:
        cursor.execute(query, args or None)
        row = cursor.fetchone()
    finally:
        cursor.close()
    if row is None:
        return None
    return next(iter(row.values())) if isinstance(row, dict) else row[0]


class Gate:
    """A blocking function that tells when it is entered, and lets nobody out before it is opened."""

    def __init__(self) -> None:
        self.calls = 0
        self.inside = 0
        self.most_inside = 0
        self._entered = threading.Event()
        self._opened = threading.Event()
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.calls += 1
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        self._entered.set()
        try:
            assert self._opened.wait(PATIENCE), "nobody opened the gate"
        finally:
            with self._lock:
                self.inside -= 1

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._opened.set()

    async def entered(self) -> None:
        """Return when somebody is inside."""
        await settled(self._entered.is_set)


class RecordingCursor(pymysql.cursors.Cursor):
    """A driver's cursor that notes the thread of each statement that it sends."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self.threads: list[int] = []

    def execute(self, query: Any, args: Any = None) -> int:
        """Send the statement."""
        self.threads.append(threading.get_ident())
        return super().execute(query, args)


class Suspending:
    """An asynchronous context manager and iterator that really suspends."""

    async def __aenter__(self) -> None:
        await _Yield()

    async def __aexit__(self, *args: object) -> None: ...

    def __aiter__(self) -> Suspending:
        return self

    async def __anext__(self) -> int:
        await _Yield()
        return 1


class _Yield:
    """Suspends without asking any event loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


PLACES = ("bridge", "thread", "plain")


async def run_at(place: str, function: Callable[[], T]) -> T:
    """Run *function* in a bridged task, in a ``mode="thread"`` handler or in a plain thread."""
    if place == "plain":
        return await outcome(in_thread(function))
    mode: Any = place

    @offload(mode=mode)
    async def handler() -> T:
        return function()

    return await handler()


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Give what the call returns, or the class and arguments of what it raises."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return (type(error).__name__, error.args)


Connect = Callable[..., Any]
"""Opens a connection of some kind to the test's database; keyword arguments override settings."""


def pymysqls(stack: ExitStack, settings: dict[str, Any], **overrides: Any) -> Any:
    """Open PyMySQL's own connection, to compare with."""
    connection: Any = pymysql.connect(**{**QUICK, **settings, **overrides})

    def close() -> None:
        if connection.open:
            if connection._result is not None:
                connection._result.unbuffered_active = False  # or PyMySQL's own finaliser stumbles over what is left
            connection.close()

    stack.callback(close)
    return connection


def unpooled(stack: ExitStack, settings: dict[str, Any], **overrides: Any) -> Any:
    """Open a connection of ours that belongs to no pool."""
    connection = connect(**{**QUICK, **settings, **overrides})
    stack.callback(connection.close)
    return connection


def pooled(stack: ExitStack, settings: dict[str, Any], **overrides: Any) -> Any:
    """Check a connection out of a pool that has but this one."""
    pool = stack.enter_context(pool_of(1, settings, **overrides))
    connection = pool.connection()
    stack.callback(connection.close)
    return connection


def run_with(opener: Callable[..., Any], settings: dict[str, Any], scenario: Callable[[Connect], T]) -> T:
    """Run *scenario* with connections of one kind, and close them."""
    with ExitStack() as stack:
        return scenario(partial(opener, stack, settings))


async def assert_same_as_pymysql(
    scenario: Callable[[Connect], Any], place: str, opener: Callable[..., Any], settings: dict[str, Any]
) -> None:
    """Assert that *scenario* shows at a place what it shows with PyMySQL, and that the loop's thread does no I/O."""
    expected = run_with(pymysqls, settings, scenario)
    with watched_wire() as wire:
        seen = await run_at(place, partial(run_with, opener, settings, scenario))
    assert repr(seen) == repr(expected)
    assert wire.events
    assert not wire.on(threading.get_ident())


def running(mysql: MySQL, settings: dict[str, Any], text: str) -> list[int]:
    """List the connections in the test's database that run a statement with *text* in it."""
    rows = mysql.process_list(settings["database"])
    return [row["ID"] for row in rows if row["COMMAND"] == "Query" and text in (row["INFO"] or "")]


def sleeping(mysql: MySQL, settings: dict[str, Any]) -> int:
    """Count the connections in the test's database that are in SLEEP().

    One that is killed on its way there mostly returns 1 in MariaDB, and no error.
    """
    return sum(row["STATE"] == "User sleep" for row in mysql.process_list(settings["database"]))


def assert_ended(mysql: MySQL, settings: dict[str, Any], text: str) -> None:
    """Assert that no such statement runs: a server lists one for a moment after its answer."""
    until(lambda: not running(mysql, settings, text), timeout=5)


def paused_before_step(number: int, function: Callable[[], object], meanwhile: Callable[[], object]) -> bool:
    """Run *function* in a thread that pauses before its *number*th line in the library, until *meanwhile* is over.

    It pauses no longer than for a moment where *meanwhile* waits for it. False if the function has fewer lines.
    """
    package = str(Path(offload_db.__file__).parent)
    paused, goes_on = threading.Event(), threading.Event()
    left = [number]

    def step(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                paused.set()
                assert goes_on.wait(PATIENCE)
        return step

    def run() -> None:
        sys.settrace(step)
        try:
            function()
        finally:
            sys.settrace(None)

    stepping = in_thread(run)
    until(lambda: paused.is_set() or stepping.done())
    reached = paused.is_set()
    if reached:
        other = in_thread(meanwhile)
        with suppress(FutureTimeout):
            other.exception(0.02)
        goes_on.set()
        other.result(PATIENCE)
    stepping.result(PATIENCE)
    return reached
