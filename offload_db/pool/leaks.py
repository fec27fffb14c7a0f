"""Connections that are held for too long.

Owns the watch over checkouts: one that lasts longer than ``leak_warning`` is reported once with the stack that made
it, and again when it comes back. It never takes a connection away.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from ..bridge.background import start_thread
from ..bridge.place import current_task
from ..bridge.stack import frames_from, module_of
from ..connection.call_sites import ASYNCHRONOUS, FRAMEWORKS, LIBRARIES
from ..errors import ThreadUnavailable
from ..statistics import SourceLine

logger = logging.getLogger("offload_db")

# Seconds between looks at what is still out when the pool is closed.
LONGEST_LAST_WAIT = 0.25
# Frames of a checkout's stack that are kept.
_DEPTH = 12


class CheckoutRecord:
    """When and where a connection was checked out."""

    __slots__ = ("_stack", "_task", "reported", "since")

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.reported = False
        frames = (each for each in frames_from(sys._getframe(1)) if module_of(each) not in LIBRARIES)
        first = next(frames, None)
        self._task: str | None = None
        if first is None or module_of(first) in FRAMEWORKS:
            # The task was made of the call itself, by who waits for it or will.
            self._task = _task()
        outwards = itertools.chain(() if first is None else (first,), frames)
        shown = itertools.islice((each for each in outwards if module_of(each) not in FRAMEWORKS), _DEPTH)
        self._stack = traceback.StackSummary.from_list(list(_summaries(shown)))

    @property
    def stack(self) -> str:
        """The stack of the checkout, outermost call first, without the lines of libraries and frameworks."""
        return "".join((*reversed(self._stack.format()), self._task or ""))


def _summaries(frames: Iterable[FrameType]) -> Iterator[traceback.FrameSummary]:
    """Give names and lines: the frames would keep the handler's variables, and the connection among them, alive.

    The lines that await the checkout come without their text, in which values may stand that are passed on.
    """
    text = None  # to be looked up when it is shown
    for frame in frames:
        code = frame.f_code
        yield traceback.FrameSummary(code.co_filename, frame.f_lineno or 0, code.co_name, lookup_line=False, line=text)
        if code.co_flags & ASYNCHRONOUS:
            text = ""


def _task() -> str | None:
    """Return a line of the report that names the running task and, where known, the line that made it."""
    task: Any = current_task()
    if task is None:
        return None
    of = task.get_coro() if hasattr(task, "get_coro") else task.coro
    name = task.get_name() if hasattr(task, "get_name") else task.name
    site: SourceLine | None = getattr(of, "called", None)
    if site is None:
        return f"  in the task {name!r}, which runs {getattr(of, '__qualname__', type(of).__name__)}()\n"
    line = traceback.FrameSummary(site.file, site.line, site.function)
    return f"{''.join(traceback.StackSummary.from_list([line]).format())}  in the task {name!r} that was made of it\n"


class LeakWatch:
    """Watches the checkouts of one pool from a thread of its own, which lives while there are any.

    :param seconds: how long a connection may be held before it is reported
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._condition = threading.Condition()
        self._watched: set[CheckoutRecord] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def begin(self) -> CheckoutRecord:
        """Note a checkout."""
        checkout = CheckoutRecord()
        with self._condition:
            self._watched.add(checkout)
            if self._thread is None:
                with suppress(ThreadUnavailable):  # the next checkout tries again
                    self._thread = start_thread(self._watch, "leak watch")
        return checkout

    def end(self, checkout: CheckoutRecord) -> None:
        """Note that the connection came back."""
        # No lock: a finaliser may call this in the middle of anything.
        self._watched.discard(checkout)
        if checkout.reported:
            logger.warning(
                "a connection that was reported as held for too long came back after %.1f s",
                time.monotonic() - checkout.since,
            )

    def close(self) -> None:
        """End the thread as soon as nothing is out; what is out is watched until it comes back."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _watch(self) -> None:
        while True:
            now = time.monotonic()
            with self._condition:
                pending = [checkout for checkout in self._watched.copy() if not checkout.reported]
                if not pending:
                    self._thread = None
                    return
            for checkout in pending:
                if now - checkout.since >= self.seconds:
                    checkout.reported = True
                    logger.warning(
                        "a connection has been held for %.1f s, longer than leak_warning (%.1f s); "
                        "close it on every path, best in a with block. It was checked out here:\n%s",
                        now - checkout.since,
                        self.seconds,
                        checkout.stack,
                    )
            due = min((c.since for c in pending if not c.reported), default=now) + self.seconds
            wait = max(0.01, min(due - now, self.seconds))
            with self._condition:
                # Nobody tells the thread what came back: finalisers must not take its lock.
                self._condition.wait(min(wait, LONGEST_LAST_WAIT) if self._closed else wait)
