"""Calls that can be awaited, and that can be entered with ``async with`` as well.

Owns the object that such a call returns. What it makes, and how that ends, is its user's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, TypeVar

from ..bridge.portal import bridged
from ..bridge.stack import OWN_FILES, first_outside
from ..statistics import SourceLine

R = TypeVar("R", bound="_Resource")


class _Resource(Protocol):
    """Something that ends with an ``async with`` block."""

    async def _end_block(self) -> None:
        """Close it or give it back."""


class Pending(Coroutine[Any, Any, R]):
    """A call that can be awaited for its result, or entered with ``async with``, which ends the result.

    It is a coroutine to ``asyncio.create_task`` and the like; nothing happens before it is awaited.
    """

    __slots__ = ("_called", "_coroutine", "_made", "_make")

    def __init__(self, make: Callable[[], R]) -> None:
        self._make = make
        # The line of the call is on no stack once a task is made of it. The frame would keep its variables alive.
        frame = first_outside(sys._getframe(1), OWN_FILES)
        self._called = frame.f_code, frame.f_lineno
        self._made: R | None = None
        self._coroutine: Coroutine[Any, Any, R] | None = None

    @property
    def called(self) -> SourceLine:
        """The line of the user's that made the call."""
        code, line = self._called
        return SourceLine(code.co_filename, line or 0, code.co_name)

    def __await__(self) -> Generator[Any, Any, R]:
        return self._run().__await__()

    def send(self, value: Any) -> Any:
        """Run on; for event loops."""
        return self._begun().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where it waits; for event loops."""
        return self._begun().throw(*error)

    def close(self) -> None:
        """End it where it waits; for event loops."""
        if self._coroutine is not None:
            self._coroutine.close()

    async def __aenter__(self) -> R:
        self._made = made = await self
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        made, self._made = self._made, None
        if made is None:
            return
        try:
            await made._end_block()
        except Exception:
            if error is None:  # else the user's own is on its way
                raise

    async def _run(self) -> R:
        return await bridged(self._make)

    def _begun(self) -> Coroutine[Any, Any, R]:
        if self._coroutine is None:
            self._coroutine = self._run()
        return self._coroutine
