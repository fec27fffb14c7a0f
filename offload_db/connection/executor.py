"""Where a driver call runs.

Owns the choice (in a worker thread where the caller is bridged, inline elsewhere), and what is said of a call that
blocks the event loop. Knows neither connections nor statements.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

import anyio
from anyio.lowlevel import RunVar

from ..bridge import arms
from ..bridge.background import Timer, none_left
from ..bridge.dispatcher import Dispatcher, Expired
from ..bridge.handled_errors import with_handled
from ..bridge.hops import Hop
from ..bridge.place import Place, place
from ..bridge.portal import suspend
from ..drivers.statement_digest import digest
from ..errors import BlockingCallError, BlockingCallWarning, ThreadUnavailable
from ..settings import check_word
from ..statistics import CallPath, Counters
from .call_lock import remedy
from .call_sites import call_path

T = TypeVar("T")

OnLoopCall = Literal["warn", "raise", "allow"]

on_loop_observers: list[Callable[[str], None]] = []
"""Told the name of each call that would block the event loop, before it is made and whatever is done about it."""

_numbers = itertools.count()


class Detached:
    """Lets a call run on by itself after its task was cancelled.

    :param on_return: called on the call's thread when it has come back
    """

    __slots__ = ("on_return", "runs_on")

    def __init__(self, on_return: Callable[[], None]) -> None:
        self.on_return = on_return
        self.runs_on = False
        """Whether the task was cancelled and the call runs on."""


class Executor:
    """Runs the driver calls of one pool: in a worker thread where the caller is bridged, inline elsewhere.

    :param limit: the most threads at once; who calls holds a connection of the pool, so none is ever waited for
    :param on_loop_call: what to do where a call would block the event loop's thread
    """

    def __init__(self, limit: float, counters: Counters, on_loop_call: OnLoopCall = "warn") -> None:
        check_word("OffloadPool", "on_loop_call", on_loop_call, ("warn", "raise", "allow"))
        self.counters = counters
        self._limit = limit
        self._on_loop_call = on_loop_call
        # One for each event loop. anyio keeps these variables by name, and longer than the pool may live.
        self._dispatchers: RunVar[Dispatcher] = RunVar(f"offload_db_dispatcher_{next(_numbers)}")
        self._last: tuple[Callable[[], object], Dispatcher] | None = None
        self._warned: set[tuple[str, int]] = set()

    def run(
        self,
        name: str,
        function: Callable[[], T],
        *,
        shield: bool = False,
        timeout: float | None = None,
        stop: Callable[[], None] | None = None,
        detached: Detached | None = None,
        on_closed_loop: Callable[[], None] | None = None,
        shared: bool = False,
        text: object = None,
    ) -> T:
        """Run *function* where it does not block the event loop.

        If the task is cancelled, the cancellation is raised when the function has come back, or at once where it may
        run on by itself.

        :param name: what is called, for reports
        :param shield: keep cancel scopes from interrupting; for what has to be done on the way out
        :param timeout: seconds after which the function is brought back
        :param stop: brings the function back early; called in a thread of its own
        :param detached: lets the function run on instead
        :param on_closed_loop: called on the function's thread when it has come back and the task's event loop is closed
        :param shared: whether it may share a thread with others, see :class:`offload_db.bridge.dispatcher.Dispatcher`
        :param text: the statement that it executes, for reports
        :raises Expired: if the time is over before the function was called, or while it runs on by itself; one that
            was brought back returns or raises what it has
        :raises BlockingCallError: if it would block the loop's thread and ``on_loop_call`` is ``"raise"``
        """
        where = place()
        if where is Place.BRIDGED:
            self.counters.add("hops")
            timed = None if arms.choose is None else arms.timed(function)
            call: Callable[[], T] = function if timed is None else timed
            if sys.exc_info()[1] is not None:
                call = with_handled(call)
            hop = Hop(call, on_closed_loop if detached is None else detached.on_return)
            loop, last = asyncio._get_running_loop(), self._last
            # There is mostly one loop, and anyio takes a while to find out which one runs.
            if loop is None or last is None or last[0]() is not loop:
                sending = self._dispatcher(loop).send(hop, shared=shared, timeout=timeout)
            else:
                sending = last[1].send(hop, shared=shared, timeout=timeout)
            try:
                try:
                    suspend(_shielded(sending) if shield else sending)
                except BaseException as error:
                    if self._bring_back(hop, error, stop, detached):
                        raise
            except GeneratorExit:  # the task is thrown away, and its loop may be gone
                raise
            except anyio.get_cancelled_exc_class():
                self.counters.add("cancelled")
                raise
            if timed is not None:
                timed.resumed()
            return hop.outcome()
        if where is Place.THREAD:
            return _inline(function, timeout, stop)
        chosen = arms.current_call()
        path = None if chosen is not None and chosen.silent else call_path()
        if path is not None and (chosen is None or not chosen.inline):
            self._report(name, path)
        started = time.perf_counter()
        try:
            return _inline(function, timeout, stop)
        finally:
            seconds = time.perf_counter() - started
            if chosen is not None:
                chosen.loop_time += seconds
            if path is not None:
                self.counters.blocked.add(path, name, digest(text), seconds)

    @staticmethod
    def _bring_back(
        hop: Hop[Any], error: BaseException, stop: Callable[[], None] | None, detached: Detached | None
    ) -> bool:
        """Bring back a hop that is not waited for any more, or leave it alone; False if it has an outcome all the same.

        :raises ThreadUnavailable: if the error is that no thread could be had
        """
        if detached is not None:
            detached.runs_on = hop.detach(detached.on_return)
        elif isinstance(error, GeneratorExit):  # what is thrown away can wait for nothing any more
            hop.leave(stop)
        else:
            suspend(hop.wait_until_over(stop))
        if none_left(error):
            raise ThreadUnavailable.after(error) from error
        # What was left alone may be back by now, but it is not the caller's any more.
        return not isinstance(error, Expired) or not hop.back or (detached is not None and detached.runs_on)

    def _dispatcher(self, loop: asyncio.AbstractEventLoop | None) -> Dispatcher:
        try:
            dispatcher = self._dispatchers.get()
        except LookupError:
            dispatcher = Dispatcher(self._limit)
            self._dispatchers.set(dispatcher)
        if loop is not None:
            self._last = (weakref.ref(loop), dispatcher)
        return dispatcher

    def _report(self, name: str, path: CallPath) -> None:
        for observer in on_loop_observers:
            observer(name)
        file, line, caller = path.lines[0]
        message = f"{file}:{line}: {name}() in {caller} blocks the event loop; {remedy(path)}"
        if self._on_loop_call == "raise":
            raise BlockingCallError(message)
        if self._on_loop_call != "warn":
            return
        with _warning:  # loops of several threads may come here at once
            first = (file, line) not in self._warned
            self._warned.add((file, line))
        if first:
            try:
                warnings.warn_explicit(message, BlockingCallWarning, file, line)
            except BaseException:
                self._warned.discard((file, line))  # warnings are errors: the next call shall raise as well
                raise


async def _shielded(sending: Coroutine[Any, Any, None]) -> None:
    with anyio.CancelScope(shield=True):
        await sending


# Taken for a few instructions only.
_warning = threading.Lock()


def _after_fork() -> None:
    global _warning
    _warning = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _inline(function: Callable[[], T], timeout: float | None, stop: Callable[[], None] | None) -> T:
    """Run *function* on the caller's thread, with a timer beside it where its time is limited."""
    if timeout is None or stop is None:
        return function()
    timer = Timer(timeout, stop, "limit")
    try:
        timer.start()
        return function()
    finally:
        timer.end()  # no stop may be under way, or to come, when the connection is used again
