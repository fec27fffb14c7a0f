"""Putting a session in order, before its connection rests or is given to somebody else.

Owns the round trips that take it there. ``session_state.py`` knows whether any are due, and what they are.
"""

from __future__ import annotations

from functools import partial

from .driver_call import DriverCall
from .physical import TIDY_TIMEOUT, PhysicalConnection


def tidy(link: PhysicalConnection) -> None:
    """Roll back what is open and put the session back as it was, within :data:`TIDY_TIMEOUT` seconds.

    If the task is cancelled, the cancellation is raised when it is done; cancel scopes do not interrupt.

    :raises Exception: if it could not be done; the link must be thrown out then
    """
    call = DriverCall(link, "rollback", killable=False)
    link.executor.run(
        "rollback",
        partial(_restore, link, call),
        shield=True,
        timeout=TIDY_TIMEOUT,
        stop=partial(link.killer.stop, call),
        on_closed_loop=partial(link.take_back, link.call_lock),
        # Unlocking tables takes a cursor, which may be one of the user's.
        shared=link.shares_now and (not link.locked or link.driver.cursor_shares(link.raw.cursorclass)),
    )


def _restore(link: PhysicalConnection, call: DriverCall) -> None:
    try:
        with link.wire:
            link.restore()
    finally:
        call.finished.set()
