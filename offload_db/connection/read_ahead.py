"""The rows of an unbuffered cursor that were read before they were asked for.

Owns those rows, and the error that came after them. The cursor decides when to read, the driver how many have arrived.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from ..drivers.base import Driver
from .physical import PhysicalConnection


class ReadAhead:
    """Rows that were read before they were asked for, and the error that came after them.

    Threads hold this instead of the cursor, so that a cursor which is dropped is collected there and then.
    """

    __slots__ = ("_driver", "_late", "_raw", "rows", "text")

    def __init__(self, raw: Any, driver: Driver) -> None:
        self._raw = raw
        self._driver = driver
        self._late: Exception | None = None
        self.rows: deque[Any] = deque()
        self.text: object = None
        """The statement whose rows these are, for reports."""

    def send(self, link: PhysicalConnection, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Make a call that sends a statement, after skipping the rest of the last result; on the call's thread."""
        try:
            self._driver.skip_rest(link.raw)
            return method(*args, **kwargs)
        finally:
            if self._driver.hold(self._raw):
                self._forget()

    def hold(self, function: Callable[[], Any]) -> Any:
        """Make a call that goes on with the result, on the call's thread."""
        try:
            return function()
        finally:
            if self._driver.hold(self._raw):
                self._forget()

    def _forget(self) -> None:
        """Forget what was read: the cursor has another result now."""
        self.rows.clear()
        self._late = None

    def read(self, function: Callable[[], Any], *, more: bool) -> Any:
        """Read what is asked for, and if *more* the rows that have arrived besides; on the call's thread."""
        late, self._late = self._late, None
        if late is not None:
            try:
                raise late
            finally:
                del late  # its traceback holds this frame
        wanted = function()
        try:
            for _ in range(self._driver.arrived(self._raw) if more else 0):
                self.rows.append(self._raw.fetchone())
        except Exception as error:
            self._late = error  # the rows before it come first
        return wanted

    def take(self, number: float = math.inf) -> list[Any]:
        """Give out *number* rows, or as many as there are."""
        return [self.rows.popleft() for _ in range(int(min(number, len(self.rows))))]

    def drop_rows(self) -> None:
        """Forget the rows; the cursor then stands where its user has come to."""
        if self.rows:
            self._raw.rownumber -= len(self.rows)
            self.rows.clear()
