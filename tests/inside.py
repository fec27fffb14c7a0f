"""Owns what tests look at behind the public names, in one place, so that a change there is made once here.

What only the tests of one folder look at stands in that folder's `inside.py`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import pytest

from offload_db import OffloadPool, errors
from offload_db.bridge import background
from offload_db.connection import unpooled
from offload_db.connection.call_lock import CallLock
from offload_db.connection.physical import PhysicalConnection
from offload_db.pool.checkout import PoolCore
from offload_db.statistics import Counters

CodedError = errors._CodedError
"""The base of the errors that have a number."""


def core(pool: OffloadPool) -> PoolCore:
    """Return what keeps the connections of a pool."""
    return pool._core


def link_of(connection: Any) -> PhysicalConnection | None:
    """Return the connection to the server below what a user has, None if it was closed."""
    link: PhysicalConnection | None = connection._link
    return link


def turn_of(connection: Any) -> CallLock:
    """Return the lock of a connection that is open."""
    link = link_of(connection)
    assert link is not None
    return link.call_lock


def waiting_turns(turn: CallLock) -> int:
    """Return how many callers wait for their turn."""
    return len(turn._queue)


def lock_of(owner: Any) -> Any:
    """Return the lock under which a call lock, or an admission, changes what it knows."""
    return owner._lock


def warn_again(patch: pytest.MonkeyPatch) -> None:
    """Forget which calls on connections of no pool were warned of."""
    patch.setattr(unpooled._unpooled, "_warned", set())


def note_of_finalisers(counters: Counters, notes: deque[str | None]) -> None:
    """Put *notes* in the place of those that finalisers leave for the next who counts."""
    counters._finalised = notes


def timers() -> int:
    """Return how many timers wait to call something."""
    return len(background._waiter.due)


def timers_are_waited_for() -> bool:
    """Tell whether there is a thread that waits for timers."""
    return background._waiter._runs


def end_timer_thread() -> None:
    """Have the thread that waits for timers end, as it does when none was in use for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "STAYS", 0.0)
        background._waiter.wake()
        while timers_are_waited_for() and not timers():  # with one of another test's pending it does not end
            time.sleep(0.001)
    for thread in threading.enumerate():
        if thread.name == "offload_db timer" and not timers_are_waited_for():
            thread.join()  # one that has decided to end is still there for a moment


def looks_at_timers(patch: pytest.MonkeyPatch) -> list[float]:
    """Return a list of the moments at which the thread that waits for timers looks at them, from now on."""
    moments: list[float] = []
    look = background._Waiter.look

    def looking(waiter: background._Waiter, now: float) -> float:
        moments.append(now)
        return look(waiter, now)

    patch.setattr(background._Waiter, "look", looking)
    return moments


def fail_at_timers(patch: pytest.MonkeyPatch) -> None:
    """Have the thread that waits for timers run out of memory when it looks at them."""

    def fail(waiter: background._Waiter, now: float) -> float:
        raise MemoryError

    patch.setattr(background._Waiter, "look", fail)
