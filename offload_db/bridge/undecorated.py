"""Running a decorated function as it ran before it was decorated, where that was chosen.

Owns what "before" means for each kind of function. Who chooses is ``arms.choose``'s to say.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio.to_thread

from . import arms
from .arms import Runner
from .stack import OWN_FILES, frames_from, module_of

# Frameworks that run a handler that is no coroutine function in a thread of anyio's.
_IN_THREADS = frozenset({"fastapi", "starlette"})


class ChosenCalls:
    """Runs the calls of a decorated function, each the way that is chosen for it.

    :param run: runs one offloaded
    :param before: runs one as before
    :param plain: the user's own function
    """

    __slots__ = ("_before", "_plain", "_run")

    def __init__(self, run: Runner, before: Runner, plain: Any) -> None:
        self._run = run
        self._before = before
        self._plain = plain

    async def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call."""
        call = None if arms.choose is None else arms.choose(self._plain, args)
        if call is None:
            return await self._run(function, args, kwargs)
        return await call.run(self._before if call.inline else self._run, function, args, kwargs)


async def run_undecorated(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Await a function as if nothing stood above it."""
    return await function(*args, **kwargs)


async def run_undecorated_def(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a ``def`` where it was called before: in a framework's thread, or else on the caller's own."""
    if _is_awaited_by_framework():
        result = await anyio.to_thread.run_sync(partial(function, *args, **kwargs))
    else:
        result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


def _is_awaited_by_framework() -> bool:
    frames = frames_from(sys._getframe(1))
    outer = (frame for frame in frames if not frame.f_code.co_filename.startswith(OWN_FILES))
    wrapper = next(outer, None)  # that of the decorator, which has the user's file
    caller = None if wrapper is None else next(outer, None)
    return caller is not None and module_of(caller) in _IN_THREADS


class ChosenSteps:
    """Runs the steps of a decorated asynchronous generator, all of them the way that is chosen at the first."""

    __slots__ = ("_call", "_run")

    def __init__(self, run: Runner, plain: Any, args: tuple[Any, ...]) -> None:
        self._call = None if arms.choose is None else arms.choose(plain, args)
        self._run: Runner = run_undecorated if self._call is not None and self._call.inline else run

    async def __call__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one step; the one that ends the generator ends the call."""
        call = self._call
        if call is None:
            return await self._run(function, args, kwargs)
        ends = True
        try:
            result = await call.step(self._run, function, args, kwargs)
            ends = getattr(function, "__name__", "") == "aclose"
            return result
        finally:
            if ends:
                call.end()
