"""Calls on one physical connection.

Owns what happens to a call whose task is cancelled or whose time is over. ``executor.py`` decides which thread runs a
call, ``call_lock.py`` whose turn it is, ``killer.py`` how a statement is killed; ``session_state.py`` knows what state
the session is in. Where connections come from and go to is not known here.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeVar

from ..bridge.call_scope import BridgedCall, Deadline, current_setting
from ..bridge.cancellation import Cancellation
from ..bridge.dispatcher import Expired
from ..drivers.base import Driver, Identity
from ..drivers.sql_text import NOTHING, rolls_back, traces
from ..errors import CallCancelled, CheckoutTimeout, OffloadError
from .call_lock import CallLock
from .driver_call import Connect, DriverCall, cancellable
from .executor import Executor
from .killer import Killer
from .session_state import SessionState
from .unread_results import roll_back

T = TypeVar("T")

# Calls that are no statements and begin no transaction, and those of which it is known what they do.
_BEGIN_NOTHING = frozenset({"close", "cursor", "fetch", "nextset", "ping", "store_result", "use_result"})
_KNOWN = frozenset({"autocommit", "begin", "commit", "rollback", "select_db", "set_character_set", "set_charset"})

# Calls that end what a cancelled call has begun.
_UNWIND = frozenset({"close", "cursor", "rollback"})

# Seconds that a call waits for its turn on a connection that belongs to no pool, as a pool's checkout_timeout is.
TURN_TIMEOUT = 30.0

# Seconds that putting a connection in order may take before it is thrown out instead.
TIDY_TIMEOUT = 10.0


class Lease(Protocol):
    """A checkout of the connection."""

    def drop(self) -> None:
        """Give the link back without I/O."""

    def disown(self) -> None:
        """Note that nobody is left who could be waiting for another link while this one is out."""


class Opener(Protocol):
    """What opens a pool's connections."""

    def prepare(self, raw: Any) -> None:
        """Run the user's statements for a new connection on one that has connected anew; waits for the server."""


