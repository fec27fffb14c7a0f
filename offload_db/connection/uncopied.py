"""Objects that stand for a connection.

Owns that they are not copied: a copy would use the same physical connection as the first.
"""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex


class Uncopied:
    """What can neither be copied nor pickled."""

    __slots__ = ()

    def __copy__(self) -> NoReturn:
        self._refuse()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        self._refuse()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled: it stands for one connection to the server; "
            "take another from the pool where it is needed"
        )
