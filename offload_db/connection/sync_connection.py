"""The synchronous connection, which behaves like DBUtils' and PyMySQL's.

Owns what a user can do with a connection, and which of it may wait for the server. What may wait goes through
``PhysicalConnection.call``; the driver's own object answers the rest on the spot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import anyio

from ..bridge.call_scope import BridgedCall, Given, current_setting
from ..bridge.hops import Hop, is_cancelled, send_off
from ..bridge.place import Place, place
from ..bridge.portal import suspend
from ..errors import BlockingCallError, CheckoutTimeout, ConnectionClosed
from .call_lock import CallLock, closed_error
from .driver_methods import ENDS, RECONNECTS, call_method, execute
from .lazy_results import LazyResult
from .physical import TIDY_TIMEOUT, PhysicalConnection
from .sync_cursor import OffloadCursor
from .uncopied import Uncopied
from .unread_results import read_out


class _Lease(Protocol):
    """A checkout, to which a connection gives its link back."""

    link: PhysicalConnection

    def give_back(self) -> None:
        """Take the link back; may wait for the server."""

    def drop(self) -> None:
        """Take the link back from a finaliser, without I/O."""


class OffloadConnection(Given, Uncopied):
    """A connection whose calls suspend a bridged task and run inline elsewhere.

    It has everything that the driver's connection has. Closing it gives it back to its pool, rolling back what is
    open; so does leaving its ``with`` block, which does not commit.
    """

    __slots__ = ("__weakref__", "_call_lock", "_lease", "_link")

    _lease: _Lease
    _link: PhysicalConnection | None
    _call_lock: CallLock  # of this checkout: the next one has another

    def __init__(self, lease: _Lease) -> None:
        object.__setattr__(self, "_lease", lease)
        object.__setattr__(self, "_call_lock", lease.link.call_lock)
        object.__setattr__(self, "_link", lease.link)

    def __repr__(self) -> str:
        return f"<OffloadConnection {'closed' if self._link is None else 'open'}>"

    def cursor(self, *args: Any, **kwargs: Any) -> OffloadCursor:
        """Make a cursor; takes the driver's arguments, such as a cursor class.

        :raises ConnectionClosed: if the connection is closed
        """
        link = self._link
        if link is None:
            raise closed_error()
        if not link.driver.cursors_ask:
            return OffloadCursor(self, link, link.raw.cursor(*args, **kwargs))
        make = partial(link.raw.cursor, *args, **kwargs)
        return OffloadCursor(self, link, link.call("cursor", make, self._call_lock, killable=False))

    def commit(self) -> None:
        """Commit the transaction.

        :raises ConnectionLost: if the link broke; it says whether the commit may have happened
        """
        self._call("commit")

    def rollback(self) -> None:
        """Roll the transaction back, also in a cancelled scope."""
        self._call("rollback")

    def begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin a transaction."""
        self._call("begin", *args, **kwargs)

    def close(self) -> None:
        """Give the connection back to its pool, rolling back what is open; closing twice is fine.

        Cursors keep the rows they have fetched. If the task is cancelled, the connection is given back all the same. A
        statement that another task or thread of the same call has under way on it is waited for, as long as for a
        connection of the pool, and killed then. Where results are left unread of what may still write, such as a
        procedure, it comes to its end first.

        :raises CheckoutTimeout: if the connection belongs to another call that goes on for longer
        :raises StatementTimeout: if what is left unread runs past a timeout of the user's; it was killed
        """
        if self._link is None:
            return
        call_lock, setting = self._call_lock, current_setting()
        scope = None if setting is None else setting.scope
        cancelled: BaseException | None = None
        if not call_lock.close(unless_busy=True, scope=scope):
            try:
                cancelled = self._last_turn(call_lock, scope)
            except ConnectionClosed:  # somebody else closed it while this caller waited for the turn
                return
            if not call_lock.close():  # the loop's own thread, which does not wait for the turn, has done so meanwhile
                return
        object.__setattr__(self, "_link", None)
        self._lease.give_back()
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled  # its traceback holds this frame

    def dbapi(self) -> Any:
        """Return the driver's module, as DBUtils' connections do."""
        link = self._alive()
        return link.driver.module(link.raw)

    def threadsafety(self) -> int:
        """Return the driver's thread safety level, as DBUtils' connections do."""
        return int(self.dbapi().threadsafety)

    def cancel(self) -> None:
        """Let the driver cancel a long transaction, where it knows how; as DBUtils' connections do."""
        if hasattr(self._alive().raw, "cancel"):
            self._call("cancel")

    def discard(self) -> None:
        """Close the connection for good instead of giving it back; the server rolls back what is open.

        No word is sent to the server, and cancelling the task does not interrupt it. After closing it does nothing.
        """
        self.discard_later()
        self.close()

    def discard_later(self) -> None:
        """Let the connection be closed for good when it is given back, or dropped; sends nothing now."""
        link = self._link
        if link is not None:
            link.fault = link.fault or "discarded"

    @property
    def driver_connection(self) -> Any:
        """The driver's own connection, which stays the same from one checkout to the next; its calls block."""
        link = self._alive()
        link.unseen()
        return link.raw

    @property
    def dbapi_connection(self) -> Any:
        """The same, as DBUtils' connections name it from 3.2 on."""
        return self.driver_connection

    def select_db(self, db: Any) -> None:
        """Select another database, until the connection is given back."""
        self._alive().moved = True
        self._call("select_db", db)

    @property
    def open(self) -> bool:
        """Whether the connection can be used."""
        link = self._link
        return link is not None and link.driver.is_open(link.raw)

    def __enter__(self) -> OffloadConnection:
        self._alive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if name in OffloadConnection.__slots__:  # an exception came before it was set
            raise AttributeError(name)
        if self._link is None and name in RECONNECTS and hasattr(self._lease, "reopen"):
            return partial(self._call, name)
        link = self._alive()
        if link.driver.property_blocks(name):
            return link.call(name, partial(getattr, link.raw, name), self._call_lock, killable=False)
        value = getattr(link.raw, name)
        if not callable(value) or isinstance(value, type):
            return value
        return partial(self._call, name) if link.driver.blocks(name) else value

    def __setattr__(self, name: str, value: Any) -> None:
        # Only the driver's own settings can be set. A changed connection is not one to give to somebody else.
        link = self._alive()
        link.altered = True
        if link.driver.property_blocks(name):
            link.call(name, partial(setattr, link.raw, name, value), self._call_lock, killable=False)
        else:
            setattr(link.raw, name, value)

    def __del__(self) -> None:
        # Never any I/O here: this may run on the event loop's thread, in the middle of anything.
        link = getattr(self, "_link", None)
        if link is not None:
            object.__setattr__(self, "_link", None)
            self._lease.drop()

    def _entrust(self, scope: BridgedCall) -> None:
        self._call_lock.entrust(scope)

    def _alive(self) -> PhysicalConnection:
        link = self._link
        if link is None:
            raise closed_error()
        return link

    def _last_turn(self, call_lock: CallLock, scope: BridgedCall | None) -> BaseException | None:
        """Wait for the turn, however often the task is cancelled meanwhile; returns the cancellation, to be raised.

        A call that is not over by then is killed: whoever closes the connection is done with it.

        :raises CheckoutTimeout: if the connection belongs to another call that does not end in time
        """
        link = self._alive()
        cancelled: BaseException | None = None
        kills: list[Hop[None] | None] = []
        if call_lock.lent and place() is Place.BRIDGED and is_cancelled():
            # By a thread that the handler had been waiting for: nobody takes what it fetches any more.
            kills.append(send_off(link.interrupt))
        try:
            while True:
                try:
                    call_lock.acquire(scope, link.patience, shield=True)
                except CheckoutTimeout as error:
                    raise link.driver.disguised(error) from None
                except TimeoutError as error:
                    if not call_lock.admits(scope):
                        raise cancelled or link.driver.disguised(CheckoutTimeout.because(str(error))) from None
                    if place() is Place.BRIDGED:
                        kills.append(send_off(link.interrupt))
                    else:
                        link.interrupt()
                except BaseException as error:
                    # asyncio's own task.cancel() passes through a shield.
                    if place() is not Place.BRIDGED or not isinstance(error, anyio.get_cancelled_exc_class()):
                        raise
                    cancelled = error
                else:
                    return cancelled
        finally:
            for kill in kills:
                if kill is not None:  # where no thread could be had, the statement comes to its own end
                    suspend(kill.wait_until_over())

    def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        if self._link is None and name in RECONNECTS and (reopen := getattr(self._lease, "reopen", None)):
            reopened = reopen()  # PyMySQL's own can be connected anew after closing
            object.__setattr__(self, "_call_lock", reopened.call_lock)
            object.__setattr__(self, "_link", reopened)
        link = self._alive()
        if name not in RECONNECTS:
            link.check()
        # Only a query is worth killing; a commit that is under way had better come to its end.
        query = name == "query"
        text = (args[0] if args else kwargs.get("sql")) if query else None
        call = partial(call_method, link, name, args, kwargs)
        # In a cancelled scope nothing else could be sent, and this is how cancelled code unwinds.
        unwinds = name == "rollback" and place() is Place.BRIDGED and is_cancelled()
        result = link.call(
            name,
            call,
            self._call_lock,
            killable=query,
            shield=unwinds,
            timeout=TIDY_TIMEOUT if unwinds else None,
            shared=name in ENDS,
            text=text,
        )
        lazy = None if result is None else link.driver.lazy(link.raw, name, result)
        return result if lazy is None else LazyResult(partial(self._step, link), lazy, (link.raw, self))

    def _step(self, link: PhysicalConnection, function: Callable[[], Any]) -> Any:
        """Go on with what a call has returned and that is read step by step."""
        if self._alive() is not link:
            raise closed_error()
        link.check()
        return link.call("fetch", function, self._call_lock)


