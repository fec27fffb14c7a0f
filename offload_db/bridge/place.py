"""Where a synchronous call is made.

Owns the three places: a bridged task, the event loop's thread, any other thread; and which task runs. Suspends nobody.
"""

from __future__ import annotations

import asyncio
import enum
import sys
from collections.abc import Callable
from typing import Any

import greenlet

from .greenlet_pool import PooledGreenlet

# Which task of asyncio's runs in a loop. Before Python 3.12 that is a function in Python, around this dictionary.
_running_task: Callable[[Any], object] = (
    asyncio.current_task if sys.version_info >= (3, 12) else vars(asyncio.tasks)["_current_tasks"].get
)


class Place(enum.Enum):
    """Where a synchronous call is made."""

    BRIDGED = "a task that may suspend"
    LOOP = "the event loop's thread"
    THREAD = "any other thread"


def place() -> Place:
    """Tell where the caller is."""
    loop = asyncio._get_running_loop()
    running: Any = greenlet.getcurrent()
    while running is not None:
        # Tasks that are not bridged run in a bridged call's greenlet, too: eager ones, and those of a nested loop.
        if type(running) is PooledGreenlet and running.task is not None:
            task = current_task() if loop is None else _running_task(loop)
            if running.task == id(task):
                return Place.BRIDGED
        running = running.parent  # bridged code may have made greenlets of its own
    return Place.LOOP if loop is not None or _in_trio() else Place.THREAD


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
        return _running_task(loop)
    if not _in_trio():
        return None
    try:
        task: object = sys.modules["trio"].lowlevel.current_task()
    except RuntimeError:
        return None
    return task
