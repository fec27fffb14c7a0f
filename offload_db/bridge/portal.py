"""How synchronous code suspends the task that it runs in.

Owns the portal around a bridged call, and the wait for something awaitable from below it. Where a call is made from is
``place.py``'s to say, who makes it ``caller_identity.py``'s. Knows no database.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import types
from collections.abc import Awaitable, Callable, Container, Coroutine, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import anyio.lowlevel
import greenback
import greenlet

from ..errors import BridgeError
from .greenlet_outcomes import Outcome
from .greenlet_pool import greenlet_for
from .handled_errors import handling, with_handled
from .place import Place, current_task, place

T = TypeVar("T")

# The attribute by which an event loop is known that nest_asyncio has patched to be run inside of itself.
_NESTS = "_nest_patched"
# Seconds after which a bridged call looks again whether the loop that another one has nested is over.
_NESTED_PAUSE = 0.002
# Whether the calling task, or one that it comes from, is bridged; known of loops alone that can be nested.
_bridged_here: ContextVar[bool] = ContextVar("offload_db_bridged_here", default=False)

# The tasks that run their first step in the middle of the code that starts them; Python 3.12 brought them.
_EAGER_TASKS: Container[object] = getattr(asyncio.tasks, "_eager_tasks", ())


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
        call = _on_pooled_greenlet(greenlet_for(call, greenlet.getcurrent().gr_context)).__next__
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


def _on_pooled_greenlet(pooled: Any) -> Iterator[object]:
    """Switch to a pooled greenlet from the greenlet that greenback has made for the portal.

    As a generator, because that has its frame with it: Python need not map any memory for this greenlet.
    """
    yield pooled.switch(greenlet.getcurrent())


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
