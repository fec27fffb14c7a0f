"""Where am I, and how do I wait without blocking the event loop?

Owns the three places a synchronous call can be made from (a bridged task, the event loop's thread, any other thread),
the suspension of a bridged task, and who is said to call. The trip to a worker thread is ``hops.py``'s, what belongs
to a bridged call ``call_scope.py``'s. Knows no database.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import enum
import inspect
import sys
import threading
import types
import weakref
from collections.abc import Awaitable, Callable, Container, Coroutine, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import anyio.lowlevel
import greenback
import greenlet

from ..errors import BridgeError
from .greenlet_pool import strand_for
from .handled_errors import handling, with_handled
from .outcomes import Outcome

T = TypeVar("T")

# The attribute by which an event loop is known that nest_asyncio has patched to be run inside of itself.
_NESTS = "_nest_patched"
# Seconds after which a bridged call looks again whether the loop that another one has nested is over.
_NESTED_PAUSE = 0.002
# Whether the calling task, or one that it comes from, is bridged; known of loops alone that can be nested.
_bridged_here: ContextVar[bool] = ContextVar("offload_db_bridged_here", default=False)

# The tasks that run their first step in the middle of the code that starts them; Python 3.12 brought them.
_EAGER_TASKS: Container[object] = getattr(asyncio.tasks, "_eager_tasks", ())


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
    return Place.LOOP if _on_loop_thread() else Place.THREAD


def _on_loop_thread() -> bool:
    return asyncio._get_running_loop() is not None or _in_trio()


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


def suspend(awaitable: Awaitable[T]) -> T:
    """Await something from synchronous code of a bridged task."""
    outcome: Outcome[T] = Outcome()
    return greenback.await_(outcome.acapture(awaitable)).unwrap()


async def bridged(function: Callable[[], T]) -> T:
    """Run synchronous code that may suspend, from asynchronous code; in a plain thread it runs inline."""
    return await _in_portal(with_handled(function)) if place() is Place.LOOP else function()


def abridged(
    function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Coroutine[Any, Any, T]:
    """Await ``function(*args, **kwargs)`` in such a way that synchronous code below it may suspend; for a task."""
    if sys.exc_info()[1] is None:
        return _in_portal(partial(_run, function, args, kwargs))
    if current_task() in _EAGER_TASKS:
        # What the code handles that starts an eager task is seen by the task's first step alone.
        return _in_portal(partial(_run, function, args, kwargs, handling()))
    return _in_portal(with_handled(partial(_run, function, args, kwargs)))


async def _in_portal(function: Callable[[], T]) -> T:
    """Call a function in a portal of greenback's."""
    if greenlet.getcurrent().parent is not None:
        # This is the first step of an eager task, in the portal of another one. A portal of its own would be built on
        # one that may be gone when this task goes on.
        await anyio.lowlevel.checkpoint()  # the event loop itself makes all steps but the first
        if getattr(asyncio._get_running_loop(), _NESTS, False):
            await _until_not_nested()
    outcome: Outcome[T] = Outcome()
    call: Callable[[], object] = partial(outcome.capture, function)
    loop = asyncio._get_running_loop()
    if loop is not None:
        call = _on_strand(strand_for(call, greenlet.getcurrent().gr_context)).__next__
    # Else it is trio, which may give a task another context: greenback passes it on, to a greenlet of its own alone.
    portal = greenback.with_portal_run_sync(call)
    if not getattr(loop, _NESTS, False):
        await portal
        return outcome.unwrap()
    _bridged_here.set(True)
    try:
        await _resumed_here(portal)
    finally:
        _bridged_here.set(False)
    return outcome.unwrap()


async def _until_not_nested() -> None:
    """Wait while a bridged call runs the event loop inside of itself, and with it the calling task.

    :raises BridgeError: if the task was made by such a call, which may be waiting for it
    """
    while greenlet.getcurrent().parent is not None:
        if _bridged_here.get():
            raise BridgeError(
                "a bridged call runs the event loop inside of itself, as nest_asyncio allows, and nothing is bridged "
                "there: await what it gives to run_until_complete()"
            )
        await asyncio.sleep(_NESTED_PAUSE)


