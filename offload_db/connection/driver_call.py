"""One call of a method of the driver's.

Makes it, and knows whether it has come back, was killed or cut, and whether its time was over. How it is killed is
``killer.py``'s, whose turn it is ``call_lock.py``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from ..bridge.cancellation import Cancellation
from ..bridge.signals import ThreadEvent
from ..drivers.base import Driver, Identity
from ..errors import OffloadError, StatementTimeout
from .call_lock import CallLock, closed_error
from .executor import Executor

T = TypeVar("T")

Connect = Callable[[float], Any]
"""Opens a connection to kill with, given the seconds that it may take."""


class Stops(Protocol):
    """What stops calls: the killer."""

    def stop(self, call: DriverCall) -> None:
        """Kill its statement, or cut its connection."""


class Link(Protocol):
    """What a call needs of the physical connection that it is made on."""

    raw: Any
    driver: Driver
    identity: Identity | None
    connect_admin: Connect | None
    executor: Executor
    wire: threading.Lock
    statements: int

    @property
    def killer(self) -> Stops:
        """What stops the call."""

    current_call: DriverCall | None

    def prepare(self, name: str) -> None:
        """Get ready for the call."""

    def classify_error(self, error: BaseException, name: str) -> OffloadError | None:
        """Note what an error says of the connection; returns the one to raise in its place."""

    def take_back(self, call_lock: CallLock) -> None:
        """Take the link back from a task whose event loop was closed, if that task still has it."""


class DriverCall:
    """One call of the driver's, and whether it has come back or had to be brought back.

    :param link: what it is made on
    :param name: what is called, for reports
    :param function: what :meth:`make` calls
    :param call_lock: of the checkout that makes it
    :param killable: whether it is a statement that the server can be told to stop
    :param statement: count it as a statement
    """

    # What is handed on of a call are its methods, so it has what it is made with: of all calls that wait, the garbage
    # collector looks at everything they hold.
    __slots__ = (
        *("_call_lock", "_function", "_statement"),
        *("finished", "identity", "killable", "killed", "late", "link", "name", "was_cut"),
    )

    def __init__(
        self,
        link: Link,
        name: str,
        function: Callable[[], Any] | None = None,
        call_lock: CallLock | None = None,
        *,
        killable: bool,
        statement: bool = False,
    ) -> None:
        self.link = link
        self._function = function
        self._call_lock = call_lock
        self._statement = statement
        self.name = name
        self.identity = link.identity
        """The session that a kill has to meet: a call may replace it by another."""
        self.killable = killable
        self.finished = ThreadEvent()
        self.killed = False
        """Whether a kill was sent while the statement ran."""
        self.late = False
        """Whether it was to be stopped because its own time was over, and not by the end of the pool."""
        self.was_cut = False
        """Whether its connection was cut, because it did not come back otherwise."""

    @property
    def connect(self) -> Connect | None:
        """What opens a connection to kill it with; None leaves that to the killer."""
        return self.link.connect_admin

    @property
    def stopped(self) -> bool:
        """Whether a kill was sent or the connection cut: the call may not have come to its own end."""
        return self.killed or self.was_cut

    def make(self) -> Any:
        """Make the call, on the thread that waits for the server; notes what it says of the connection."""
        link, function, call_lock = self.link, self._function, self._call_lock
        assert function is not None
        assert call_lock is not None
        with link.wire:
            link.current_call = self
            if call_lock.closed:  # by the loop's own thread, which waits for no turn
                link.current_call = None
                self.finished.set()
                raise closed_error()
            started = time.perf_counter()
            try:
                link.prepare(self.name)
                return function()
            except BaseException as error:
                lost = link.classify_error(error, self.name)
                if lost is None:
                    raise
                try:
                    raise lost from error
                finally:
                    del lost  # its traceback holds this frame, and the frame would hold it
            finally:
                link.current_call = None
                self.finished.set()
                if self._statement:
                    link.statements += 1
                    link.executor.counters.add_timed("statements", time.perf_counter() - started)

    def take_back(self) -> None:
        """Take the link back from the task that waits for the call, because its event loop was closed."""
        assert self._call_lock is not None
        self.link.take_back(self._call_lock)

    def stop(self) -> None:
        """Bring the call back, because its own time is over."""
        self.late = True
        self.link.killer.stop(self)

    def cancel(self) -> None:
        """Bring the call back, because the task that waits for its thread is cancelled."""
        self.link.executor.counters.add("cancelled")
        self.link.killer.stop(self)

    def cut(self) -> None:
        """Cut the connection under the call, whose thread then comes back with an error."""
        self.was_cut = True
        with suppress(Exception):
            self.link.driver.cut(self.link.raw)

    def timeout_error(self, reason: str) -> OffloadError:
        """Make the error for a call whose time is over, and count it.

        :param reason: which limit it was
        """
        link, name = self.link, self.name
        link.executor.counters.add("timeouts")
        if not self.stopped:
            error = StatementTimeout.because(f"{name} was not sent: {reason}")
            error.may_have_run = False
            return link.driver.disguised(error)
        how = "was killed"
        if self.was_cut:
            how = "was sent a kill that took no effect in time" if self.killed else "could not be killed"
            how = f"{how}, and its link was cut"
        error = StatementTimeout.because(
            f"{name} {how}: {reason}; it was not repeated, and a write may or may not have taken effect"
        )
        return link.driver.disguised(error)


def cancellable(cancellation: Cancellation, call: DriverCall, make: Callable[[], T], *, unwinding: bool) -> T:
    """Make a call that a cancellation of the waiting task stops; returns when the stopping is over as well."""
    cancellation.begin(call.cancel, unwinding=unwinding)
    try:
        return make()
    finally:
        cancellation.end(call.cancel)
