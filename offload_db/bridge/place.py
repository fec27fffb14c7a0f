"""Where a synchronous call is made.

Owns the three places: a bridged task, the event loop's thread, any other thread; and which task runs. Suspends nobody.
"""

from __future__ import annotations

import asyncio
import enum
import sys

import greenback
import greenlet


class Place(enum.Enum):
    """Where a synchronous call is made."""

    BRIDGED = "a task that may suspend"
    LOOP = "the event loop's thread"
    THREAD = "any other thread"


def place() -> Place:
    """Tell where the caller is."""
    # What has a portal runs in a greenlet inside of it.
    if greenlet.getcurrent().parent is not None:
        task = current_task()
        # Asked about a task that it knows, greenback need not find out which loop runs.
        if task is not None and greenback.has_portal(task):  # type: ignore[arg-type]  # of either loop
            return Place.BRIDGED
    return Place.LOOP if asyncio._get_running_loop() is not None or _in_trio() else Place.THREAD


def _in_trio() -> bool:
    trio = sys.modules.get("trio")  # whoever runs trio has imported it
    if trio is None:
        return False
    try:
        trio.lowlevel.current_trio_token()
    except (RuntimeError, AttributeError):  # another thread is in the middle of importing it
        return False
    return True


def current_task() -> object | None:
    """Return the task that runs on this thread, None in a callback of the loop and where no loop runs."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        return asyncio.current_task(loop)
    if not _in_trio():
        return None
    try:
        task: object = sys.modules["trio"].lowlevel.current_task()
    except RuntimeError:
        return None
    return task
