"""What must hold after every fault: nothing lost, nothing left running, and the pool serves as before."""

from __future__ import annotations

import threading
import time
from typing import Any

import anyio.to_thread

from offload_db import OffloadPool
from tests.conftest import MySQL
from tests.inside import timers
from tests.support import PATIENCE, until, value

# Discards that may be made of connections at rest as well as of those that come back.
_EITHER = ("max_age", "maxusage", "closed", "unfit_server", "displaced")


def check(pool: OffloadPool, mysql: MySQL, database: str, *, serves: bool = True) -> None:
    """Assert all of it, on a plain thread.

    :param database: where the pool's connections are, and nobody else's
    :param serves: whether the pool is still open and its server can be reached
    """
    until(lambda: pool.statistics().in_use == 0)
    adds_up(pool)
    if serves:
        serve(pool)
        adds_up(pool)
    until(lambda: all(process["COMMAND"] == "Sleep" for process in mysql.process_list(database)))
    until(lambda: len(mysql.process_list(database)) == pool.statistics().open)


async def checked(pool: OffloadPool, mysql: MySQL, database: str, *, serves: bool = True) -> None:
    """Assert all of it, from a task."""
    await anyio.to_thread.run_sync(lambda: check(pool, mysql, database, serves=serves))


def adds_up(pool: OffloadPool) -> None:
    """Assert that the numbers of a pool at rest agree with each other."""
    now = pool.statistics()
    assert now.in_use == now.waiting == 0, now
    assert now.open == now.idle <= now.size, now
    gone = now.checkouts - now.checkins
    either = sum(now.discards.get(reason, 0) for reason in _EITHER)
    certain = sum(now.discards.values()) - now.discards.get("dead_idle", 0) - either
    assert certain <= gone <= certain + either, now
    for lane in now.lanes.values():
        assert lane.in_use == lane.waiting == 0, now


def serve(pool: OffloadPool) -> None:
    """Assert that as many callers as the pool has connections are served at the same time."""
    size = pool.statistics().size
    together = threading.Barrier(size)
    failures: list[BaseException] = []

    def call() -> None:
        try:
            with pool.connection() as connection:
                together.wait(PATIENCE)
                assert value(connection, "SELECT 42") == 42
        except BaseException as error:
            failures.append(error)
            together.abort()

    threads = [threading.Thread(target=call, name="caller") for _ in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)


def strangers(before: set[threading.Thread]) -> list[threading.Thread]:
    """List the threads that were not there before, but for idle ones: the event loops' workers, the timers' thread."""
    kept = ("AnyIO worker thread", "trio.to_thread", "Trio thread", "Trio worker", "pytest_timeout", "offload_db timer")
    return [
        thread
        for thread in threading.enumerate()
        if thread not in before and not thread.name.startswith(kept) and thread.is_alive()
    ]


def no_strangers(before: set[threading.Thread], timeout: float = PATIENCE) -> None:
    """Assert that no thread is left over, or will be in a moment, and that no timer has anything more to call."""
    deadline = time.monotonic() + timeout
    while left := strangers(before) or timers():
        assert time.monotonic() < deadline, left
        time.sleep(0.005)


ours: set[str] = set()
"""The databases of this process's tests; others may be at work on the same server."""


def running(mysql: MySQL, text: str) -> list[dict[str, Any]]:
    """List the statements of our own with *text* in them that the server is executing."""
    return [
        process
        for process in mysql.process_list()
        if process["COMMAND"] not in ("Sleep", "Killed")
        and text in (process["INFO"] or "")
        and (process["DB"] is None or process["DB"] in ours)
    ]


def assert_ended(mysql: MySQL, text: str) -> None:
    """Assert that no statement of our own with *text* in it runs: a server lists one for a moment after its answer."""
    until(lambda: not running(mysql, text), timeout=5)
