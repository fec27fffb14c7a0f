"""How long opening a connection may take, what it needs, and which server session it leads to.

Owns the limits on a new connection's first answers, what is said where a package for the login is missing, and the
question for its identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
from pymysql.constants import CR

from ..bridge.call_scope import Deadline
from ..bridge.dispatcher import Expired
from ..drivers.base import Driver, Identity
from ..errors import CheckoutTimeout, ThreadUnavailable

# Seconds that connecting may always take: drivers refuse 0.
SHORTEST_PATIENCE = 0.01
# PyMySQL's own default for connect_timeout.
DEFAULT_CONNECT_TIMEOUT = 10.0


def patience_of(kwargs: dict[str, Any]) -> float:
    """Return the seconds that PyMySQL is to wait for a new connection's first answers.

    Its ``connect_timeout`` covers the TCP connect alone: a server that accepts and says nothing would be waited for
    without end, or for as long as the longest query may take.
    """
    limits = (kwargs.get("connect_timeout") or DEFAULT_CONNECT_TIMEOUT, kwargs.get("read_timeout"))
    return min(limit for limit in limits if limit is not None)  # PyMySQL itself is to refuse a 0


def shortened_timeouts(kwargs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return PyMySQL's connection settings with no more than *seconds* for any one answer."""
    shorter = max(seconds, SHORTEST_PATIENCE)
    given = {name: kwargs.get(name) for name in ("connect_timeout", "read_timeout")}
    return {**kwargs, **{name: shorter if limit is None else min(limit, shorter) for name, limit in given.items()}}


def restore_timeouts(raw: Any, kwargs: dict[str, Any]) -> None:
    """Give PyMySQL's connection the limits that it was to have, for its queries and for when it connects anew."""
    raw._read_timeout = kwargs.get("read_timeout")
    raw.connect_timeout = kwargs.get("connect_timeout", DEFAULT_CONNECT_TIMEOUT) or None


@contextmanager
def remedies_named() -> Iterator[None]:
    """Raise as the driver's error, with the remedy, that a login needs a package which is not installed.

    PyMySQL raises a RuntimeError then, which no handler of database errors catches.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "package is required" not in text:
            raise
        remedy = (
            "pip install 'offload-db[rsa]', or connect over TLS, where the login needs no such package"
            if "cryptography" in text
            else "install that package"
        )
        raise pymysql.err.OperationalError(CR.CR_AUTH_PLUGIN_CANNOT_LOAD, f"{text}: {remedy}") from error


def identify(driver: Driver, raw: Any, seconds: float) -> Identity | None:
    """Ask a new connection for its identity; waits for the server, and closes the connection if that fails.

    :param seconds: how long the answer may be waited for
    """
    try:
        with driver.limited(raw, max(seconds, SHORTEST_PATIENCE)):
            return driver.identity(raw)
    except BaseException as error:
        # A server that does not know what it is asked is one whose statements can't be killed, no more.
        ours = isinstance(error, (MemoryError, ThreadUnavailable))
        if isinstance(error, Exception) and not ours and driver.in_step(error):
            return None
        driver.abandon(raw)
        raise


def too_late(error: BaseException, deadline: Deadline | None) -> CheckoutTimeout | None:
    """Return the error to raise where connecting failed because the bridged call's time is over, None elsewhere."""
    if deadline is None:
        return None
    if isinstance(error, Expired) or (isinstance(error, pymysql.err.OperationalError) and not deadline.left):
        return CheckoutTimeout.because(f"no connection was opened in time: {deadline}")
    return None
