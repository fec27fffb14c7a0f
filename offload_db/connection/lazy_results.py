"""Results of a driver's that go on reading from the server while they are used.

Makes each of their steps a call like any other: a hop in a bridged task, counted on the loop's thread. The
driver's file tells which calls return such a result; ``physical.py`` makes the calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .uncopied import Uncopied

_END = object()


class LazyResult(Uncopied):
    """A generator of the driver's, or a result of its own that is read row by row.

    :param make: makes a call that may wait for the server
    :param raw: what the driver has returned
    :param swap: what the driver gives out of its own, and what the user is to get in its place
    """

    __slots__ = ("_make", "_raw", "_swap")

    def __init__(self, make: Callable[[Callable[[], Any]], Any], raw: Any, swap: tuple[Any, Any]) -> None:
        self._make = make
        self._raw = raw
        self._swap = swap

    def __iter__(self) -> LazyResult:
        return self

    def __next__(self) -> Any:
        found = self._make(partial(next, self._raw, _END))
        if found is _END:
            raise StopIteration
        drivers, users = self._swap
        return users if found is drivers else found

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._raw, name)
        return partial(self._step, value) if callable(value) else value

    def _step(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._make(partial(method, *args, **kwargs))