@types.coroutine
def _resumed_here(portal: Coroutine[Any, Any, object]) -> Generator[Any, Any, None]:
    """Await a portal, and let it wait while another bridged call runs the event loop.

    A portal comes back to the greenlet that it was built in, so it can only be resumed from there.
    """
    here = greenlet.getcurrent()
    given: list[Any] = [None]
    errors: list[BaseException] = []
    try:
        while True:
            waits = [portal.throw(errors.pop()) if errors else portal.send(given.pop())]
            try:
                given = [(yield waits.pop())]
            except BaseException as error:
                errors = [error]
            while greenlet.getcurrent() is not here:
                try:
                    yield from asyncio.sleep(_NESTED_PAUSE).__await__()
                except BaseException as error:
                    errors = [error]
    except StopIteration:
        return


def _on_strand(strand: Any) -> Iterator[object]:
    """Switch to a strand from the greenlet that greenback has made for the portal.

    As a generator, because that has its frame with it: Python need not map any memory for this greenlet.
    """
    yield strand.switch(greenlet.getcurrent())


def _run(
    function: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    first: Callable[[Callable[[], Any]], Any] | None = None,
) -> T:
    """Run an asynchronous function to its end, in a portal.

    :param first: what makes the first step, if that has to be made in a way of its own
    """
    result: Any = function(*args, **kwargs)
    if not inspect.isawaitable(result):
        return result  # type: ignore[no-any-return]  # a decorator between has run the coroutine itself
    coroutine: Coroutine[Any, Any, T] = result if inspect.iscoroutine(result) else awaiting(result)
    del result  # what throws an error into a generator holds the error
    try:
        waits = [coroutine.send(None) if first is None else first(partial(coroutine.send, None))]
    except StopIteration as stop:  # legacy code awaits nothing, and greenback has nothing to do
        value: T = stop.value
    else:
        value = suspend(rest_of(coroutine, waits))
    return value


async def awaiting(awaitable: Awaitable[T]) -> T:
    """Make a coroutine of any awaitable."""
    try:
        return await awaitable
    finally:
        del awaitable  # what throws an error into a generator holds the error


@types.coroutine
def rest_of(coroutine: Coroutine[Any, Any, T], waits: list[Any]) -> Generator[Any, Any, T]:
    """Await what is left of a coroutine that was begun by hand.

    :param waits: what it waits for. It is taken out, and nothing else is kept here: an error that comes of it would
        stay alive by the frames that hold it
    """
    errors: list[BaseException] = []
    try:
        while True:
            try:
                waits.append((yield waits.pop()))
            except BaseException as error:
                errors.append(error)
            # Out of the except clause: the error is no context of what the coroutine raises when it has dealt with it.
            if errors:
                waits.append(coroutine.throw(errors.pop()))
            else:
                waits.append(coroutine.send(waits.pop()))
    except StopIteration as stop:
        result: T = stop.value
        return result


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


def caller() -> Caller:
    """Identify who calls, without keeping it alive.

    In a worker thread it is the piece of work, not the thread: frameworks run each request's work in a context of its
    own, and a thread that opened a connection for one request may serve another while it is still open.
    """
    thread = threading.get_ident()
    if _on_loop_thread():
        task = current_task()
        return (thread, None if task is None else weakref.ref(task))
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _EXECUTOR_JOB:
            return (thread, weakref.ref(frame.f_locals["self"]))
        frame = frame.f_back
    work = _work.get(None)
    if work is None or work[0] != thread:
        work = (thread, object())
        _work.set(work)
    return work


# Where a thread's frames lie that waits for work: anyio's, trio's and the standard library's.
_MACHINERY = (
    *("/threading.py", "/queue.py", "/concurrent/futures/thread.py"),
    *("/anyio/_backends/", "/trio/_core/_thread_cache.py"),
)


def rests(holder: Caller) -> bool:
    """Tell whether a caller's piece of work is over and its thread waits for more, which only its loop can give it."""
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
