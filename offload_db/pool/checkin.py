"""How a connection comes back to its pool.

Owns who holds which connection, and what is done before one rests: reading out, rolling back, or throwing it out. It
also comes back from finalisers, without any I/O.
"""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial

from ..bridge.background import start_from_finaliser
from ..connection.physical import PhysicalConnection
from ..connection.tidying import tidy
from ..connection.unread_results import read_out
from ..errors import BlockingCallError, OffloadError
from ..statistics import Counters
from .admission_queue import Admission
from .idle import IdleConnections
from .lanes import Permit

_NOBODY = object()


class Checkins:
    """Takes connections back."""

    def __init__(self, admission: Admission, idle: IdleConnections, counters: Counters) -> None:
        self._admission = admission
        self._idle = idle
        self._counters = counters
        # Connections that are out, and their holders' permits. One that is neither out nor at rest is being opened,
        # pinged or closed, and ends with the call that does so.
        self.leased: dict[PhysicalConnection, Permit | None] = {}

    def after_fork(self, admission: Admission) -> None:
        """Let the child have nobody's connections: those that are out are the parent's."""
        self.leased = {}
        self._admission = admission

    def checkin(self, link: PhysicalConnection, permit: Permit) -> None:
        """Take a link back, or throw it out; waits for the server if a rollback is due."""
        reason = self._fate(link)
        if link.writes_on:
            try:
                read_out(link)
            except BaseException:
                # On the loop's own thread, and where the task is cancelled already, it may not even have begun.
                if not (self._writes_on(link) and self._check_in_later(link, permit)):
                    self._put_back(link, permit, self._fate_when_read(link))
                raise
            reason = self._fate_when_read(link)
        self._put_back(link, permit, reason)

    @staticmethod
    def _writes_on(link: PhysicalConnection) -> bool:
        link.discard_reason()
        return link.writes_on

    def _fate_when_read(self, link: PhysicalConnection) -> str | None:
        if self._writes_on(link):  # there is more than was read
            link.fault = "unread_result"
        return self._fate(link)

    def _put_back(self, link: PhysicalConnection, permit: Permit, reason: str | None) -> None:
        """Roll back what is open, and let the link rest, or throw it out for the *reason*."""
        try:
            if reason is None and not link.clean:
                try:
                    tidy(link)
                except BaseException as error:
                    reason = link.fault = "rollback_failed"
                    # The caller is done with the connection: what the server says to the rollback is ours alone.
                    if not isinstance(error, Exception) or isinstance(error, (BlockingCallError, Warning)):
                        raise
        finally:
            permit.loose = True  # whatever exception comes now, it is released
            try:
                if self.leased.pop(link, _NOBODY) is _NOBODY:
                    pass  # a finaliser has taken it back meanwhile
                elif reason is None:
                    self._idle.rest(link)
                    self._counters.add("checkins")
                else:
                    self._idle.discard(link, reason)
                # Others came back in the same moment, or those for whom more were kept have had their turn.
                while self._idle.most and self.one_too_many():
                    self._idle.discard_oldest("maxcached")
            finally:
                self._admission.release(permit)

    def _check_in_later(self, link: PhysicalConnection, permit: Permit) -> bool:
        """Check the link in on a thread of its own; False if there is none to be had. A finaliser may call this."""
        self.leased[link] = None  # the lease has nothing to give back any more
        started = start_from_finaliser(partial(self._check_in_quietly, link, permit))
        if not started:
            self.leased[link] = permit
        return started

    def _check_in_quietly(self, link: PhysicalConnection, permit: Permit) -> None:
        with suppress(OffloadError):  # nobody is there any more to be told
            self.checkin(link, permit)

    def reclaim(self, link: PhysicalConnection, permit: Permit) -> None:
        """Take back a link that was dropped; called by a finaliser, so without any I/O."""
        reason = self._fate(link)
        if link.writes_on:
            if self._check_in_later(link, permit):
                return
            reason = "unread_result"
        if reason is None and not link.clean:
            # A rollback would be I/O. When the link breaks, the server rolls back by itself.
            reason = "dropped_in_transaction"
        permit.loose = True  # as above
        if self.leased.pop(link, _NOBODY) is _NOBODY:  # another thread has taken it back just now
            return
        if reason is None:
            link.rested = time.monotonic()
            self._idle.resting.append(link)
            if self._idle.closed:
                # The pool was closed in between, and whoever did that may not have found it here.
                with suppress(ValueError):
                    self._idle.resting.remove(link)
                    reason = "closed"
        if reason is not None:
            if reason == "unfit_server":
                self._idle.note_unfit(link)
            link.fault = link.fault or reason
            link.close()
            self._idle.links.discard(link)
        self._counters.finalised(reason)
        self._admission.release(permit)

    def _fate(self, link: PhysicalConnection) -> str | None:
        """Return why a link that comes back cannot be used again, None if it can."""
        if link.current_call is not None:
            # The loop's own thread gave it back, which waits for nobody, or the task was thrown away unfinished.
            link.break_link()
        reason = link.discard_reason() or self._idle.outlived(link)
        # Most pools set no limit, and each checkin of theirs is spared a call.
        return "maxcached" if reason is None and self._idle.most and self.one_too_many() else reason

    def one_too_many(self) -> bool:
        """Tell whether more connections rest than may, with the one that comes back.

        For one that has come to rest already, ask before its permit is released. Those do not count that others take
        next: who is admitted and has not come for theirs yet, and who waits.
        """
        idle, admission = self._idle, self._admission
        if not idle.most or len(idle.resting) < idle.most:
            return False
        next_ones = admission.in_use - len(self.leased) - len(idle.opening)
        if admission.in_use >= admission.size:
            next_ones += admission.waiting
        return len(idle.resting) >= idle.most + next_ones
