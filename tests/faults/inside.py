"""Owns what tests of faults look at behind the public names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offload_db import OffloadConnection, OffloadPool
from offload_db.bridge.call_scope import BridgedCall
from offload_db.bridge.signals import ThreadEvent
from offload_db.connection.call_lock import CallLock, _Waiting as Waiting
from offload_db.connection.kill_connections import KillConnections
from offload_db.connection.physical import PhysicalConnection
from tests.inside import core


def reaching(patch: pytest.MonkeyPatch, reach: Callable[..., Any]) -> None:
    """Have *reach*, which gets the way itself first, get the connections to kill with, of all pools."""
    original = KillConnections.reach
    patch.setattr(KillConnections, "reach", lambda ways, *args: reach(lambda: original(ways, *args), *args))


def connecting(patch: pytest.MonkeyPatch, pool: OffloadPool, connect: Callable[[float], Any]) -> Callable[[float], Any]:
    """Have *connect* open the connections that a pool kills with; return what opened them before."""
    connections = core(pool).killer.connections
    original = connections._connect
    patch.setattr(connections, "_connect", connect)
    return original


def while_it_comes_back(patch: pytest.MonkeyPatch, pool: OffloadPool, meanwhile: Callable[[], object]) -> None:
    """Have *meanwhile* called when a connection that comes back to a pool is looked at."""

    def outlived(link: PhysicalConnection) -> None:
        meanwhile()

    patch.setattr(core(pool).idle, "outlived", outlived)


def owned_by(turn: CallLock, owner: BridgedCall) -> None:
    """Give a connection to a bridged call."""
    turn._own(owner)


def queued(turn: CallLock, caller: BridgedCall) -> Waiting:
    """Put a call into the queue for a turn."""
    waiting = Waiting(caller, ThreadEvent())
    turn._queue.append(waiting)
    return waiting


def give_up(turn: CallLock, waiting: Waiting) -> bool:
    """Have a waiter leave the queue."""
    return turn._withdraw(waiting)


def replace_lock(turn: CallLock, make: Callable[[Any], Any]) -> None:
    """Put what *make* makes of it in the place of a turn's lock."""
    turn._lock = make(turn._lock)


def lease_of(connection: OffloadConnection) -> Any:
    """Return the checkout of an open connection."""
    return connection._lease
