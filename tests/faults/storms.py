"""Many faults in a row, at random moments: run with few by the tests and with many by the measurements.

Each function returns what happened; what must hold of it is asserted by the caller.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import pymysql
from pymysql.cursors import SSCursor

from offload_db import OffloadPool, offload
from offload_db.drivers.base import Identity
from offload_db.drivers.pymysql import PyMySQLDriver
from tests.conftest import MySQL
from tests.support import PATIENCE

ER_QUERY_INTERRUPTED = 1317

# The ways to cancel a task, each with the event loops that have it.
WAYS: dict[str, tuple[str, ...]] = {
    "task.cancel()": ("asyncio",),
    "asyncio.timeout": ("asyncio",) if sys.version_info >= (3, 11) else (),
    "anyio scope": ("asyncio", "trio"),
    "trio scope": ("trio",),
}

Handler = Callable[[], Awaitable[Any]]
Arm = Callable[[float], None]
"""Makes the running handler be cancelled after some seconds."""


async def run_and_cancel(way: str, handler: Handler, seconds: float) -> bool:
    """Run *handler* and cancel it after some seconds; True if it was cancelled before its end."""

    async def armed(arm: Arm) -> None:
        arm(seconds)
        await handler()

    return await run_armed(way, armed)


async def run_armed(way: str, handler: Callable[[Arm], Awaitable[Any]]) -> bool:
    """Run *handler*, which says itself when it is to be cancelled; True if it was cancelled before its end."""
    if way == "anyio scope":
        with anyio.CancelScope() as scope:

            def arm_anyio(seconds: float) -> None:
                scope.deadline = anyio.current_time() + seconds

            await handler(arm_anyio)
            return False
        return bool(scope.cancel_called)
    if way == "trio scope":
        import trio

        with trio.CancelScope() as trio_scope:

            def arm_trio(seconds: float) -> None:
                trio_scope.deadline = trio.current_time() + seconds

            await handler(arm_trio)
            return False
        return bool(trio_scope.cancelled_caught)
    loop = asyncio.get_running_loop()
    if way == "asyncio.timeout":
        try:
            async with asyncio.timeout(None) as timeout:  # type: ignore[attr-defined,unused-ignore]  # since Python 3.11

                def arm_timeout(seconds: float) -> None:
                    timeout.reschedule(loop.time() + seconds)

                await handler(arm_timeout)
            return False
        except TimeoutError:
            return True

    def arm_task(seconds: float) -> None:
        loop.call_later(seconds, task.cancel)

    async def run() -> None:
        await handler(arm_task)

    task = loop.create_task(run())
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@dataclass
class Storm:
    """What a storm of cancellations did."""

    cancelled: Counter[str] = field(default_factory=Counter)
    """How many handlers were cancelled, by the stage they were in."""
    committed: set[int] = field(default_factory=set)
    """Handlers whose commit returned."""
    rolled_back: set[int] = field(default_factory=set)
    """Handlers that never got to their commit."""
    errors: list[Exception] = field(default_factory=list)
    """What handlers raised instead of ending or being cancelled."""


# The stages of a handler, each with the seconds after its begin within which a cancellation comes. Counted from there,
# so that every stage is met however slow the machine is.
STAGES = {"checkout": 0.05, "execute": 0.05, "fetch": 0.04, "commit": 0.003, "checkin": 0.001}


async def cancel_at_random_points(
    pool: OffloadPool, number: int, way: str, *, first: int = 0, at_once: int = 12
) -> Storm:
    """Cancel *number* handlers, each somewhere in checkout, connect, execute, fetch, commit or checkin.

    The pool's connections are not in autocommit mode, and are few and short-lived. Table ``t (id, half)`` is there.
    """
    storm = Storm()
    dice = random.Random(f"{way} {first} {number}")
    numbers = iter(range(first, first + number))

    async def keep_cancelling() -> None:
        for me in numbers:
            target = dice.choice(list(STAGES))
            seconds = dice.uniform(0.0, STAGES[target])
            stage = ""

            async def handler(arm: Arm, me: int = me, target: str = target, seconds: float = seconds) -> None:
                def enter(entered: str) -> None:
                    nonlocal stage
                    stage = entered
                    if entered == target:
                        arm(seconds)

                await _transaction(pool, me, enter, storm)

            try:
                if await run_armed(way, handler):
                    storm.cancelled[stage] += 1
            except Exception as error:
                storm.errors.append(error)

    async with anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(keep_cancelling)
    return storm


@offload
async def _transaction(pool: OffloadPool, me: int, enter: Callable[[str], None], storm: Storm) -> None:
    storm.rolled_back.add(me)
    enter("checkout")
    connection = pool.connection()
    try:
        enter("execute")
        with connection.cursor(SSCursor) as cursor:
            cursor.execute("INSERT INTO t VALUES (%s, 1)", (me,))
            cursor.execute("SELECT SLEEP(0.02)")
            cursor.fetchall()
            cursor.execute("INSERT INTO t VALUES (%s, 2)", (me,))
            # The rows come slowly, or hardly any handler would be caught while it fetches.
            cursor.execute("SELECT IF(seq % 300, 0, SLEEP(0.003)), REPEAT('x', 1000) FROM seq_1_to_3000")
            enter("fetch")
            cursor.fetchmany(1500)
            cursor.fetchall()
        enter("commit")
        storm.rolled_back.discard(me)
        connection.commit()
        storm.committed.add(me)
        enter("checkin")
    finally:
        connection.close()


@contextmanager
def the_general_way() -> Iterator[None]:
    """Make the library treat every server as one that cannot kill a query by its own id."""
    original = PyMySQLDriver.identity

    def identity(self: PyMySQLDriver, raw: Any) -> Identity | None:
        found = original(self, raw)
        return None if found is None else replace(found, by_query=False)

    PyMySQLDriver.identity = identity  # type: ignore[method-assign]
    try:
        yield
    finally:
        PyMySQLDriver.identity = original  # type: ignore[method-assign]


# Seconds that a statement takes which is cancelled close to its end.
LENGTH = 0.02


@dataclass
class Crossfire:
    """What cancellations close to the natural end did."""

    cancelled: int = 0
    natural: int = 0
    early: int = 0
    """Statements that a kill ended before their time."""
    innocent: int = 0
    """Statements that were hit though nobody cancelled them."""


async def cancel_near_the_end(pool: OffloadPool, number: int, *, at_once: int = 6) -> Crossfire:
    """Cancel *number* statements about when they end; the next on the same link and others beside it are innocent."""
    fire = Crossfire()
    dice = random.Random(number)
    numbers = iter(range(number))
    over = anyio.Event()

    @offload
    async def bystander() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            while not over.is_set():
                _innocent(cursor, "SELECT SLEEP(0.004)", fire)

    @offload
    async def shooter() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            lead = 0.008
            for _ in numbers:
                # It is the kill that has to come close to the end, and it takes some time to get there.
                seconds = max(0.0, LENGTH - lead + dice.uniform(-0.001, 0.001))
                started = time.monotonic()
                # ruff sees no await, but in bridged code execute() is one.
                with anyio.move_on_after(seconds) as scope:  # noqa: ASYNC100
                    cursor.execute(f"SELECT SLEEP({LENGTH})")
                # Follow the kills as they take longer with the machine's load, so that about half come in time.
                early = time.monotonic() - started < LENGTH
                lead = min(max(lead + (-0.0002 if early else 0.0002), 0.0), LENGTH - 0.002)
                if scope.cancel_called:
                    fire.cancelled += 1
                else:
                    fire.natural += 1
                fire.early += early
                for _ in range(2):
                    _innocent(cursor, "SELECT SLEEP(0.001)", fire)

    async with anyio.create_task_group() as bystanders:
        for _ in range(2):
            bystanders.start_soon(bystander)
        async with anyio.create_task_group() as shooters:
            for _ in range(at_once):
                shooters.start_soon(shooter)
        over.set()
    return fire


def _innocent(cursor: Any, statement: str, fire: Crossfire) -> None:
    try:
        cursor.execute(statement)
        # MariaDB's SLEEP raises when it is killed, MySQL's returns 1.
        if cursor.fetchall()[0][0] == 0:
            return
    except pymysql.err.OperationalError as error:
        if error.args[0] != ER_QUERY_INTERRUPTED:
            raise
    fire.innocent += 1


class Victims:
    """Sessions with chosen ids on a server, each running one statement that nobody may kill."""

    def __init__(self, server: MySQL, ids: list[int]) -> None:
        self.hit: list[int] = []
        self._server = server
        self._ids = ids
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Victims:
        wanted = set(self._ids)
        while wanted:
            connection = self._server.connect()
            session: int = connection.thread_id()  # type: ignore[no-untyped-call]
            assert session <= max(wanted), "the server has passed the ids that were to collide"
            if session in wanted:
                wanted.discard(session)
                thread = threading.Thread(target=self._sleep, args=(connection, session), name="victim", daemon=True)
                self._threads.append(thread)
                thread.start()
            else:
                connection.close()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._server.connect() as connection, connection.cursor() as cursor:
            for session in self._ids:
                with suppress(pymysql.MySQLError):
                    cursor.execute("KILL CONNECTION %s", (session,))
        for thread in self._threads:
            thread.join(PATIENCE)

    def _sleep(self, connection: Any, session: int) -> None:
        with suppress(pymysql.MySQLError), connection.cursor() as cursor:
            cursor.execute("SELECT SLEEP(600)")
        self.hit.append(session)

    @property
    def alive(self) -> int:
        """How many still run their statement."""
        return sum(not self.hit.count(session) for session in self._ids)
