"""Owns what tests of a shared thread need: functions to run in one, and connections for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

from offload_db.bridge.reactor import Reactor, current_reactor
from offload_db.drivers.pymysql_connection import FastConnection
from tests.conftest import MySQL
from tests.support import value


class Piece:
    """A function for a shared thread."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.context = copy_context()
        self._function = function

    def __call__(self) -> None:
        self._function()


def share(*calls: Callable[[], None]) -> None:
    """Run calls in this thread."""
    hub = Reactor()
    assert hub.add([Piece(call) for call in calls])
    hub.run(lambda: None)
    assert not hub.add([])
    assert current_reactor() is None


def opened(stack: ExitStack, server: MySQL, *, tls: bool, **overrides: Any) -> Any:
    """Open a connection that reads fast, and close it with *stack*."""
    how = {"ssl": {"check_hostname": False}} if tls else {"ssl_disabled": True}
    connection = stack.enter_context(FastConnection(**{**server.settings(), **how, **overrides}))
    assert bool(value(connection, "SHOW STATUS LIKE 'Ssl_cipher'") and connection._sock.__class__.__name__) is True
    assert ("SSL" in type(connection._sock).__name__) is tls
    return connection
