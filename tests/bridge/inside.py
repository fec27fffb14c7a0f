"""Owns what tests of the bridge look at behind the public names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from offload_db.bridge import dispatcher, greenlet_pool, signals
from offload_db.bridge.dispatcher import Dispatcher, SharedThread
from offload_db.bridge.hops import Hop

SharedHop = dispatcher._SharedHop
"""A hop that goes through a thread with others."""


def idle_greenlets() -> list[Any]:
    """Return the greenlets that this thread keeps for later calls."""
    return greenlet_pool._here.idle


def shared_thread(sender: Dispatcher) -> SharedThread | None:
    """Return the thread that a loop's statements share just now."""
    return sender._shared


def depart(sender: Dispatcher, *hops: Hop[Any]) -> list[asyncio.Future[bool]]:
    """Have hops depart in one round; return what each of their tasks waits for."""
    loop = asyncio.get_running_loop()
    shared = [SharedHop(hop, loop.create_future()) for hop in hops]
    sender._start_hops(shared[:], loop)
    return [each.back for each in shared]


def is_back(shared: SharedThread) -> bool:
    """Tell whether a shared thread has come to its end."""
    return shared._thread.back


def on_waking(patch: pytest.MonkeyPatch, then: Callable[[SharedThread], object]) -> None:
    """Have *then* called in each shared thread when it has woken its tasks."""
    wake = SharedThread._wake

    def waking(shared: SharedThread) -> None:
        wake(shared)
        then(shared)

    patch.setattr(SharedThread, "_wake", waking)


def before_waiting(patch: pytest.MonkeyPatch, first: Callable[[signals.TaskEvent], object]) -> None:
    """Have *first* called just before what a task is to wait for is made."""
    begin = signals.TaskEvent._waiting

    def beginning(signal: signals.TaskEvent) -> asyncio.Future[None]:
        first(signal)
        return begin(signal)

    patch.setattr(signals.TaskEvent, "_waiting", beginning)


def waits_by_a_future(signal: signals.TaskEvent) -> bool:
    """Tell whether a task waits for a signal by a future of its loop."""
    return signal._loop is not None
