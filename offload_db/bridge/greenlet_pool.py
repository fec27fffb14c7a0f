"""Greenlets that are kept for the next calls of their thread.

Owns making, keeping and ending them. ``portal.py`` and ``reactor.py`` switch between them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

import greenlet

from .stack import frames_from

# Greenlets that a thread keeps. To make one costs as much as a small query has to do in it: Python maps memory for
# its frames and unmaps it at its end, and until the processor has found everything again what runs there is slower.
KEPT = 64

# Frames by which a greenlet may have been made deeper in the stack than it is used: so many fewer it has for its calls.
_DEEPER = 16


class _Here(threading.local):
    """What a thread keeps."""

    def __init__(self) -> None:
        self.idle: list[PooledGreenlet] = []


_here = _Here()


class PooledGreenlet(greenlet.greenlet):  # type: ignore[misc]  # greenlet is not typed everywhere
    """A greenlet that makes one call after the other."""

    __slots__ = ("argument", "errors", "fits_below", "function", "passed", "result", "suspended", "task")

    function: Callable[[Any], object] | None
    """What it calls next."""
    argument: Any
    """What it calls that with."""
    result: Any
    """What its last call returned, until that is taken."""
    errors: list[BaseException]
    """What its last call raised; before that, what is to be raised where the call waits."""
    passed: list[Any]
    """What its call waits for, and what comes of that, until it is taken."""
    task: int | None
    """The id of the task that its call may suspend; None where it can suspend none."""
    suspended: Any
    """The greenlet that waits for the task to go on: this one, or one that was made in it."""
    fits_below: int
    """Frames that the stack must have where it is used: a greenlet keeps how deep the stack was at its beginning."""


def greenlet_for(function: Callable[[Any], object], argument: Any, context: Context | None) -> Any:
    """Return a greenlet that makes a call when it is switched to, and then switches back to where this was called.

    It is for that one call, and nothing else may keep it.

    :param function: one of Python's, as Python needs no further C stack for that: it is copied for each call that waits
    :param argument: what the function is called with
    :param context: the context that the call runs in
    """
    pooled, idle = None, _here.idle
    while pooled is None and idle:
        pooled = idle.pop()
        try:
            if pooled.fits_below:
                sys._getframe(pooled.fits_below)
        except ValueError:  # the stack is not as deep as that
            pooled = None
        else:
            if pooled.dead:  # a signal's handler may have raised an error in it when its call was over
                pooled = None
    if pooled is None:
        pooled = _new()
    else:
        pooled.parent = greenlet.getcurrent()
        pooled.errors.clear()  # it has some where a signal's handler has raised another one before they were taken
        pooled.passed.clear()  # as above
    pooled.function, pooled.argument = function, argument
    pooled.gr_context = context
    return pooled


def _new() -> PooledGreenlet:
    pooled = PooledGreenlet(_make_calls)
    pooled.result = pooled.task = pooled.suspended = None
    pooled.errors = []
    pooled.passed = []
    pooled.fits_below = max(0, _depth() - _DEEPER)
    return pooled


def _depth() -> int:
    """Count the frames of the stack."""
    if greenlet.getcurrent().parent is not None:
        return sum(1 for _ in frames_from(sys._getframe()))
    # Python makes an object of each frame that is walked over, and keeps it for as long as the frame runs: a kilobyte
    # for each call that waits. So the end is looked for from beyond it, where the frames are the event loop's.
    there, beyond = 0, 64
    while _has_frame(beyond):
        there, beyond = beyond, 2 * beyond
    while beyond - there > 1:
        middle = (there + beyond) // 2
        there, beyond = (middle, beyond) if _has_frame(middle) else (there, middle)
    return beyond - 1


def _has_frame(number: int) -> bool:
    """Tell whether the stack of who asks, two calls out, has so many frames further out."""
    try:
        sys._getframe(number + 2)
    except ValueError:
        return False
    return True


def _make_calls() -> None:
    """Make one call after the other, until there are greenlets enough.

    One that waits for its next call ends with its thread.
    """
    while True:
        pooled: Any = greenlet.getcurrent()
        function, pooled.function = pooled.function, None
        argument, pooled.argument = pooled.argument, None
        try:
            pooled.result = function(argument)
        except BaseException as error:
            if pooled.task is None or isinstance(error, greenlet.GreenletExit):
                raise
            pooled.errors.append(error)
        pooled.task = pooled.suspended = None
        if len(_here.idle) >= KEPT:
            return
        pooled.gr_context = None
        _here.idle.append(pooled)
        # What waits here must hold nothing that leads back to the greenlet, which would outlive its thread.
        del pooled, function, argument
        greenlet.getcurrent().parent.switch()
