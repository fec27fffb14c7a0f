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
    """One checkout: a link, and the permit of its holder."""

    __slots__ = ("__weakref__", "_core", "_permit", "_record", "link")

    def __init__(self, core: Core, permit: Permit, link: PhysicalConnection, record: CheckoutRecord | None) -> None:
        self._core = core
        self._permit = permit
        self._record = record
        self.link = link
        link.lease = weakref.ref(self)
        core.checkins.leased[link] = permit  # from here on the link is this lease's to give back
        permit.loose = False

    def __del__(self) -> None:
        # An exception may have come before there was a link.
        if hasattr(self, "link") and self._core.checkins.leased.get(self.link, self) is self._permit:
            self.drop()

    def give_back(self) -> None:
        """Return the link to the pool, or throw it out; waits for the server if a rollback is due."""
        if self._record is not None:
            self._record.end()
        checkins = self._core.checkins
        if checkins.leased.get(self.link) is self._permit:  # a forked child holds nothing of what its parent has
            checkins.checkin(self.link, self._permit)

    def drop(self) -> None:
        """Return the link from a finaliser, without I/O."""
        if self._record is not None:
            self._record.end()
        checkins = self._core.checkins
        if checkins.leased.get(self.link) is self._permit:  # as above
            checkins.reclaim(self.link, self._permit)

    def disown(self) -> None:
        """Note that it is on its way back, whatever its holder does meanwhile; a finaliser may call this."""
        ticket = self._permit.ticket
        ticket.holder = (ticket.holder[0], object())
