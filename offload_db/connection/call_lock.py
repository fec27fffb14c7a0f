"""Whose turn it is on one connection.

Owns the order of the calls that share a connection: those of tasks, threads and whole bridged calls. Does not know what
the calls do.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref

import greenlet

from ..bridge import arms
from ..bridge.call_scope import BridgedCall, waits_on_itself
from ..bridge.caller_identity import flow
from ..bridge.place import Place, place
from ..bridge.portal import suspend
from ..bridge.settling import Settling
from ..bridge.signals import TaskEvent, ThreadEvent, task_event
from ..errors import BlockingCallError, CheckoutTimeout, ConnectionClosed
from ..statistics import CallPath
from .call_sites import call_path

logger = logging.getLogger("offload_db")

# Seconds that a caller waits for a shared connection before the log says who has it.
LONG = 5.0

# Seconds that a call waits for one before it runs as before, on the loop's own thread.
LONGEST = 30.0

SHARING = (
    "a shared connection belongs to the call that uses it until that call ends: of a call that goes on for long, "
    "decorate what it does in each round instead of the whole, or take a connection from a pool for each "
    "(guide: How a handler runs)"
)


class CallLock(Settling[BridgedCall]):
    """Whose turn it is on one connection.

    Calls are made one at a time. A connection that several bridged calls share belongs to the first that uses it,
    until that call ends or closes it; the tasks it started share the ownership. Who waits does not block the loop.

    What belongs to no bridged call, such as a thread of an executor's, may use a connection that is one call's alone:
    it was opened since that call began, or for it and given to it, and no other call has used it. So whoever has it has
    it from there.

    :param owner: the bridged call that the connection belongs to from the start
    """

    __slots__ = (
        "__weakref__",
        "_born",
        "_busy",
        "_given",
        "_line",
        "_listed",
        "_new",
        "_only",
        "_owner",
        "_queue",
        "_since",
        "_taker",
        "_thread",
        "closed",
    )

    def __init__(self, owner: BridgedCall | None = None) -> None:
        self._lock = threading.Lock()
        self._busy = False
        self._taker = 0  # the greenlet whose turn it is: a thread's own, or a bridged task's
        self.closed = False
        """Whether the connection is closed, and nobody gets a turn any more."""
        self._born = self._since = time.monotonic()
        self._new, self._given = True, False
        self._owner: BridgedCall | None = None
        self._only: BridgedCall | None = None  # the call whose connection it is alone
        self._thread = 0  # whose turn it is, if it belongs to no call
        self._line = ""  # where the owner has used it last while others waited
        self._listed: BridgedCall | None = None  # in whose `owned` this is: the owner, or the last one that let go
        self._returned = []  # calls that have ended
        self._queue: list[_Waiting] = []
        if owner is not None:
            self._own(owner)  # from here on the owner may end, in another thread

    def renew(self) -> None:
        """Begin anew in a forked child: a thread of the parent may have been at its turn."""
        CallLock.__init__(self)

    def acquire(self, scope: BridgedCall | None, patience: float | None = None, *, shield: bool = False) -> bool:
        """Wait for the caller's turn; False if it goes on without the lock, and has none to release.

        :param scope: the bridged call that the caller belongs to
        :param patience: seconds to wait at most
        :param shield: keep cancellations from interrupting; for what has to be done on the way out
        :raises TimeoutError: if they are over; it says whose turn it is
        :raises ConnectionClosed: if the connection is closed, or gets closed by the call it belongs to
        :raises CheckoutTimeout: if it belongs to a call that waits for this one in turn, so that it would never come
        :raises BlockingCallError: on the event loop's thread, if the connection belongs to another call: its code
            could not go on while the thread waits
        """
        own: BridgedCall | None = None
        taker = id(greenlet.getcurrent())
        call = None if arms.choose is None else arms.current_call()
        if call is not None and self._born < call.began:
            call.used.add(self)
        try:
            with self._lock:
                if self.closed:
                    raise closed_error()
                if self._busy and self._taker == taker:
                    self._busy = False  # calls of one greenlet follow each other: an exception came after the last one
                if not self._busy and (scope is self._owner is not None or self._may(scope)):
                    self._taker = taker
                    self._busy = True
                    if scope is None:
                        self._thread = threading.get_ident()
                    elif scope is not self._owner:
                        self._own(scope)
                    if scope is not None and self._queue:
                        self._line = _line()
                    return True
                where = place()
                if where is Place.LOOP:
                    if self._may(scope):
                        # The task whose turn it is may need the loop to go on, so the loop's thread must not wait for
                        # it. It goes first, and shares the link with no more than the call that is being made.
                        return False
                    raise BlockingCallError(
                        "the connection is shared, and another call that is under way owns it: using it here would "
                        f"mix into that call's work, {self._owner}; {remedy(call_path())}"
                    )
                own = scope if scope is not None and scope.flow == flow() else None
                if own is not None:
                    if waits_on_itself(own, self):
                        raise _hopeless_error()
                    own.waits_for = self
                waiting = _Waiting(scope, task_event() if where is Place.BRIDGED else ThreadEvent())
                self._queue.append(waiting)
        finally:
            if self._returned:
                self._settle()
        try:
            first = LONG if patience is None else min(patience, LONG)
            waiting.wait(first, shield)
            if waiting in self._queue:
                self._report(waiting)
                if patience is None or patience > first:
                    waiting.wait(None if patience is None else patience - first, shield)
        except BaseException:
            if not self._withdraw(waiting) and waiting.admitted:
                self.release()
            raise
        finally:
            if own is not None:
                own.waits_for = None
            if call is not None:
                call.kept_waiting += time.monotonic() - waiting.since
        if self.closed:
            raise closed_error()
        if self._withdraw(waiting):
            raise TimeoutError(f"no turn on the connection within {patience:.2f} s: {self._holder(scope)}")
        return True

    async def wait_for_loop(self) -> bool:
        """Wait, in a task, until the connection belongs to no call, for code that will use it on the loop's own thread.

        :return: whether that is so now, and :meth:`release` has to be called in the end: until then no call gets it.
            False if it belongs to none anyway, or if the wait was too long
        """
        waiting = _Waiting(None, signal := task_event())
        waiting.taker = 0  # no greenlet's: what the code does on the connection then ends no turn
        with self._lock:
            if not self.closed and self.owner is not None:
                self._queue.insert(0, waiting)
        self._settle()
        if waiting not in self._queue and not waiting.admitted:
            return False
        try:
            await signal.wait_for(LONGEST)
        except BaseException:
            if not self._withdraw(waiting) and waiting.admitted:
                self.release()
            raise
        return not self._withdraw(waiting) and waiting.admitted

    def admits(self, scope: BridgedCall | None) -> bool:
        """Tell whether a caller is kept waiting by the call that is being made alone, and by no owner."""
        return self._may(scope)

    def _report(self, waiting: _Waiting) -> None:
        """Say once for each call in the log that it keeps others waiting."""
        owner = self.owner
        if owner is not None and not owner.reported and not self._may(waiting.scope):
            owner.reported = True
            logger.warning("%d wait for a shared connection: %s", len(self._queue), self._holder(waiting.scope))

    def _holder(self, scope: BridgedCall | None) -> str:
        """Tell whose turn it is, or who keeps the caller from its own, and what to do about it."""
        owner = self.owner
        if owner is not None and not self._may(scope):
            last = f", which has used it last at {self._line}" if self._line else ""
            return f"it has belonged to {owner} for {time.monotonic() - self._since:.1f} s{last}; {SHARING}"
        names = (thread.name for thread in threading.enumerate() if thread.ident == self._thread)
        call = "a call that has ended" if owner is None else owner
        who = f"thread {next(names, self._thread)!r}" if self._thread else f"a task or thread of {call}"
        return f"{who} makes a call on it that is not over; take a connection for each that is to work at the same time"

    @property
    def lender(self) -> BridgedCall | None:
        """The one bridged call that has ever used the connection, if it owns it now."""
        only = self._only
        return only if only is not None and only is self._owner and not only.ended else None

    @property
    def owner(self) -> BridgedCall | None:
        """The call that the connection belongs to."""
        owner = self._owner
        return None if owner is None or owner.ended else owner

    @property
    def lent(self) -> bool:
        """Whether it is the turn of code outside of any bridged call, on a bridged call's connection."""
        return self._thread != 0 and self.lender is not None

    @property
    def free(self) -> bool:
        """Whether nobody has the lock or waits for it."""
        return not self._busy and not self._queue

    def release(self) -> None:
        """Let the next caller have its turn."""
        with self._lock:
            if not self.closed:
                self._busy = False
                self._thread = 0
                if self._queue:
                    self._admit()
        if self._returned:
            self._settle()

    def close(self, *, unless_busy: bool = False, scope: BridgedCall | None = None) -> bool:
        """Let nobody have a turn any more: the connection is closed; False if it was already.

        :param unless_busy: only where it is the turn of nobody else, and the connection not another call's
        :param scope: the bridged call that the caller belongs to
        """
        with self._lock:
            if self.closed or (unless_busy and (self._busy or not (scope is self._owner or self._may(scope)))):
                return False
            self.closed = True
            self._busy = False
            if self._listed is not None:
                self._listed.owned.pop(self, None)
            self._listed = self._owner = self._only = None
            while self._queue:
                self._queue.pop(0).signal.set()
        if self._returned:
            self._settle()
        return True

    def _may(self, scope: BridgedCall | None) -> bool:
        owner = self._owner
        return owner is None or owner is scope or owner.ended or (scope is None and owner is self._only)

    def _own(self, scope: BridgedCall) -> None:
        """Let the connection belong to a bridged call."""
        if scope.ended:
            return
        if self._new:
            self._new = False
            self._only = scope if scope.began <= self._born else None
            if self._only is None:
                shared_locks.add(self)
        elif scope is not self._only:
            if self._only is not None:
                shared_locks.add(self)
            self._only = None
        self._owner = scope
        self._since = time.monotonic()
        self._line = ""
        if self._listed is not None:
            self._listed.owned.pop(self, None)
        self._listed = scope
        scope.owned[self] = None

    def entrust(self, scope: BridgedCall) -> None:
        """Note that a bridged call was given the connection, by the call that opened it or from outside of any."""
        with self._lock:
            opener = self._only
            if self._new or (opener is not None and opener.ended and not self._given):
                self._new, self._given = False, True
                self._only = scope
        self._settle()

    def disown(self, scope: BridgedCall) -> None:
        """End the ownership of a bridged call, because that has ended or lets go."""
        # The collector may end a scope in the middle of anything, also of a section under this very lock.
        self._returned.append(scope)
        self._settle()

    def _take_back(self, returned: BridgedCall) -> None:
        if self._owner is returned:
            self._owner = None

    def _admit(self) -> None:
        while self._queue and not self._busy:
            waiting = next((waiting for waiting in self._queue if self._may(waiting.scope)), None)
            if waiting is None:
                return
            self._queue.remove(waiting)
            if waiting.signal.set():  # or its loop has ended, and it with it
                waiting.admitted = True
                self._taker = waiting.taker
                self._busy = True
                self._thread = 0 if waiting.scope is not None else waiting.thread
                if waiting.scope is not None and waiting.scope is not self._owner:
                    self._own(waiting.scope)

    def _withdraw(self, waiting: _Waiting) -> bool:
        """Take a waiter out of the queue; False if its turn has come already, or the connection was closed."""
        try:
            with self._lock:
                if waiting in self._queue:
                    self._queue.remove(waiting)
                    return True
                return False
        finally:
            self._settle()


