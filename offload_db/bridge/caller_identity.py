"""Who calls: the identity of tasks, and of pieces of work in threads.

Owns how callers are told apart, without keeping them alive, and whether one's thread has come to rest.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import sys
import threading
import weakref
from contextvars import ContextVar
from types import FrameType

from .place import Place, current_task, place


def flow() -> tuple[int, int]:
    """Tell one flow of control from the others that exist now: a task on its loop's thread, or any other thread."""
    return threading.get_ident(), id(current_task())


Caller = tuple[int, object]
"""The thread and, where there is one, the task or piece of work on it."""

# A plain executor runs all jobs of a thread in one context; the job is what tells them apart.
_EXECUTOR_JOB = getattr(getattr(concurrent.futures.thread, "_WorkItem", None), "run", place).__code__

_work: ContextVar[tuple[int, object]] = ContextVar("offload_db_work")
UNSHARED = frozenset({_work})
"""Context variables that belong to a thread and not to the task that it works for."""


def caller(where: Place | None = None) -> Caller:
    """Identify who calls, without keeping it alive.

    In a worker thread it is the piece of work, not the thread: frameworks run each request's work in a context of its
    own, and a thread that opened a connection for one request may serve another while it is still open.

    :param where: the place of the call, if it is known
    """
    thread = threading.get_ident()
    if (where or place()) is not Place.THREAD:
        task = current_task()
        return (thread, None if task is None else _reference(task))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _EXECUTOR_JOB:
            return (thread, _reference(frame.f_locals["self"]))
        frame = frame.f_back
    work = _work.get(None)
    if work is None or work[0] != thread:
        work = (thread, object())
        _work.set(work)
    return work


def _reference(one: object) -> weakref.ref[object]:
    """Refer to a task, so that callers can be told apart also when it is gone."""
    reference = weakref.ref(one)
    hash(reference)  # a reference keeps its hash if it was asked for it before
    return reference


# Where a thread's frames lie that waits for work: anyio's, trio's and the standard library's.
_MACHINERY = (
    *("/threading.py", "/queue.py", "/concurrent/futures/thread.py"),
    *("/anyio/_backends/", "/trio/_core/_thread_cache.py"),
)


def rests(holder: Caller) -> bool:
    """Tell whether a caller's piece of work is over, and its thread waits for more work from the running loop."""
    thread = next((thread for thread in threading.enumerate() if thread.ident == holder[0]), None)
    loop = getattr(thread, "loop", None)  # anyio's own threads know theirs
    if loop is not None and loop is not asyncio._get_running_loop():
        return False
    frame = sys._current_frames().get(holder[0])
    while frame is not None:
        if not any(part in frame.f_code.co_filename.replace("\\", "/") for part in _MACHINERY):
            return False
        frame = frame.f_back
    return True
