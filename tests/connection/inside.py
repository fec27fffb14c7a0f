"""Owns what tests of connections look at behind the public names."""

from __future__ import annotations

from typing import Any

from offload_db.connection.call_lock import CallLock


def is_taken(turn: CallLock) -> bool:
    """Tell whether somebody has the turn."""
    return turn._busy


def drivers_cursor(cursor: Any) -> Any:
    """Return the driver's cursor below a synchronous one."""
    return cursor._raw


def synchronous_cursor(cursor: Any) -> Any:
    """Return the synchronous cursor below an awaitable one."""
    return cursor._cursor