shared_locks: weakref.WeakSet[CallLock] = weakref.WeakSet()
"""Those of connections that several bridged calls have used."""


class _Waiting:
    __slots__ = ("admitted", "scope", "signal", "since", "taker", "thread")

    def __init__(self, scope: BridgedCall | None, signal: TaskEvent | ThreadEvent) -> None:
        self.scope = scope
        self.signal = signal
        self.thread = threading.get_ident()
        self.admitted = False
        self.since = time.monotonic()
        self.taker = id(greenlet.getcurrent())

    def wait(self, seconds: float | None, shield: bool) -> None:
        """Wait until it is admitted, or the seconds are over."""
        if isinstance(self.signal, TaskEvent):
            suspend(self.signal.wait_for(seconds, shield))
        else:
            self.signal.wait(seconds, shield)


def remedy(path: CallPath) -> str:
    """Say what to decorate where a call would block the event loop, and where the way to it begins."""
    first, last = path.lines[0], path.lines[-1]
    begins = "" if first is last else f" (from {last.file}:{last.line} in {last.function})"
    return f"put @offload_db.offload on the async def that leads here{begins}, directly below its route decorator"


def _line() -> str:
    file, line, _ = call_path().lines[0]
    return f"{file}:{line}"


def _hopeless_error() -> CheckoutTimeout:
    return CheckoutTimeout.because(
        "the shared connection belongs to a call that waits, itself or by way of others, for one that belongs to this "
        "call: neither could ever go on; use shared connections in the same order everywhere, or take connections "
        "from a pool (guide: How a handler runs)"
    )


def closed_error() -> ConnectionClosed:
    """Make the error for using a connection after it was closed."""
    return ConnectionClosed.because("the connection is closed; take a new one from the pool")
