"""Reads and grows cells, and knows who is to be looked at again.

Values only grow until nothing changes any more; whoever has read a cell is looked at again when it has grown. What many
ask for, such as an attribute of a class, is a cell too, derived from others: it is found once for all of them, and
again when one of those has grown.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from .model import Cell, Database, Scope, Value, Values
from .project import Project

# More than this is no knowledge any more, but for database objects. It bounds the work.
MOST_VALUES = 24


class Derived(Cell):
    """What *find* makes of a value and a name by reading other cells.

    :param grows: whether *find* asks for others like it, in a circle perhaps: then it keeps what it has found, so that
        the search comes to an end
    """

    __slots__ = ("find", "grows", "name", "value")

    def __init__(self, find: Callable[[Value, str], Values], value: Value, name: str, *, grows: bool) -> None:
        super().__init__()
        self.find = find
        self.value = value
        self.name = name
        self.grows = grows


class Worklist:
    """Cells, their readers, and the code that is still to be looked at."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.scope: Scope = project.modules[0].scope  # whose code is looked at
        self._queue: deque[Scope] = deque()
        self._queued: set[Scope] = set()
        self._finding: Derived | None = None
        self._outdated: dict[Derived, None] = {}
        self._sets: dict[Values, Values] = {}  # equal ones are kept once: most cells hold one value
        self._narrowed: dict[Values, Values] = {}  # sets, and the database objects in them

    def reader(self) -> Scope | Derived:
        """Return who is looked at again when what is read now grows."""
        return self._finding or self.scope

    def read(self, cell: Cell) -> Values:
        """Return what a cell holds; who asks is looked at again when that grows."""
        reader = self._finding or self.scope
        if cell.read_by is not reader:
            cell.add_reader(reader)
        return cell.values

    def grow(self, cell: Cell, values: Values) -> None:
        """Add values to a cell."""
        if values <= cell.values:
            return
        if len(cell.values) >= MOST_VALUES:
            values = self._databases(values)
            if values <= cell.values:
                return
        self._change(cell, cell.values | values if cell.values else values)

    def _databases(self, values: Values) -> Values:
        """Return the database objects among some values."""
        found = self._narrowed.get(values)
        if found is None:
            found = self._narrowed[values] = frozenset(value for value in values if isinstance(value, Database))
        return found

    def _change(self, cell: Cell, values: Values) -> None:
        cell.values = self._sets.setdefault(values, values)
        for reader in cell.readers():
            self.enqueue(reader)

    def enqueue(self, reader: Scope | Cell) -> None:
        """Look at code again, or find again what is derived."""
        if isinstance(reader, Derived):
            self._outdated[reader] = None
        elif isinstance(reader, Scope) and reader not in self._queued:
            self._queued.add(reader)
            self._queue.append(reader)

    def next(self) -> Scope | None:
        """Return whose code is to be looked at next; None if nothing is left to do."""
        self._update()
        if not self._queue:
            return None
        scope = self._queue.popleft()
        self._queued.discard(scope)
        return scope

    def left(self) -> int:
        """Return how many pieces of code are still to be looked at."""
        return len(self._queue)

    def derived(self, cell: Derived) -> Values:
        """Return what is derived, as of now."""
        if cell.read_by is None:
            self._outdated[cell] = None
        if self._finding is None:
            self._update()
        elif not cell.grows and cell in self._outdated:
            self._find(cell)
        # One that grows is found when the one that asks for it is done, which is then found again.
        return self.read(cell)

    def _update(self) -> None:
        while self._outdated:
            self._find(next(reversed(self._outdated)))

    def _find(self, cell: Derived) -> None:
        before, self._finding = self._finding, cell
        del self._outdated[cell]
        try:
            found = cell.find(cell.value, cell.name)
        finally:
            self._finding = before
        if cell.grows:
            found |= cell.values
        if found != cell.values:
            self._change(cell, found)
