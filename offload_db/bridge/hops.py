"""One function on its way through a worker thread.

Runs it there, and knows whether it has returned, or never will start, however often the task that sent it is cancelled.
Which hops share a thread is ``dispatcher.py``'s.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from ..errors import ThreadUnavailable
from .background import none_left, start_from_finaliser, start_thread
from .call_scope import current_bridged_call
from .cancellation import Cancellation
from .handled_errors import reraise
from .portal import rest_of
from .signals import TaskEvent, task_event

T = TypeVar("T")

# anyio 4.1 renamed the option; the legacy backend holds anyio 3.7.1.
_ABANDON = (
    "abandon_on_cancel"
    if "abandon_on_cancel" in inspect.signature(anyio.to_thread.run_sync).parameters
    else "cancellable"
)


# Seconds after which a thread is asked for again that could not be had.
LOOK_AGAIN = 0.1


class Hop(Generic[T]):
    """Runs one function in a worker thread, and knows whether it has returned however often the task is cancelled.

    A cancelled ``to_thread.run_sync`` does not tell that.

    :param on_closed_loop: called on the thread when the function has come back, but the event loop that it was sent
        from is closed: the task that waits for it will never go on
    """

    __slots__ = (
        "_abandoned",
        "_error",
        "_function",
        "_late",
        "_lock",
        "_loop",
        "_on_closed_loop",
        "_result",
        "_signals",
        "_started",
        "back",
    )

    _result: T

    def __init__(self, function: Callable[[], T], on_closed_loop: Callable[[], None] | None = None) -> None:
        self._function = function
        self._loop = None if on_closed_loop is None else asyncio._get_running_loop()
        self._on_closed_loop = None if self._loop is None else on_closed_loop
        self._lock = threading.Lock()
        self._started = self._abandoned = False
        self._late: Callable[[], None] | None = None
        self._signals: tuple[TaskEvent, ...] = ()
        self._error: BaseException | None = None
        self.back = False
        """Whether the function has been called and came back."""

    def run(self) -> None:
        """Call the function, on the thread; keeps what it returns or raises."""
        with self._lock:
            if self._abandoned or self._started:
                return
            self._started = True
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        finally:
            with self._lock:
                # Asked before the task can know that the function is back: it may go on then, and end its loop.
                gone = self._loop is not None and self._loop.is_closed()
                self.back = True
                signals, late = self._signals, self._late
        for signal in signals:
            gone = not signal.set() or gone
        if late is not None:
            late()
        elif gone and self._on_closed_loop is not None:
            self._on_closed_loop()

    def outcome(self, *, apart: bool = False) -> T:
        """Return what the function returned, or raise what it raised; once.

        :param apart: see :func:`offload_db.bridge.handled_errors.reraise`
        """
        error, self._error = self._error, None
        if error is not None:
            try:
                reraise(error, apart=apart)
            finally:
                del error, self
        return self._result

    async def wait(self) -> None:
        """Wait for the function; a cancellation is raised at once and leaves it running."""
        with self._lock:
            signal = None if self.back else task_event()
            if signal is not None:
                self._signals += (signal,)
        if signal is not None:
            await signal.wait()

    async def join(self) -> T:
        """Wait for the function and return its outcome; see :meth:`wait`."""
        await self.wait()
        return self.outcome(apart=True)

    def detach(self, late: Callable[[], None]) -> bool:
        """Let the function run on by itself, if it runs: *late* is called on its thread when it has come back."""
        with self._lock:
            if self._started and not self.back:
                self._late = late
                return True
            self._abandoned = True
            return False

    def leave(self, interrupt: Callable[[], None] | None) -> None:
        """Let the function not start, or have it brought back without waiting for that; a finaliser may call this.

        :param interrupt: called in a thread of its own if the function runs
        """
        with self._lock:
            self._abandoned = not self._started
            runs = self._started and not self.back
        if runs and interrupt is not None:
            start_from_finaliser(interrupt)

    async def wait_until_over(self, interrupt: Callable[[], None] | None = None) -> None:
        """Return when the function does not run any more: it came back, or will never start.

        :param interrupt: called in a thread of its own while the function runs, to bring it back; what it does is
            waited for as well
        """
        with self._lock:
            if not self._started:
                self._abandoned = True
            if self.back or self._abandoned:
                return
            signal = task_event()
            self._signals += (signal,)
        if interrupt is None:
            await signal.wait_out()
            return
        errand = None
        while errand is None and not self.back:
            errand = send_off(interrupt)
            if errand is None:  # until there is a thread, the function goes on; it may come to its own end
                await signal.wait_out(LOOK_AGAIN)
        await signal.wait_out()
        if errand is not None:
            await errand.wait_until_over()


def send_off(interrupt: Callable[[], None]) -> Hop[None] | None:
    """Call *interrupt*, which stops some call, in a thread of its own; None where no thread can be had."""
    errand = Hop(interrupt)
    try:
        # Not through anyio: a task that is cancelled over and over would not get that far.
        start_thread(errand.run, "interrupt")
    except ThreadUnavailable:
        return None
    return errand


async def run_hop(hop: Hop[Any], limiter: anyio.CapacityLimiter, cancellation: Cancellation | None = None) -> None:
    """Send *hop* through a worker thread, within *limiter*.

    If the task is cancelled, also by asyncio's own ``task.cancel()``, the cancellation is raised only when the worker
    has come back: what the function works on can be used or closed then. A function that has not started yet will
    not run.

    :param cancellation: is told of it, and stops what the function waits for
    :raises ThreadUnavailable: if the process can have no further thread; the function has not run then
    """
    # anyio would give the limiter's token back while the thread of a cancelled task still runs.
    async with _Token(limiter):
        try:
            await send_hop(hop, unlimited())
        except BaseException as error:
            await hop.wait_until_over(None if cancellation is None else cancellation.request())
            if none_left(error):
                raise ThreadUnavailable.after(error) from error
            raise


async def run_in_thread(
    function: Callable[[], T], limiter: anyio.CapacityLimiter, cancellation: Cancellation | None = None
) -> T:
    """Run *function* in a worker thread and return its result; see :func:`run_hop`."""
    hop = Hop(function)
    await run_hop(hop, limiter, cancellation)
    return hop.outcome()


_no_limit: RunVar[anyio.CapacityLimiter] = RunVar("offload_db_no_limit")


def unlimited() -> anyio.CapacityLimiter:
    """Return a limiter that limits nothing, of the running event loop."""
    return loop_limiter(_no_limit, math.inf)


def holder_limiter(variable: RunVar[anyio.CapacityLimiter], tokens: float) -> anyio.CapacityLimiter:
    """Return the limiter that *variable* holds; a call that holds connections gets one without limit.

    Those who have all the threads may be waiting for what it holds. Connections bound how many such calls there are.
    """
    scope = current_bridged_call()
    if scope is not None and scope.owned:
        return unlimited()
    return loop_limiter(variable, tokens)


def loop_limiter(variable: RunVar[anyio.CapacityLimiter], tokens: float) -> anyio.CapacityLimiter:
    """Return the limiter that *variable* holds for the running event loop, made when it is first asked for."""
    try:
        return variable.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(tokens)
        variable.set(limiter)
        return limiter


class _Token:
    """One token of a limiter, which costs no round of the event loop when it is free.

    anyio's limiter gives way to other tasks whenever it is taken, and finds out which task takes it.
    """

    __slots__ = ("_limiter",)

    def __init__(self, limiter: anyio.CapacityLimiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        await self.acquire_on_behalf_of(self)

    async def __aexit__(self, *exc_info: object) -> None:
        self.release_on_behalf_of(self)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Take the token; trio names a borrower of its own."""
        try:
            self._limiter.acquire_on_behalf_of_nowait(borrower)
        except Exception as error:
            if type(error).__name__ != "WouldBlock":  # anyio 3 lets trio's own pass
                raise
            await self._limiter.acquire_on_behalf_of(borrower)

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give the token back."""
        self._limiter.release_on_behalf_of(borrower)


async def send_hop(hop: Hop[Any], limiter: anyio.CapacityLimiter) -> None:
    """Send *hop* through a worker thread.

    Nothing of the function's own is raised here: an error means that the task was cancelled or that no thread could
    be started, and then the caller has to abandon the hop or to leave it.
    """
    token: Any = _Token(limiter)
    sending = anyio.to_thread.run_sync(hop.run, limiter=token, **{_ABANDON: True})
    # A task that is to be cancelled makes no hop any more: anyio's pause is where it finds that out.
    await (sending if asyncio._get_running_loop() is None or pause_would_cancel() else _without_pause(sending))


def is_cancelled() -> bool:
    """Tell whether the running task was told to end, as far as its event loop says so."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    task: Any = None if asyncio._get_running_loop() is None else asyncio.current_task()
    return bool(getattr(task, "cancelling", int)())  # which Python 3.10 does not have


def pause_would_cancel() -> bool:
    """Tell whether the task of asyncio that runs would be cancelled if it paused now."""
    task = asyncio.current_task()
    return getattr(task, "_must_cancel", True) or anyio.current_effective_deadline() == -math.inf


async def _without_pause(sending: Coroutine[Any, Any, None]) -> None:
    """Await a call of anyio's without the round of asyncio's loop that it begins with.

    The task will wait for the thread anyway, so nobody is kept from their turn. Without the round a hop costs a
    twentieth less: each resumes a bridged task through all its layers.
    """
    try:
        waits = [sending.send(None)]
        if waits == [None]:  # a bare yield, which is what asyncio.sleep(0) does
            waits = [sending.send(None)]
    except StopIteration:
        return
    await rest_of(sending, waits)
