"""Connections that belong to no pool.

Owns :func:`offload_db.connect`. What such a connection does is ``sync_connection.py``'s.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from typing import Any, ClassVar

import pymysql

from ..bridge.call_scope import current_bridged_call, current_cancellation, current_deadline
from ..drivers.pymysql_connection import fast_creator
from ..drivers.registry import driver_of
from ..errors import ThreadUnavailable
from ..statistics import Counters
from .call_lock import shared_waits
from .executor import Detached, Executor
from .killer import Killer
from .opening import identify, patience_of, remedies_named, restore_timeouts, shortened_timeouts, too_late
from .physical import PhysicalConnection
from .sync_connection import OffloadConnection
from .unread_results import read_out


class _Unpooled:
    """The lease of a connection that belongs to no pool."""

    __slots__ = ("link",)

    # What is open, so that no garbage collector gets at an unbuffered cursor before drop() has made it harmless.
    _open: ClassVar[set[_Unpooled]] = set()

    def __init__(self, link: PhysicalConnection) -> None:
        self.link = link
        self._open.add(self)

    def give_back(self) -> None:
        self._open.discard(self)
        self.link.discard_reason()
        try:
            if self.link.writes_on:
                read_out(self.link)
            _unpooled.run("close", self.link.close, shield=True)
        except ThreadUnavailable:
            self.link.fault = self.link.fault or "closed"
            self.link.close()
        except BaseException:  # the task was cancelled, perhaps before the hop began: it goes without a goodbye
            self.link.fault = self.link.fault or "closed"
            self.link.close()
            raise

    def drop(self) -> None:
        self.link.driver.abandon(self.link.raw)
        self._open.discard(self)

    def reopen(self) -> PhysicalConnection:
        """Return the link after it was closed: PyMySQL's connect() and ping(reconnect=True) connect it anew."""
        self._open.add(self)
        self.link.renew(current_bridged_call())
        self.link.fault = None
        return self.link


# Each connection runs one call at a time, so the connections that there are bound the threads.
_unpooled = Executor(math.inf, Counters())


def unpooled_counters() -> Counters:
    """Return what the connections that belong to no pool have counted."""
    return _unpooled.counters


def connect(**kwargs: Any) -> OffloadConnection:
    """Open a connection that belongs to no pool; it behaves like PyMySQL's and suspends bridged tasks.

    It takes what :func:`pymysql.connect` takes. A connection that several handlers share, in a module global, belongs
    to the outermost bridged call that uses it, until that call ends.

    If the task is cancelled, no connection is left open.

    :raises pymysql.err.OperationalError: if the server can't be reached, as PyMySQL raises it
    :raises CheckoutTimeout: if the bridged call's ``timeout`` is over before
    :raises CallCancelled: if the caller is in a worker thread, and the task that waits for it is cancelled
    """
    opened: list[PhysicalConnection] = []

    def on_return() -> None:
        for link in opened:
            link.driver.abandon(link.raw)

    detached = Detached(on_return)
    if (cancellation := current_cancellation()) is not None:
        cancellation.check()
    deadline = current_deadline()
    left, started = None if deadline is None else deadline.left, time.monotonic()
    try:
        try:
            _unpooled.run("connect", lambda: opened.append(_open(kwargs, left)), timeout=left, detached=detached)
        finally:
            if deadline is not None:
                deadline.spend("connecting", time.monotonic() - started)
    except BaseException as error:
        if not detached.runs_on:
            on_return()
        if (late := too_late(error, deadline)) is not None:
            raise late from None
        if isinstance(error, Exception):
            vars(error)["may_have_run"] = False
        raise
    return OffloadConnection(_Unpooled(opened[0]))


def _open(kwargs: dict[str, Any], seconds: float | None) -> PhysicalConnection:
    until = math.inf if seconds is None else time.monotonic() + seconds
    patience = patience_of(kwargs)
    wanted = {**kwargs, "read_timeout": patience}
    raw = _connect(**(wanted if seconds is None else shortened_timeouts(wanted, seconds)))
    driver = driver_of(raw)
    killer = Killer(lambda seconds: _connect(**driver.bounded(kwargs, seconds)), _unpooled.counters)
    identity = identify(driver, raw, min(patience, until - time.monotonic())) if raw.open else None
    restore_timeouts(raw, kwargs)
    return PhysicalConnection(raw, driver, identity, _unpooled, killer)


def _connect(**kwargs: Any) -> Any:
    # pymysql.connect may be wrapped, for tracing; a program may also have put our connect in its place.
    current: Any = pymysql.connect
    creator = fast_creator(pymysql.connections.Connection if current is connect else current)
    with remedies_named():
        return creator(**kwargs)


def _after_fork() -> None:
    """Leave the parent its links in a forked child; there they can be connected anew."""
    _unpooled.counters.after_fork()
    shared_waits.after_fork()
    for lease in list(_Unpooled._open):
        lease.link.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

connect.__signature__ = inspect.signature(pymysql.connections.Connection)  # type: ignore[attr-defined]  # for help()
