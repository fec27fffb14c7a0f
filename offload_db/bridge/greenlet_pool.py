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

# Greenlets that a thread keeps. To make one costs as much as a small query has to do in it: Python maps memory for
# its frames and unmaps it at its end, and until the processor has found everything again what runs there is slower.
KEPT = 32

# Frames by which a greenlet may have been made deeper in the stack than it is used: so many fewer it has for its calls.
_DEEPER = 16


class _Here(threading.local):
    """What a thread keeps."""

    def __init__(self) -> None:
        self.idle: list[Any] = []


_here = _Here()


def greenlet_for(call: Callable[[], object], context: Context | None) -> Any:
    """Return a greenlet that makes a call when it is switched to.

    It is switched to once, with the greenlet that goes on when the call is over. Nothing else may keep it.

    :param call: a function that raises nothing
    :param context: the context that it runs in
    """
    pooled = _idle() or _new()
    pooled.call = call
    pooled.gr_context = context
    return pooled


def _idle() -> Any:
    """Take a greenlet that was kept, None if there is none for a call from here."""
    idle = _here.idle
    while idle:
        pooled = idle.pop()
        try:
            if pooled.fits_below:
                sys._getframe(pooled.fits_below)
        except ValueError:  # the stack is not as deep as that
            continue
        return pooled
    return None


def _new() -> Any:
    pooled = PooledGreenlet(_make_calls)
    pooled.fits_below = max(0, _depth() - _DEEPER)
    pooled.switch()  # to where it waits: what a greenlet is begun with it keeps for good
    return pooled


def _depth() -> int:
    """Count the frames of the stack."""
    depth, frame = 0, sys._getframe().f_back
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


class PooledGreenlet(greenlet.greenlet):  # type: ignore[misc]  # greenlet is not typed everywhere
    """A greenlet that makes one call after the other."""

    __slots__ = ("call", "fits_below")

    call: Callable[[], object] | None
    fits_below: int
    """Frames that the stack must have where it is used: a greenlet keeps how deep the stack was at its beginning."""


def _make_calls() -> None:
    """Make one call after the other; a greenlet that waits for the next one ends with its thread.

    Nothing is held meanwhile that leads back to the greenlet: a cycle would outlive the thread.
    """
    while True:
        greenlet.getcurrent().parent = greenlet.getcurrent().parent.switch()
        _taken()()
        if not _kept():
            return


def _taken() -> Callable[[], object]:
    pooled = greenlet.getcurrent()
    call, pooled.call = pooled.call, None
    return call  # type: ignore[no-any-return]


def _kept() -> bool:
    """Keep the greenlet that runs, which has made its call, for another one; False if there are enough."""
    idle = _here.idle
    if len(idle) >= KEPT:
        return False
    pooled = greenlet.getcurrent()
    pooled.gr_context = None
    idle.append(pooled)
    return True