class PhysicalConnection(SessionState):
    """One physical connection, which makes the calls on it one at a time.

    :param raw: the driver's own connection
    :param killer: stops what runs on it
    """

    __slots__ = (
        "__weakref__",
        "born",
        "call_lock",
        "connect_admin",
        "connector",
        "current_call",
        "executor",
        "expires",
        "killer",
        "lease",
        "patience",
        "rested",
        "sees_rest",
        "shares",
        "statement_timeout",
        "statements",
        "waiting_loop",
        "wire",
    )

    def __init__(
        self,
        raw: Any,
        driver: Driver,
        identity: Identity | None,
        executor: Executor,
        killer: Killer,
        *,
        connector: Opener | None = None,
        connect_admin: Connect | None = None,
    ) -> None:
        super().__init__(raw, driver, identity)
        self.connector = connector
        """What opened the connection: those of another connector are of another kind."""
        self.connect_admin = connect_admin
        """What opens a connection to kill with, where that is not the killer's own."""
        self.born = self.rested = time.monotonic()
        self.expires = math.inf
        self.statements = 0
        self.sees_rest = driver.sees_rest(raw)
        """Whether it can be seen without a round trip that the server has closed it at rest."""
        self.shares = driver.shares(raw)
        """Whether its calls may share a thread with those of others, unless its user changes it."""
        self.executor = executor
        self.killer = killer
        # Held while a call is on the wire. The call lock keeps calls apart already; this one is for the event loop's
        # own thread, which does not wait for that one, and for the end of the pool.
        self.wire = threading.Lock()
        self.current_call: DriverCall | None = None
        self.statement_timeout: float | None = None
        self.patience: float | None = TURN_TIMEOUT
        """Seconds that a call waits for its turn; None waits for ever."""
        self.call_lock = CallLock()
        self.lease: Callable[[], Lease | None] = lambda: None
        """Gives the checkout that has the link."""
        self.waiting_loop: Any = None
        """The event loop of the task that waits for a call to come back."""

    def renew(
        self,
        scope: BridgedCall | None = None,
        statement_timeout: float | None = None,
        patience: float | None = TURN_TIMEOUT,
    ) -> None:
        """Begin a new checkout: nobody who used the link before has a turn on it.

        :param scope: the bridged call that it belongs to from the start
        :param statement_timeout: seconds that a statement may take
        :param patience: see :attr:`patience`
        """
        self.call_lock = CallLock(scope)
        self.half_done = None
        self.statement_timeout = statement_timeout
        self.patience = patience

    def after_fork(self) -> None:
        """Let go of the link in a forked child: it is the parent's."""
        self.fault = "lost"
        self.call_lock.renew()
        self.wire, self.current_call = threading.Lock(), None
        self.killer.renew()
        self.driver.disown(self.raw)

    @property
    def task_is_gone(self) -> bool:
        """Whether the task that made the last call can never go on: its loop was closed before it was resumed."""
        loop = self.waiting_loop
        return loop is not None and not self.busy and loop.is_closed()

    def take_back(self, call_lock: CallLock) -> None:
        """Take the link back from a task whose event loop was closed, if that task still has it.

        :param call_lock: the lock of that task's checkout
        """
        lease = self.lease()
        if lease is not None and self.call_lock is call_lock and call_lock.close():
            self.waiting_loop = None
            lease.drop()

    def call(
        self,
        name: str,
        function: Callable[[], T],
        call_lock: CallLock,
        *,
        statement: bool = False,
        killable: bool = True,
        shield: bool = False,
        timeout: float | None = None,
        shared: bool = False,
        text: object = None,
    ) -> T:
        """Make a driver call that may wait for the server, when it is the caller's turn.

        If the task is cancelled, the statement is killed and the cancellation raised when the call has come back.

        :param name: what is called, for reports
        :param call_lock: of the caller's checkout; the link may be in another one by now
        :param statement: count it as a statement
        :param killable: whether it is a statement that the server can be told to stop
        :param shield: keep cancel scopes from interrupting; for what has to be done on the way out
        :param timeout: seconds it may take; the checkout's and the bridged call's limits hold besides
        :param shared: whether nothing but the driver's own code runs, so that it may share a thread with others
        :param text: the statement that it executes, for reports
        :raises ConnectionLost: if the link broke; every other error of the driver passes unchanged
        :raises StatementTimeout: if the time is over
        :raises CheckoutTimeout: if the turn does not come within :attr:`patience`, or never can
        :raises CallCancelled: if the caller is in a worker thread, and the task that waits for it is cancelled
        """
        setting = current_setting()
        if setting is not None:
            scope, deadline, cancellation = setting.scope, setting.deadline, setting.cancellation
        else:
            lender = call_lock.lender
            scope, deadline, cancellation = None, None, None if lender is None else lender.cancellation
        taken = False
        try:
            patience, by_deadline = self.patience, False
            if deadline is not None and (patience is None or deadline.left < patience):
                patience, by_deadline = deadline.left, True
            try:
                taken = call_lock.acquire(scope, patience, shield=shield)
            except (CheckoutTimeout, TimeoutError) as error:
                raise self._turn_error(error, name, deadline, by_deadline=by_deadline) from None
            if self.half_done is not None:
                self._undo_half_done(call_lock, deadline, cancellation)
            return self._call_now(
                name,
                function,
                call_lock,
                deadline,
                cancellation,
                statement=statement,
                killable=killable,
                shield=shield,
                timeout=timeout,
                # Where a result is unread, a rollback may have to kill first.
                shared=shared and self.shares_now and not (name == "rollback" and self.driver.unread(self.raw)),
                text=text,
            )
        except BaseException as error:
            cancelled = not isinstance(error, Exception) or (cancellation is not None and cancellation.requested)
            if cancelled and taken and self.half_done is None:
                self.half_done = call_lock.owner
            if isinstance(error, CallCancelled):
                raise self.driver.disguised(error) from None
            raise
        finally:
            if taken:
                call_lock.release()

    def call_privately(self, name: str, function: Callable[[], T], *, shared: bool, text: object) -> T:
        """Execute a statement over a connection that nobody else has, so without a turn; else like :meth:`call`."""
        setting = current_setting()
        try:
            return self._call_now(
                name,
                function,
                self.call_lock,
                None if setting is None else setting.deadline,
                None if setting is None else setting.cancellation,
                statement=True,
                killable=True,
                shared=shared and self.shares_now,
                text=text,
            )
        except CallCancelled as error:
            raise self.driver.disguised(error) from None

    def _undo_half_done(
        self, call_lock: CallLock, deadline: Deadline | None, cancellation: Cancellation | None
    ) -> None:
        """Roll back what a cancelled call has left open, where the caller does not belong to that call.

        The call's own code may not have: ``except Exception`` does not see a cancellation. Whoever uses the connection
        next would commit half a transaction.
        """
        if call_lock.owner is self.half_done:
            return
        if self.clean or not self.driver.is_open(self.raw):
            self.half_done = None
            return
        self.undo()
        undo = partial(roll_back, self)
        self._call_now("rollback", undo, call_lock, deadline, cancellation, timeout=TIDY_TIMEOUT)

    def _turn_error(self, error: Exception, name: str, deadline: Deadline | None, *, by_deadline: bool) -> OffloadError:
        """Make the error for a turn that did not come."""
        if isinstance(error, CheckoutTimeout):  # nor would waiting on have helped
            return self.driver.disguised(error)
        if by_deadline:  # its time may not be over yet: an event loop may wake a little early
            call = DriverCall(self, name, killable=False)
            return call.timeout_error(f"another call kept the shared connection, and {deadline}; {error}")
        return self.driver.disguised(CheckoutTimeout.because(str(error)))

    def _call_now(
        self,
        name: str,
        function: Callable[[], T],
        call_lock: CallLock,
        deadline: Deadline | None,
        cancellation: Cancellation | None,
        *,
        statement: bool = False,
        killable: bool = False,
        shield: bool = False,
        timeout: float | None = None,
        shared: bool = False,
        text: object = None,
    ) -> T:
        if statement or name == "query":
            self._text, self.ended_by_kill = text, False
            left = traces(text)
            if left is not NOTHING:
                self.note(left)
        elif name in _KNOWN:
            self._begun = True
            if name != "rollback":  # which is to know what it ends
                self._text = None
        elif name not in _BEGIN_NOTHING:
            self.unseen()
        limit = self.statement_timeout
        if timeout is not None and (limit is None or timeout < limit):
            limit = timeout
        if deadline is not None:
            limit = deadline.left if limit is None else min(limit, deadline.left)
        call = DriverCall(self, name, function, call_lock, killable=killable, statement=statement)
        started = time.monotonic()
        error: Exception | None = None
        self.waiting_loop = asyncio._get_running_loop()
        try:
            if limit is None or limit > 0:
                make: Callable[[], T] = call.make
                if cancellation is not None:
                    unwinding = name in _UNWIND or rolls_back(text)
                    make, shared = partial(cancellable, cancellation, call, make, unwinding=unwinding), False
                result = self.executor.run(
                    name,
                    make,
                    shield=shield,
                    timeout=limit,
                    stop=call.stop,
                    on_closed_loop=call.take_back,
                    shared=shared,
                    text=text,
                )
                if not (call.late and call.stopped):
                    return result
        except Expired:
            pass
        except GeneratorExit:
            # Nobody waits for the kill of what is thrown away. Only one by a query's id cannot meet the next statement.
            if call.identity is not None and not call.identity.by_query:
                self.fault = self.fault or "driver_error"
            raise
        except Exception as raised:
            if not (call.late and call.stopped):
                raise
            error = raised
        finally:
            self.waiting_loop = None
            if deadline is not None:
                deadline.spend("fetching" if name == "fetch" else "executing", time.monotonic() - started)
            if call.killed:
                self.statement_killed()
        which = " (statement_timeout)" if limit == self.statement_timeout else ""
        late = deadline is not None and deadline.left <= 0
        reason = str(deadline) if late else f"its timeout of {limit:.2f} s is over{which}"
        try:
            raise call.timeout_error(reason) from error
        finally:
            del error

    def interrupt(self) -> None:
        """Stop the call that is being made, if any, from another thread. May take some seconds."""
        call = self.current_call
        if call is not None:
            self.killer.stop(call)
            if call.killed:  # who made the call may have gone on before that was known
                self.killed()

    @property
    def shares_now(self) -> bool:
        """Whether a call may share a thread with those of others, when it is its turn."""
        return self.shares and self.driver.reads_as_usual(self.raw)

    @property
    def busy(self) -> bool:
        """Whether a call is being made."""
        return self.current_call is not None

    def break_link(self) -> None:
        """Break the link under whoever holds it, whatever runs on it."""
        self.fault = self.fault or "closed"
        # Brings back who waits for an answer. To close the connection under them would wait for them: for a rollback
        # that the server does not answer as well, or for a call that has begun just now.
        with suppress(Exception):
            self.driver.cut(self.raw)
        if self.wire.acquire(blocking=False):
            try:
                self.driver.abandon(self.raw)
            finally:
                self.wire.release()

    def protect_from_kill(self) -> None:
        """Let the call that is being made come to its own end: it is not killed any more. For the call's own thread."""
        if self.current_call is not None:
            self.current_call.killable = False
