"""Connections that are held for too long.

Owns the report of a checkout that lasts longer than ``leak_warning``: once with the stack that made it, and again when
it comes back. It never takes a connection away.
"""

from __future__ import annotations

import itertools
import logging
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from ..bridge.background import Timer
from ..bridge.place import current_task
from ..bridge.stack import frames_from, module_of
from ..connection.call_sites import ASYNCHRONOUS, FRAMEWORKS, LIBRARIES
from ..errors import ThreadUnavailable
from ..statistics import SourceLine

logger = logging.getLogger("offload_db")

# Frames of a checkout's stack that are kept.
_DEPTH = 12


class CheckoutRecord:
    """When and where a connection was checked out; reports it once if it is not ended in time.

    :param seconds: how long the connection may be held
    """

    __slots__ = ("_seconds", "_since", "_stack", "_task", "_timer", "reported")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = time.monotonic()
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
        self._timer: Timer | None = Timer(seconds, self._report, "leak watch")
        with suppress(ThreadUnavailable):  # the next timer of anybody's has it waited for
            self._timer.start()

    def end(self) -> None:
        """Note that the connection came back; a finaliser may do so in the middle of anything."""
        timer, self._timer = self._timer, None  # which holds this
        if timer is not None:
            timer.cancel()
        if self.reported:
            logger.warning(
                "a connection that was reported as held for too long came back after %.1f s",
                time.monotonic() - self._since,
            )

    def _report(self) -> None:
        self.reported = True
        logger.warning(
            "a connection has been held for %.1f s, longer than leak_warning (%.1f s); "
            "close it on every path, best in a with block. It was checked out here:\n%s",
            time.monotonic() - self._since,
            self._seconds,
            self.stack,
        )

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
