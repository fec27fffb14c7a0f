"""Calls that can be awaited, and that can be entered with ``async with`` as well.

Owns the object that such a call returns. What it makes, and how that is given up again, is its user's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from ..bridge import bridged

R = TypeVar("R", bound="_Resource")


class _Resource(Protocol):
    """Something that is given up at the end of an ``async with`` block."""

    async def _give_up(self) -> None:
        """Give it up."""


class Pending(Generic[R]):
    """A call that can be awaited for its result, or entered with ``async with``, which gives the result up again."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], R]) -> None:
        self._make = make
        self._made: R | None = None

    def __await__(self) -> Generator[Any, Any, R]:
        return bridged(self._make).__await__()

    async def __aenter__(self) -> R:
        self._made = made = await self
        return made

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        made, self._made = self._made, None
        if made is not None:
            await made._give_up()