def physical_of(connection: OffloadConnection) -> PhysicalConnection:
    """Return the physical connection that an open connection stands for.

    :raises ConnectionClosed: if it is closed
    """
    return connection._alive()


def returns_at_once(connection: OffloadConnection) -> bool:
    """Tell whether closing it needs no round trip to the server and no wait."""
    link = connection._link
    if link is None:
        return True
    return connection._call_lock.free and (link.discard_reason() is not None or link.clean) and not link.writes_on


def break_off(connection: OffloadConnection) -> None:
    """Break its link at once, whatever runs on it."""
    link = connection._link
    if link is not None:
        link.break_link()


def call_driver(connection: OffloadConnection, name: str, *args: Any) -> Any:
    """Call a method of the driver's connection that has another name on the surface."""
    return connection._call(name, *args)


def say_goodbye(connection: OffloadConnection) -> None:
    """Close its link for good, telling the server so; what may still write comes to its end first."""
    link = connection._link
    if link is None:
        return
    link.discard_reason()
    try:
        if link.writes_on:
            read_out(link)
        link.call("close", partial(link.driver.close, link.raw), connection._call_lock, killable=False)
    finally:
        break_off(connection)
        connection.close()


def read_further_results(connection: OffloadConnection) -> None:
    """Read what a statement has sent besides its first result, so that all of it is done."""
    link = connection._alive()
    if link.driver.unread(link.raw):
        link.call("nextset", partial(link.driver.read_out, link.raw, math.inf), connection._call_lock)


