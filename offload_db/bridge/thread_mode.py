"""Running a whole coroutine in one worker thread.

Owns ``mode="thread"``: driving a coroutine where nothing can resume it, and saying where it tried to suspend.
"""

from __future__ import annotations

import inspect
import types
from contextvars import Context
from typing import Any

from ..errors import BridgeError

# What asyncio and trio say where no loop runs: the coroutine was about to suspend.
_NO_LOOP = (
    "no running event loop",
    "There is no current event loop",
    "must be called from async context",
    "'RunContext' object has no attribute",
)
# The errors that anyio and sniffio have for it.
_NO_LOOP_TYPES = ("AsyncLibraryNotFoundError", "NoEventLoopError")


def drive(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, plain: Any) -> Any:
    """Call *function* and run the coroutine that it returns to its end, on this thread.

    :param plain: the user's own function, below decorators and partials
    :raises BridgeError: if the coroutine suspends
    """
    result = function(*args, **kwargs)
    if not inspect.isawaitable(result):
        return result
    steps: Any = result if hasattr(result, "send") else result.__await__()
    code = getattr(plain, "__code__", None)
    file = None if code is None else code.co_filename
    try:
        next(steps) if not hasattr(steps, "send") else steps.send(None)
    except StopIteration as done:
        return done.value
    except (RuntimeError, AttributeError) as error:
        if not str(error).startswith(_NO_LOOP) and type(error).__name__ not in _NO_LOOP_TYPES:
            raise
        raise _suspended(plain, _line(file, error.__traceback__)) from error
    except BaseException:
        del result, steps  # what throws an error into a generator holds the error
        raise
    generator = _generator_of(function)
    line = _line(file, generator or result)
    try:
        if generator is None:
            steps.close()
        else:
            steps.throw(GeneratorExit())
    except (GeneratorExit, StopAsyncIteration):
        pass
    except Exception as error:  # its clean-up failed, or awaits as well
        raise _suspended(plain, line) from error
    raise _suspended(plain, line)


def adopt(context: Context, *, but: frozenset[Any] = frozenset()) -> None:
    """Set the caller's context variables to those of *context*, in which a coroutine has run in a thread."""
    for variable, value in context.items():
        if variable not in but and variable.get(None) is not value:
            variable.set(value)


def _generator_of(step: Any) -> Any:
    """Return the async generator that *step* is a method of, None if it is none."""
    owner = getattr(step, "__self__", None)
    return owner if inspect.isasyncgen(owner) else None


def _line(file: str | None, trail: Any) -> str:
    """Find the innermost line in the user's own file, along a traceback or a chain of suspended coroutines."""
    found = "an unknown line"
    while trail is not None:
        frame: types.FrameType | None
        if isinstance(trail, types.TracebackType):
            frame, number, trail = trail.tb_frame, trail.tb_lineno, trail.tb_next
        else:
            kind = "ag" if inspect.isasyncgen(trail) else "cr"
            frame = getattr(trail, f"{kind}_frame", None)
            number = 0 if frame is None else frame.f_lineno
            trail = getattr(trail, f"{kind}_await", None)
        if frame is not None and frame.f_code.co_filename == file:
            found = f"{file}:{number}"
    return found


def _suspended(plain: Any, line: str) -> BridgeError:
    return BridgeError(
        f"{getattr(plain, '__qualname__', plain)} suspended at {line}, but mode='thread' runs it in a worker thread, "
        "where nothing can resume it: use mode='bridge' (guide: How a handler runs)"
    )
