"""One call of the driver's on its way.

Owns what becomes of it: whether it has come back, was killed, cut, or came back late. How it is killed is
``killer.py``'s, whose turn it is ``call_lock.py``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from ..drivers.base import Driver, Identity
from ..errors import OffloadError
from .call_lock import CallLock, closed_error
from .executor import Executor

T = TypeVar("T")

Connect = Callable[[float], Any]
"""Opens a connection to kill with, given the seconds that it may take."""


class Stops(Protocol):
    """What brings a call back."""

    def stop(self, call: StoppableCall) -> None:
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

    current_call: StoppableCall | None

    def prepare(self, name: str) -> None:
        """Get ready for the call."""

    def classify_error(self, error: BaseException, name: str) -> OffloadError | None:
        """Note what an error says of the connection; returns the one to raise in its place."""


class _Finish:
    """The end of a call. It costs a tenth of a `threading.Event`, of which hardly any would be waited for."""

    __slots__ = ("_lock", "_over")

    def __init__(self) -> None:
        self._over = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake who waits; to be called once."""
        self._over = True
        self._lock.release()

    def is_set(self) -> bool:
        """Tell whether it has come."""
        return self._over

    def wait(self, seconds: float) -> None:
        """Wait for it, or until the seconds are over."""
        if not self._over and self._lock.acquire(timeout=seconds):
            self._lock.release()  # for others that wait


class StoppableCall:
    """One driver call that may have to be stopped."""

    __slots__ = ("_driver", "_raw", "connect", "finished", "identity", "killable", "killed", "late", "was_cut")

    def __init__(
        self,
        raw: Any,
        driver: Driver,
        identity: Identity | None,
        *,
        killable: bool,
        connect: Connect | None = None,
    ) -> None:
        self._raw = raw
        self._driver = driver
        self.identity = identity
        self.killable = killable
        self.connect = connect
        """What opens a connection to kill it with; None leaves that to the killer."""
        self.finished = _Finish()
        self.killed = False
        """Whether a kill was sent while the statement ran."""
        self.late = False
        """Whether it was to be stopped because its own time was over, and not by the end of the pool."""
        self.was_cut = False
        """Whether its link was cut, because it did not come back otherwise."""

    @property
    def stopped(self) -> bool:
        """Whether the call was brought back before its natural end, for all that is known."""
        return self.killed or self.was_cut

    def cut(self) -> None:
        """Cut the link under the call, whose thread then comes back with an error."""
        self.was_cut = True
        with suppress(Exception):
            self._driver.cut(self._raw)


class DriverCall(StoppableCall, Generic[T]):
    """One call on a link, as it is made on a worker."""

    __slots__ = ("_function", "_link", "_name", "_statement", "_turn")

    def __init__(
        self,
        link: Link,
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
        with link.wire:
            link.current_call = self
            if self._turn.closed:  # by the loop's own thread, which waits for no turn
                link.current_call = None
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
                link.current_call = None
                self.finished.set()
                if self._statement:
                    link.statements += 1
                    link.executor.counters.ran_statement(time.perf_counter() - started)

    def stop(self) -> None:
        """Bring the call back, because its own time is over or its task cancelled."""
        self.late = True
        self._link.killer.stop(self)

    def cancel(self) -> None:
        """Bring the call back, because the task that waits for its thread is cancelled."""
        self._link.executor.counters.add("cancelled")
        self._link.killer.stop(self)
