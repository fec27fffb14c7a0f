"""What a holder has of a connection that is checked out.

Owns giving it back once: by its holder, by the garbage collector, or for a task that can never go on. What then becomes
of the connection is ``checkin.py``'s.
"""

from __future__ import annotations

import weakref
from typing import Protocol

from ..connection.physical import PhysicalConnection
from .checkin import Checkins
from .lanes import Permit
from .leaks import CheckoutRecord


class Core(Protocol):
    """The pool that a connection was checked out of: a lease keeps it, so that forks and reports know it still."""

    @property
    def checkins(self) -> Checkins:
        """What takes connections back."""


class Lease:
    """One checkout: a link, and the ticket that admits its holder."""

    __slots__ = ("__weakref__", "_core", "_record", "_ticket", "link")

    def __init__(self, core: Core, permit: Permit, link: PhysicalConnection, record: CheckoutRecord | None) -> None:
        assert permit.ticket is not None
        self._core = core
        self._ticket = permit.ticket
        self._record = record
        self.link = link
        link.lease = weakref.ref(self)
        core.checkins.leased[link] = self._ticket  # from here on the link is this lease's to give back
        permit.ticket = None

    def __del__(self) -> None:
        # Asked here and not by _holds, which would be one more call for each checkout.
        if (
            hasattr(self, "link") and self._core.checkins.leased.get(self.link, self) is self._ticket
        ):  # an exception came before
            self.drop()

    @property
    def _holds(self) -> bool:
        # A forked child holds nothing of what its parent has checked out.
        return self._core.checkins.leased.get(self.link) is self._ticket

    def give_back(self) -> None:
        """Return the link to the pool, or throw it out; waits for the server if a rollback is due."""
        self._end_watch()
        if self._holds:
            self._core.checkins.checkin(self.link, self._ticket)

    def drop(self) -> None:
        """Return the link from a finaliser, without I/O."""
        self._end_watch()
        if self._holds:
            self._core.checkins.reclaim(self.link, self._ticket)

    def disown(self) -> None:
        """Note that it is on its way back, whatever its holder does meanwhile; a finaliser may call this."""
        self._ticket.holder = (self._ticket.holder[0], object())

    def _end_watch(self) -> None:
        if self._record is not None:
            self._record.end()
