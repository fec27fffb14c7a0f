"""How synchronous code suspends the task that it runs in.

Owns the portal around a bridged call: the call runs in a greenlet, and the task's own coroutine awaits for it what it
waits for. Where a call is made from is ``place.py``'s to say, who makes it ``caller_identity.py``'s. Knows no database.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Container, Coroutine, Generator
from functools import partial
from typing import Any, TypeVar

import greenlet

from .greenlet_pool import PooledGreenlet, greenlet_for
from .handled_errors import handling, reraise, with_handled
from .place import Place, current_task, place

T = TypeVar("T")

# The tasks that run their first step in the middle of the code that starts them; Python 3.12 brought them.
_EAGER_TASKS: Container[object] = getattr(asyncio.tasks, "_eager_tasks", ())


def suspend(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine from synchronous code of a bridged task."""
    portal: Any = greenlet.getcurrent()
    while type(portal) is not PooledGreenlet or portal.task is None:
        portal = portal.parent  # from a greenlet that the bridged code has made: SQLAlchemy's asyncio support does
    # What comes and goes is in a list, which lets go of it: an error would be kept by the frames that it has passed.
    passed = portal.passed
    passed.append(None)
    try:
        while True:
            if portal.errors:
                passed.append(coroutine.throw(portal.errors.pop()))
            else:
                passed.append(coroutine.send(passed.pop()))
            portal.suspended = greenlet.getcurrent()
            portal.parent.switch()
    except StopIteration as stop:
        result: T = stop.value
        return result


def bridged(function: Callable[[], T]) -> Awaitable[T]:
    """Run synchronous code that may suspend, for asynchronous code to await at once; in a thread it runs inline."""
    if place() is not Place.LOOP:
        return _inline(function)
    if sys.exc_info()[1] is not None:
        function = with_handled(function)
    elif isinstance(function, types.MethodType):
        return _in_portal(function.__func__, function.__self__, current_task())
    return _in_portal(_call, function, current_task())


def _call(function: Callable[[], T]) -> T:
    return function()


async def _inline(function: Callable[[], T]) -> T:
    return function()


def abridged(
    function: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any], task: object
) -> Awaitable[T]:
    """Await ``function(*args, **kwargs)`` in such a way that synchronous code below it may suspend the running task."""
    if sys.exc_info()[1] is None:
        # To call what `async def` has defined runs nothing of it yet.
        if type(function) is types.FunctionType and function.__code__.co_flags & inspect.CO_COROUTINE:
            return _in_portal(suspend, function(*args, **kwargs), task)
        return _in_portal(_run, (function, args, kwargs), task)
    if task in _EAGER_TASKS:
        # What the code handles that starts an eager task is seen by the task's first step alone.
        return _in_portal(_call, partial(_run, (function, args, kwargs), handling()), task)
    return _in_portal(_call, with_handled(partial(_run, (function, args, kwargs))), task)


@types.coroutine
def _in_portal(function: Callable[[Any], T], argument: Any, task: object) -> Generator[Any, Any, T]:
    """Call a function with one argument in a greenlet, and await what it waits for in the running task.

    The greenlet is switched to from wherever the task goes on: an eager task makes its first step in the greenlet of
    another one, and a bridged call may run its event loop inside of itself, as nest_asyncio lets it.
    """
    context, thread = greenlet.getcurrent().gr_context, threading.get_ident()
    portal = greenlet_for(function, argument, context)
    del argument  # the call is what holds it
    portal.task = id(task)  # a greenlet that waits is out of the collector's sight, and must keep no task
    del task
    passed = portal.passed
    portal.switch()
    while portal.suspended is not None:
        resumed, portal.suspended = portal.suspended, None
        try:
            passed.append((yield passed.pop()))
        except BaseException as error:
            if threading.get_ident() != thread:  # the collector throws it away here, and greenlet ends it there
                raise
            portal.errors.append(error)
        portal.parent = greenlet.getcurrent()
        if portal.gr_context is context:  # else the call is in the middle of a Context.run()
            portal.gr_context = context = greenlet.getcurrent().gr_context  # trio's tasks may be given another one
        resumed.switch()
    if portal.errors:
        reraise(portal.errors.pop())
    result, portal.result = portal.result, None
    return result  # type: ignore[no-any-return]  # the greenlet's attributes have no types


def _run(
    work: tuple[Callable[..., Awaitable[T]], tuple[Any, ...], dict[str, Any]],
    first: Callable[[Callable[[], Any]], Any] | None = None,
) -> T:
    """Run an asynchronous function to its end, in a portal.

    :param work: the function, and what it is called with
    :param first: what makes the first step, if that has to be made in a way of its own
    """
    function, args, kwargs = work
    result: Any = function(*args, **kwargs)
    if type(result) is not types.CoroutineType:
        if not inspect.isawaitable(result):
            return result  # type: ignore[no-any-return]  # a decorator between has run the coroutine itself
        result = awaiting(result)
    outcome: T = suspend(result if first is None else _begun(result, first))
    return outcome


async def _begun(coroutine: Coroutine[Any, Any, T], first: Callable[[Callable[[], Any]], Any]) -> T:
    """Await a coroutine whose first step is made in a way of its own."""
    try:
        waits = [first(partial(coroutine.send, None))]
    except StopIteration as stop:
        result: T = stop.value
        return result
    return await rest_of(coroutine, waits)


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
