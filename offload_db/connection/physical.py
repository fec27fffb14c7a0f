"""Calls on one physical connection.

Owns what happens to a call whose task is cancelled or whose time is over. ``executor.py`` decides which thread runs a
call, ``call_lock.py`` whose turn it is, ``killer.py`` how a statement is killed; ``session_state.py`` knows what state
the session is in. Where connections come from and go to is not known here.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from ..bridge.call_scope import Deadline, current_bridged_call, current_deadline, current_setting
from ..bridge.cancellation import Cancellation
from ..drivers.base import READ_OUT_BYTES, READ_OUT_SECONDS, Driver, Identity
from ..errors import BlockingCallError, CallCancelled, CheckoutTimeout, OffloadError, StatementTimeout
from .call_lock import CallLock, closed_error
from .executor import Executor, Expired
from .killer import Connect, Killer, StoppableCall
from .session_state import SessionState

T = TypeVar("T")

logger = logging.getLogger("offload_db")

# Calls that are no statements and begin no transaction, and those of which it is known what they do.
_BEGIN_NOTHING = frozenset({"close", "cursor", "fetch", "nextset", "ping", "store_result", "use_result"})
_KNOWN = frozenset({"autocommit", "begin", "commit", "rollback", "select_db", "set_character_set", "set_charset"})

# Calls that end what a cancelled call has begun.
_UNWIND = frozenset({"close", "cursor", "rollback"})

# Seconds that a call waits for its turn on a connection that belongs to no pool, as a pool's checkout_timeout is.
TURN_TIMEOUT = 30.0

# Seconds that putting a connection in order may take before it is thrown out instead.
TIDY_TIMEOUT = 10.0
# Seconds that a call may always take which must be made.
SHORTEST_LIMIT = 0.01


class Lease(Protocol):
    """A checkout of a link."""

    def strand(self) -> None:
        """Take the link back from a task whose event loop was closed in the middle of a call."""


class Opener(Protocol):
    """What has opened a connection."""

    def prepare(self, raw: Any) -> None:
        """Run the user's statements for a new connection on one that has connected anew; waits for the server."""


class DriverCall(StoppableCall, Generic[T]):
    """One call on a link, as it is made on a worker."""

    __slots__ = ("_function", "_link", "_name", "_statement", "_turn")

    def __init__(
        self,
        link: PhysicalConnection,
        name: str,
        function: Callable[[], T],
        turn: CallLock,
        *,
        statement: bool,
        killable: bool,
    ) -> None:
        super().__init__(link.raw, link.driver, link.identity, killable=killable, connect=link.connect_admin)
        self._link = link
        self._turn = turn
        self._name = name
        self._function = function
        self._statement = statement

    def make(self) -> T:
        """Make the call; notes what it says of the link."""
        link = self._link
        with link._wire:
            link._call = self
            if self._turn.closed:  # by the loop's own thread, which waits for no turn
                link._call = None
                self.finished.set()
                raise closed_error()
            started = time.perf_counter()
            try:
                link.prepare(self._name)
                return self._function()
            except BaseException as error:
                lost = link.classify_error(error, self._name)
                if lost is None:
                    raise
                try:
                    raise lost from error
                finally:
                    del lost  # or its traceback would make a cycle of it, see bridge.Outcome
            finally:
                link._call = None
                self.finished.set()
                if self._statement:
                    link.statements += 1
                    link._workers.counters.ran_statement(time.perf_counter() - started)

    def stop(self) -> None:
        """Bring the call back, because its own time is over or its task cancelled."""
        self.late = True
        self._link._killer.stop(self)

    def cancel(self) -> None:
        """Bring the call back, because the task that waits for its thread is cancelled."""
        self._link._workers.counters.add("cancelled")
        self._link._killer.stop(self)