def abandon_result(connection: OffloadConnection) -> None:
    """Note that the last statement will be rolled back: what it still does is killed, not waited for."""
    link = connection._link
    if link is not None:
        link.undo()


def roll_back(connection: OffloadConnection, savepoint: str | None = None) -> None:
    """Roll back, or to the savepoint, also in a cancelled scope, within :data:`TIDY_TIMEOUT` seconds.

    :raises StatementTimeout: if that is not answered in time; its link was cut
    """
    link = connection._alive()
    link.check()
    if savepoint is None:
        rollback = partial(call_method, link, "rollback", (), {})
    else:
        rollback = partial(execute, link, f"ROLLBACK TO SAVEPOINT {savepoint}")
    link.call("rollback", rollback, connection._call_lock, killable=False, shield=True, timeout=TIDY_TIMEOUT)


def undo(connection: OffloadConnection, savepoint: str | None = None) -> None:
    """Roll back on the way out of a failed transaction, or to the savepoint; a link that can't is broken off."""
    link = connection._link
    if link is None or not link.driver.is_open(link.raw):
        return  # the server has rolled back by itself
    link.undo()
    try:
        roll_back(connection, savepoint)
    except (BlockingCallError, Warning):  # nothing was sent
        raise
    except Exception:
        # What follows on this connection must not run as if the transaction were still the one it was.
        link.break_link()
