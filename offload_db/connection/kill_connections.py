"""The connections that kills go over.

Owns how the very server is reached that runs a statement: over a connection that another kill has left, an idle one of
the pool that is known to lead there, or a new one. Who is killed is ``killer.py``'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..drivers.registry import driver_of
from .driver_call import Connect
from .opening import identify
from .session_state import SessionState

# Connections to the wrong servers that are held until one leads to the right one. A balancer that evens them out leads
# there when the others of three have as many: it may have led all connections of the pool to one, so a pool that is
# large holds twice as many as it has.
TRIES = 16
# Seconds that a rollback may take on an idle connection that a kill went over.
ROLLBACK = 1.0

GiveBack = Callable[[bool], None]
"""Takes an idle connection back, and whether it is well."""


class Silent(Exception):
    """Raised when the server that runs the statement does not answer, so that another way there would not help."""


class Lender(Protocol):
    """A pool, whose idle connections kills may go over."""

    @property
    def closed(self) -> bool:
        """Whether it is closed, or about to be."""

    @property
    def size(self) -> int:
        """The most connections that it has."""

    def lend(self, server: tuple[str, ...], connect: Connect | None) -> tuple[SessionState, GiveBack] | None:
        """Take out an idle connection that leads to a server, and was opened as *connect* does it; None without one."""


@dataclass(frozen=True, slots=True)
class Admin:
    """A connection to kill with."""

    raw: Any
    server: tuple[str, ...]
    connect: Connect
    """What opens its like."""
    link: SessionState | None = None
    give_back: GiveBack | None = None
    """Set if it is the pool's."""


class KillConnections:
    """Gets connections to kill with; entered by each kill while it needs any.

    :param connect: opens one, given the seconds it may take
    :param lender: gives the pool whose idle ones may be used, as long as it is there
    """

    def __init__(self, connect: Connect, lender: Callable[[], Lender | None] | None) -> None:
        self._connect = connect
        self._lender = lender
        self._lock = threading.Lock()
        self._users = 0
        # Those that lead elsewhere, and those that kills have left to the next: when a hundred statements are stopped
        # at once, opening one for each takes too long. They stay open while anybody kills. A balancer would lead the
        # next one to the same wrong server if that had lost the one before.
        self._held: list[Admin] = []

    @property
    def closed(self) -> bool:
        """Whether they are a pool's that is closed, or gone."""
        if self._lender is None:
            return False
        lender = self._lender()
        return lender is None or lender.closed

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1

    def __exit__(self, *exc_info: object) -> None:
        left: list[Admin] = []
        with self._lock:
            self._users -= 1
            if not self._users:
                left, self._held = self._held, left
        for admin in left:
            driver_of(admin.raw).close(admin.raw)

    def reach(
        self,
        server: tuple[str, ...],
        connect: Connect | None,
        over: Callable[[], bool],
        deadline: float,
        seconds: float,
    ) -> Admin | None:
        """Get a connection to a server; None if none leads there.

        :param connect: what opens it, where that is not the pool's own: it may have verified what another one did not
        :param over: tells whether none is needed any more
        :param seconds: how long any one answer may be waited for
        :raises Silent: if that server does not answer
        :raises Exception: as the driver raises it, if connecting fails
        """
        opened_by, lender = connect or self._connect, None if self._lender is None else self._lender()
        most = TRIES if lender is None else max(TRIES, 2 * lender.size)
        while (left := min(seconds, deadline - time.monotonic())) > 0 and not over():
            admin = self._take_held(server, opened_by) or self._borrow(lender, server, connect, left)
            if admin is not None:
                return admin
            admin = self._open(opened_by, left)
            if admin.server == server:
                return admin
            with self._lock:
                holds = len(self._held) < most
                if holds:
                    self._held.append(admin)
            if not holds:
                driver_of(admin.raw).close(admin.raw)
                break
        return None

    @contextmanager
    def way_to(self, *way: Any) -> Iterator[Admin | None]:
        """Reach a server as :meth:`reach` does, and part with the connection after the block."""
        admin, well = self.reach(*way), False
        try:
            yield admin
            well = True
        finally:
            if admin is not None:
                self._part(admin, well=well)

    def _part(self, admin: Admin, *, well: bool) -> None:
        """Leave a connection to the next kill, or give it back to the pool; one that is not well is closed."""
        link, give_back = admin.link, admin.give_back
        if link is not None and give_back is not None:
            try:
                if well and link.autocommit is not True:  # or the look at what runs may have begun a transaction
                    well = False
                    with link.driver.limited(link.raw, ROLLBACK):
                        link.restore()
                    well = True
            finally:
                give_back(well)
        elif well:
            with self._lock:
                self._held.append(admin)
        else:
            driver_of(admin.raw).abandon(admin.raw)

    def _take_held(self, server: tuple[str, ...], connect: Connect) -> Admin | None:
        with self._lock:
            for number, admin in enumerate(self._held):
                if admin.server == server and admin.connect == connect:
                    return self._held.pop(number)
        return None

    def _borrow(
        self, lender: Lender | None, server: tuple[str, ...], connect: Connect | None, seconds: float
    ) -> Admin | None:
        while lender is not None and (lent := lender.lend(server, connect)) is not None:
            link, give_back = lent
            asked, answers = time.monotonic(), False
            try:
                answers = link.answers(seconds)
            finally:
                if not answers:
                    give_back(False)
            if answers:
                return Admin(link.raw, server, connect or self._connect, link, give_back)
            if time.monotonic() - asked >= seconds:
                raise Silent
        return None

    @staticmethod
    def _open(connect: Connect, seconds: float) -> Admin:
        raw = connect(seconds)
        # Behind a balancer it may lead elsewhere, where the id is somebody else's.
        found = identify(driver_of(raw), raw, seconds)
        return Admin(raw, () if found is None else found.server, connect)