class PhysicalConnection(SessionState):
    """One physical connection, and the making of calls on it.

    :param raw: the driver's own connection
    :param killer: stops what runs on it
    """

    __slots__ = (
        "__weakref__",
        "_call",
        "_killer",
        "_timeout",
        "_wire",
        "_workers",
        "born",
        "connect_admin",
        "connector",
        "expires",
        "lease",
        "patience",
        "rested",
        "shares",
        "statements",
        "turn",
        "waiting_loop",
    )

    def __init__(
        self,
        raw: Any,
        driver: Driver,
        identity: Identity | None,
        workers: Executor,
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
        self.shares = driver.shares(raw)
        """Whether its calls may share a thread with those of others."""
        self._workers = workers
        self._killer = killer
        # Held while a call is on the wire. Turns keep calls apart already; this is for the loop's thread, which may
        # not wait for its turn, and for the end of the pool.
        self._wire = threading.Lock()
        self._call: StoppableCall | None = None
        self._timeout: float | None = None
        self.patience: float | None = TURN_TIMEOUT
        """Seconds that a call waits for its turn; None waits for ever."""
        self.turn = CallLock()
        self.lease: Callable[[], Lease | None] = _nobody
        """Gives the checkout that has the link."""
        self.waiting_loop: Any = None
        """The event loop of the task that waits for a call to come back."""

    def renew(self, statement_timeout: float | None = None, patience: float | None = TURN_TIMEOUT) -> None:
        """Begin a new checkout: nobody who used the link before has a turn on it."""
        self.turn = CallLock(current_bridged_call())
        self.half_done = None
        self._timeout = statement_timeout
        self.patience = patience

    def after_fork(self) -> None:
        """Let go of the link in a forked child: it is the parent's."""
        self.fault = "lost"
        self.turn.renew()
        self._wire, self._call = threading.Lock(), None
        self._killer.renew()
        self.driver.disown(self.raw)

    @property
    def is_stranded(self) -> bool:
        """Whether the task that made the last call can never go on: its loop was closed before it was resumed."""
        loop = self.waiting_loop
        return loop is not None and not self.busy and loop.is_closed()

    def strand(self) -> None:
        """Take the link back from a task that can never go on."""
        lease = self.lease()
        if lease is not None:
            self.waiting_loop = None
            lease.strand()

    def call(
        self,
        name: str,
        function: Callable[[], T],
        turn: CallLock,
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
        :param turn: whose turn it is in the caller's checkout; the link may be in another one by now
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
            deadline, cancellation = setting.deadline, setting.cancellation
        else:
            lender = turn.lender
            deadline, cancellation = None, None if lender is None else lender.cancellation
        taken = False
        try:
            taken = self._take(name, turn, deadline, shield)
            if self.half_done is not None:
                self._undo_half_done(turn, deadline, cancellation)
            return self._call_now(
                name,
                function,
                turn,
                deadline,
                cancellation,
                statement=statement,
                killable=killable,
                shield=shield,
                timeout=timeout,
                shared=shared and self._shares_now(name),
                text=text,
            )
        except BaseException as error:
            cancelled = not isinstance(error, Exception) or (cancellation is not None and cancellation.requested)
            if cancelled and taken and self.half_done is None:
                self.half_done = turn.owner
            if isinstance(error, CallCancelled):
                raise self.driver.disguised(error) from None
            raise
        finally:
            if taken:
                turn.release()

    def _undo_half_done(self, turn: CallLock, deadline: Deadline | None, cancellation: Cancellation | None) -> None:
        """Roll back what a cancelled call has left open, where the caller does not belong to that call.

        The call's own code may not have: ``except Exception`` does not see a cancellation. Whoever uses the connection
        next would commit half a transaction.
        """
        if turn.owner is self.half_done:
            return
        if self.clean or not self.driver.is_open(self.raw):
            self.half_done = None
            return
        self.undo()
        self._call_now(
            "rollback",
            self._roll_back,
            turn,
            deadline,
            cancellation,
            statement=False,
            killable=False,
            shield=False,
            timeout=TIDY_TIMEOUT,
            shared=False,
            text=None,
        )

    def _roll_back(self) -> None:
        self.skip_unread()
        self.raw.rollback()
        self.transaction_ended()

    def _take(self, name: str, turn: CallLock, deadline: Deadline | None, shield: bool) -> bool:
        patience = self.patience
        if deadline is not None:
            patience = deadline.left if patience is None else min(deadline.left, patience)
        try:
            return turn.acquire(patience, shield=shield)
        except CheckoutTimeout as error:  # nor would waiting on have helped
            raise self.driver.disguised(error) from None
        except TimeoutError as error:
            if deadline is not None and not deadline.left:
                late = self._late(name, None, f"another call kept the shared connection, and {deadline}; {error}")
            else:
                late = self.driver.disguised(CheckoutTimeout.because(str(error)))
            raise late from None

    def _call_now(
        self,
        name: str,
        function: Callable[[], T],
        turn: CallLock,
        deadline: Deadline | None,
        cancellation: Cancellation | None,
        *,
        statement: bool,
        killable: bool,
        shield: bool,
        timeout: float | None,
        shared: bool,
        text: object,
    ) -> T:
        if statement or name == "query":
            self.note_statement(text)
        elif name in _KNOWN:
            self._begun = True
            if name != "rollback":  # which is to know what it ends
                self._text = None
        elif name not in _BEGIN_NOTHING:
            self.unseen()
        limits = [limit for limit in (self._timeout, timeout) if limit is not None]
        if deadline is not None:
            limits.append(deadline.left)
        limit = min(limits, default=None)
        call = DriverCall(self, name, function, turn, statement=statement, killable=killable)
        started = time.monotonic()
        error: Exception | None = None
        self.waiting_loop = asyncio._get_running_loop()
        try:
            if limit is None or limit > 0:
                make: Callable[[], T] = call.make
                if cancellation is not None:
                    unwinding = name in _UNWIND or _rolls_back(text)
                    make, shared = partial(_cancellable, cancellation, call, unwinding=unwinding), False
                result = self._workers.run(
                    name,
                    make,
                    shield=shield,
                    timeout=limit,
                    stop=call.stop,
                    stranded=self.strand,
                    shared=shared,
                    text=text,
                )
                if not (call.late and call.stopped):
                    return result
        except Expired:
            pass
        except Exception as raised:
            if not (call.late and call.stopped):
                raise
            error = raised
        finally:
            self.waiting_loop = None
            if deadline is not None:
                deadline.spend("fetching" if name == "fetch" else "executing", time.monotonic() - started)
            if call.killed:
                self.killed()
        reason = f"its timeout of {limit:.2f} s is over" if deadline is None or deadline.left > 0 else str(deadline)
        try:
            raise self._late(name, call, reason) from error
        finally:
            del error

    def _shares_now(self, name: str) -> bool:
        """Tell whether a call may share a thread, when it is its turn."""
        if not (self.shares and self.driver.reads_as_usual(self.raw)):
            return False
        return name != "rollback" or not self.driver.unread(self.raw)  # else something may have to be killed first

    def _late(self, name: str, call: StoppableCall | None, reason: str) -> OffloadError:
        self._workers.counters.add("timeouts")
        if call is None or not call.stopped:
            error = StatementTimeout.because(f"{name} was not sent: {reason}")
            error.may_have_run = False
            return self.driver.disguised(error)
        how = "was killed"
        if call.was_cut:
            how = "was sent a kill that took no effect in time" if call.killed else "could not be killed"
            how = f"{how}, and its link was cut"
        error = StatementTimeout.because(
            f"{name} {how}: {reason}; it was not repeated, and a write may or may not have taken effect"
        )
        return self.driver.disguised(error)

    def interrupt(self) -> None:
        """Bring back the call that is being made, if any; for who does not make it. May take some seconds."""
        call = self._call
        if call is not None:
            self._killer.stop(call)
            if call.killed:  # who made the call may have gone on before that was known
                self.killed()

    @property
    def busy(self) -> bool:
        """Whether a call is being made."""
        return self._call is not None

    def read_out(self) -> None:
        """Read what is left of the answer to a statement that may still write, so that it comes to its end.

        What the server says in the place of a result is logged: the caller is done with it. Past
        :data:`READ_OUT_SECONDS` or :data:`READ_OUT_BYTES` the link is broken, which is logged, too, and the server goes
        on by itself until it has something to send. If the task is cancelled, the cancellation is raised when all is
        read; cancel scopes do not interrupt.

        :raises StatementTimeout: if a limit of the user's is over; the statement was killed
        """
        deadline = current_deadline()
        limits = [limit for limit in (self._timeout, None if deadline is None else deadline.left) if limit is not None]
        wanted = min(limits, default=math.inf)
        limit = max(SHORTEST_LIMIT, min(wanted, READ_OUT_SECONDS))
        until = time.monotonic() + limit
        call = DriverCall(self, "close", self._read_out, CallLock(), statement=False, killable=True)

        def stop() -> None:
            call.finished.wait(max(0.0, until - time.monotonic()))  # a cancelled task takes no time from it
            if call.finished.is_set():
                return
            if wanted <= READ_OUT_SECONDS:
                call.stop()
            else:
                call.cut()

        failed = ""
        try:
            self._workers.run("close", call.make, shield=True, timeout=limit, stop=stop)
        except (BlockingCallError, Warning):  # and nothing was read
            raise
        except Exception as error:
            failed = f"{type(error).__name__} {self.driver.code(error) or ''}"
        if call.late and call.stopped:
            self.fault = "unread_result"
            reason = f"its timeout of {limit:.2f} s is over" if wanted == self._timeout else str(deadline)
            raise self._late("close", call, reason)
        if call.stopped and not call.killed:
            self._not_read_out(f"it takes longer than {READ_OUT_SECONDS:.0f} s")
        elif failed or call.killed:  # by the end of the pool
            logger.warning(
                "a statement failed after its connection was given back with its answer not read to the end: %s",
                failed or "it was killed",
            )

    def _read_out(self) -> None:
        if not self.driver.read_out(self.raw, READ_OUT_BYTES):
            self._not_read_out(f"it has more than {READ_OUT_BYTES // 2**20} MB")

    def _not_read_out(self, why: str) -> None:
        self.fault = "unread_result"
        logger.warning(
            "the answer to a statement that may still write was not read to its end after its connection was given "
            "back: %s. The connection is closed, and what the statement has not done by now may stay undone; close the "
            "cursor, or fetch its results, before the connection",
            why,
        )

    def _stoppable(self, *, killable: bool) -> StoppableCall:
        return StoppableCall(self.raw, self.driver, self.identity, killable=killable, connect=self.connect_admin)

    def end_result(self) -> None:
        """Kill the statement whose rows have not been read to their end; the link must be closed next.

        If the task is cancelled, the cancellation is raised when it is done; cancel scopes do not interrupt.
        """
        call = self._stoppable(killable=True)
        self._workers.run("kill", partial(self._killer.end, call), shield=True)

    def skip_unread(self) -> None:
        """End the result that is being read, on the worker: it is to be rolled back, so nobody will read on.

        Of many rows none are waited for: the statement is killed, unless it may do what no rollback undoes.
        """
        driver, raw = self.driver, self.raw
        if not driver.unread(raw):
            return
        try:
            if driver.skip_few(raw):
                return
            if self.may_write:
                if driver.read_out(raw, READ_OUT_BYTES):
                    return
                logger.warning(
                    "a statement that may still write is killed before a rollback: it has more than %d MB left to send",
                    READ_OUT_BYTES // 2**20,
                )
            call = self._stoppable(killable=True)
            self._killer.end(call)
            driver.skip_killed(raw)  # where there was nothing to kill, the server has sent all that there is
            if call.killed:
                self.killed()
                driver.skip_killed(raw)
                self.absorb()
        except Exception as error:
            if not driver.in_step(error):  # else it is how the result ends
                raise

    def break_link(self) -> None:
        """Break the link under whoever holds it, whatever runs on it."""
        self.fault = self.fault or "closed"
        # Brings back who waits for an answer. To close the connection under them would wait for them: for a rollback
        # that the server does not answer as well, or for a call that has begun just now.
        with suppress(Exception):
            self.driver.cut(self.raw)
        if self._wire.acquire(blocking=False):
            try:
                self.driver.abandon(self.raw)
            finally:
                self._wire.release()

    def protect_from_kill(self) -> None:
        """Note, on the worker, that the call had better come to its end now: it is not to be killed any more."""
        if self._call is not None:
            self._call.killable = False

    def tidy(self) -> None:
        """Roll back what is open and put the session back as it was, within :data:`TIDY_TIMEOUT` seconds.

        If the task is cancelled, the cancellation is raised when it is done; cancel scopes do not interrupt.

        :raises Exception: if it could not be done; the link must be thrown out then
        """
        call = self._stoppable(killable=False)
        self._workers.run(
            "rollback",
            partial(self._restore, call),
            shield=True,
            timeout=TIDY_TIMEOUT,
            stop=partial(self._killer.stop, call),
            stranded=self.strand,
            # Unlocking tables takes a cursor, which may be one of the user's.
            shared=self._shares_now("tidy") and (not self.locked or self.driver.cursor_shares(self.raw.cursorclass)),
        )

    def _restore(self, call: StoppableCall) -> None:
        try:
            with self._wire:
                self.restore()
        finally:
            call.finished.set()


def _cancellable(cancellation: Cancellation, call: DriverCall[T], *, unwinding: bool) -> T:
    """Make a call, on its worker, in such a way that a cancellation stops it; returns when both are over."""
    cancellation.begin(call.cancel, unwinding=unwinding)
    try:
        return call.make()
    finally:
        cancellation.end(call.cancel)


def _rolls_back(text: object) -> bool:
    return isinstance(text, str) and len(text) < 20 and text.strip(" \t\r\n;").upper() == "ROLLBACK"


def _nobody() -> None:
    return None
