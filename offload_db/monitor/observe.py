"""Raw PyMySQL connections, watched while somebody asks for it.

Owns the methods of PyMySQL's classes that are replaced meanwhile, and what was seen.
"""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymysql

from ..bridge.place import Place, place
from ..bridge.stack import frames_from, module_of
from ..connection.call_sites import call_path
from ..drivers.statement_digest import digest
from ..statistics import BlockedCalls, BlockingCall


class Observation:
    """What :func:`observe_pymysql` has seen."""

    def __init__(self) -> None:
        self.calls = BlockedCalls()
        self.of_engines = BlockedCalls()
        """Those that SQLAlchemy made, for an engine of its own."""

    def blocking_calls(self) -> list[BlockingCall]:
        """List the places in the source that blocked an event loop, the costliest first."""
        found = [*self.calls.places(), *self.of_engines.places()]
        return sorted(found, key=lambda call: -call.seconds)


# Everything that waits for the server by itself.
_OBSERVED: tuple[tuple[type, str], ...] = (
    *(
        (pymysql.connections.Connection, name)
        for name in (
            "autocommit",
            "begin",
            "commit",
            "connect",
            "next_result",
            "ping",
            "query",
            "rollback",
            "select_db",
        )
    ),
    (pymysql.cursors.SSCursor, "read_next"),
)
# These may have nothing to ask the server: a row has arrived already, a mode is what it was. Then they take less than
# these seconds, and a round trip takes more.
_MAYBE_LOCAL = frozenset({"autocommit", "read_next"})
_LOCAL_SECONDS = 0.00003

_observing = threading.Lock()
_replaced: dict[tuple[type, str], tuple[Any, Any]] = {}
_observers = 0
_observation = Observation()
_inside = threading.local()


@contextmanager
def observe_pymysql() -> Iterator[Observation]:
    """Watch raw PyMySQL connections while the block lasts, those of a DBUtils pool that is not wrapped included.

    It replaces methods of PyMySQL's classes, and puts them back at the end. A call is timed only on a thread that runs
    an event loop, and only if no pool of this library makes it, which counts it already. mysqlclient and
    mysql-connector are not seen; the loop's lag shows them.

    :return: what is seen; blocks inside another one share it
    """
    global _observers, _observation
    with _observing:
        if not _observers:
            _observation = Observation()
            for owner, name in _OBSERVED:
                original = getattr(owner, name)
                _replaced[owner, name] = (original, _timed(name, original))
                setattr(owner, name, _replaced[owner, name][1])
        _observers += 1
    try:
        yield _observation
    finally:
        with _observing:
            _observers -= 1
            if not _observers:
                for (owner, name), (original, ours) in _replaced.items():
                    # Somebody may have put another method above ours meanwhile; ours does nothing then.
                    if vars(owner).get(name) is ours:
                        setattr(owner, name, original)


def observed_calls() -> BlockedCalls:
    """Return what the last observation has seen so far, but for engines."""
    return _observation.calls


def observed_engines() -> BlockedCalls:
    """Return what the last observation has seen so far of SQLAlchemy's engines."""
    return _observation.of_engines


def forget_observed() -> None:
    """Forget what a parent process has seen."""
    _observation.calls, _observation.of_engines = BlockedCalls(), BlockedCalls()


def _timed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        where = place()
        if not _observers or where is Place.THREAD or getattr(_inside, "call", False):
            return original(self, *args, **kwargs)
        caller = _caller()
        if caller == "offload_db":
            return original(self, *args, **kwargs)
        _inside.call = True
        started = time.perf_counter()
        try:
            return original(self, *args, **kwargs)
        finally:
            seconds = time.perf_counter() - started
            _inside.call = False
            if name not in _MAYBE_LOCAL or seconds > _LOCAL_SECONDS:
                text = args[0] if name == "query" and args else None
                path = call_path()._replace(decorated=where is Place.BRIDGED)
                calls = _observation.of_engines if caller == "sqlalchemy" else _observation.calls
                calls.add(path, name, digest(text), seconds)

    return timed


def _caller() -> str | None:
    """Return the package that makes the driver call: a pool of this library, SQLAlchemy, the user's."""
    outer = (module_of(frame) for frame in frames_from(sys._getframe(2)))
    return next((module for module in outer if module not in ("pymysql", "dbutils")), None)
