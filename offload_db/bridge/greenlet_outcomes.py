"""What a function returned or raised, carried past greenback.

Owns how errors cross a greenlet portal without being kept alive by its frames. Knows nothing of tasks and threads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

import greenback
import outcome

from .handled_errors import reraise

T = TypeVar("T")

# The files of greenback and of what it keeps errors in.
_GREENBACK = (greenback.with_portal_run.__code__.co_filename, outcome.Error.send.__code__.co_filename)


class Outcome(Generic[T]):
    """What a function returned or raised.

    Errors do not pass through greenback: its frames keep a reference to them, and the cycle would keep everything
    that the handler held, connections above all, until the garbage collector comes by.
    """

    __slots__ = ("_error", "_result")

    _result: T

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def capture(self, function: Callable[[], T]) -> Outcome[T]:
        """Call the function."""
        try:
            self._result = function()
        except BaseException as error:
            self._error = error
        return self

    async def acapture(self, awaitable: Awaitable[T]) -> Outcome[T]:
        """Await the awaitable."""
        try:
            self._result = await awaitable
        except BaseException as error:
            self._error = error
        return self

    def unwrap(self, *, apart: bool = False) -> T:
        """Return what was returned, or raise what was raised; once.

        :param apart: see :func:`offload_db.bridge.handled_errors.reraise`
        """
        error, self._error = self._error, None
        if error is not None:
            _leave_greenback(error)
            try:
                reraise(error, apart=apart)
            finally:
                del error, self
        return self._result


def _leave_greenback(error: BaseException) -> None:
    """Take greenback's frames out of an error's traceback, and clear them.

    An error that the event loop throws into a task passes some of them on its way in, and they keep it.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        before, trail = None, current.__traceback__
        while trail is not None:
            if trail.tb_frame.f_code.co_filename not in _GREENBACK:
                before = trail
            elif before is None:
                current.with_traceback(trail.tb_next)  # what an error's class may not let be set
            else:
                before.tb_next = trail.tb_next
            trail = trail.tb_next
        current = current.__cause__ or current.__context__
    frame = None if error.__traceback__ is None else error.__traceback__.tb_frame.f_back
    while frame is not None:
        caller_frame = frame.f_back
        if frame.f_code.co_filename in _GREENBACK:
            with suppress(RuntimeError):  # it still runs, so it will be gone by itself
                frame.clear()
        frame = caller_frame
