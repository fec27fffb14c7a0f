"""What may be given back at any moment, also in the middle of a section under the very lock that guards it.

Owns how a finaliser, which the garbage collector may call anywhere, gives something back without waiting for a lock.
"""

from __future__ import annotations

import abc
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Settling(abc.ABC, Generic[T]):
    """A state with a lock that is held for a few instructions only, never across I/O or a suspension.

    Who gives something back appends it to ``_returned``. They settle then, and so does whoever has held the lock.
    """

    __slots__ = ("_lock", "_returned")

    _lock: threading.Lock
    _returned: list[T]

    def _settle(self) -> None:
        """Take back what was returned, and admit those whose turn it is.

        Try-lock: the holder calls this after releasing, so that what is returned meanwhile is not missed. The lock is
        asked first and then waited for, because only `with` takes a lock and notes that in one step. Nobody waits for
        long, and never in a circle: of several finalisers with one such lock each, the last to take its own finds the
        next one taken.
        """
        while self._returned and not self._lock.locked():
            with self._lock:
                while self._returned:
                    self._take_back(self._returned[0])
                    del self._returned[0]
                self._admit()

    @abc.abstractmethod
    def _take_back(self, returned: T) -> None:
        """Note that something was given back, perhaps for the second time."""

    @abc.abstractmethod
    def _admit(self) -> None:
        """Admit those whose turn it is."""
