"""What calling a method of the driver's connection means for the session.

Owns which methods end a transaction, change the session or replace the link. Where and when a method is called is
``physical.py``'s.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from .opening import patience_of
from .physical import PhysicalConnection
from .unread_results import skip_unread

# Calls that end a transaction for certain.
ENDS = frozenset({"commit", "rollback"})

# Calls that change the session for whoever uses it next.
_ALTERS = frozenset(
    {
        *("change_user", "cmd_change_user", "cmd_reset_connection", "reset_session"),
        *("set_character_set", "set_charset", "set_charset_collation"),
    }
)

# Calls after which a link that was lost may stand again: PyMySQL's ping(reconnect=True) is what legacy code keeps a
# process-wide connection alive with.
RECONNECTS = frozenset({"connect", "ping", "reconnect"})


def execute(link: PhysicalConnection, statement: str) -> None:
    """Execute a statement in the place of a method that the driver lacks, on the thread of the call."""
    skip_unread(link)
    link.driver.skip_rest(link.raw)
    with closing(link.raw.cursor()) as cursor:
        cursor.execute(statement)


def call_method(link: PhysicalConnection, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of the driver's connection, on the thread of the call, and note what it means for the link."""
    raw, driver = link.raw, link.driver
    if name == "begin" and not hasattr(raw, name):
        driver.begin(raw)  # DB-API 2 has no begin(); DBUtils accepts it all the same
        return None
    if name in RECONNECTS:
        return _reconnect(link, partial(getattr(raw, name), *args, **kwargs))
    link.altered = link.altered or name in _ALTERS
    if name == "rollback":
        skip_unread(link)
    driver.skip_rest(raw)
    result = getattr(raw, name)(*args, **kwargs)
    if name in ENDS:
        link.transaction_ended()
    return result


def _reconnect(link: PhysicalConnection, function: Callable[[], Any]) -> Any:
    """Make a call that may replace the link by a new one, to another session and perhaps another server."""
    raw, driver = link.raw, link.driver
    session = driver.session(raw)
    before = driver.set_read_timeout(raw, None)
    limits = {"read_timeout": before, "connect_timeout": getattr(raw, "connect_timeout", None)}
    driver.set_read_timeout(raw, patience_of(limits))
    try:
        driver.skip_rest(raw)
        result = function()
        if driver.session(raw) != session:
            link.identity = driver.identity(raw)
            if link.connector is not None:
                altered, link.altered = link.altered, True  # until it is like those that the pool opens
                link.connector.prepare(raw)
                link.altered = altered
    finally:
        driver.set_read_timeout(raw, before)
    link.reconnected()
    return result
