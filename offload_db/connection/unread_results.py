"""Results that nobody reads to their end.

Owns what becomes of one before its connection is used again or closed: it is read out where the statement may still
write, else skipped or killed.
"""

from __future__ import annotations

import logging
import math
import time
from functools import partial
from typing import Protocol

from ..bridge.call_scope import current_deadline
from ..drivers.base import READ_OUT_BYTES, READ_OUT_SECONDS
from ..errors import BlockingCallError
from .call_lock import CallLock
from .driver_call import DriverCall, Link as CalledLink
from .killer import Killer

logger = logging.getLogger("offload_db")


class Link(CalledLink, Protocol):
    """What is asked of the physical connection besides what a call needs of it."""

    ended_by_kill: bool
    fault: str | None
    statement_timeout: float | None

    @property
    def killer(self) -> Killer:
        """What kills its statement."""

    @property
    def may_write(self) -> bool:
        """Whether the last statement is one that may write."""

    def killed(self) -> None:
        """Note that a kill was sent."""

    def absorb(self) -> None:
        """Let a kill that may come late come now."""

    def transaction_ended(self) -> None:
        """Note that nothing is open any more."""


# Seconds that a call may always take which must be made.
SHORTEST_LIMIT = 0.01


def read_out(link: Link) -> None:
    """Read what is left of the answer to a statement that may still write, so that it comes to its end.

    What the server says in the place of a result is logged: the caller is done with it. Past
    :data:`READ_OUT_SECONDS` or :data:`READ_OUT_BYTES` the link is broken, which is logged, too, and the server goes
    on by itself until it has something to send. If the task is cancelled, the cancellation is raised when all is
    read; cancel scopes do not interrupt.

    :raises StatementTimeout: if a limit of the user's is over; the statement was killed
    """
    deadline = current_deadline()
    limits = [
        limit for limit in (link.statement_timeout, None if deadline is None else deadline.left) if limit is not None
    ]
    wanted = min(limits, default=math.inf)
    limit = max(SHORTEST_LIMIT, min(wanted, READ_OUT_SECONDS))
    until = time.monotonic() + limit
    call = DriverCall(link, "close", partial(_read_all, link), CallLock(), killable=True)

    def stop() -> None:
        call.finished.wait(max(0.0, until - time.monotonic()), shield=True)  # a cancelled task takes no time from it
        if call.finished.is_set():
            return
        if wanted <= READ_OUT_SECONDS:
            call.stop()
        else:
            call.cut()

    failed = ""
    try:
        link.executor.run("close", call.make, shield=True, timeout=limit, stop=stop)
    except (BlockingCallError, Warning):  # and nothing was read
        raise
    except Exception as error:
        failed = f"{type(error).__name__} {link.driver.code(error) or ''}"
    if call.late and call.stopped:
        link.fault = "unread_result"
        reason = (
            f"its timeout of {limit:.2f} s is over (statement_timeout)"
            if wanted == link.statement_timeout
            else str(deadline)
        )
        raise call.timeout_error(reason)
    if call.stopped and not call.killed:
        _not_read_out(link, f"it takes longer than {READ_OUT_SECONDS:.0f} s")
    elif failed or call.killed:  # by the end of the pool
        logger.warning(
            "a statement failed after its connection was given back with its answer not read to the end: %s; "
            "close the cursor, or fetch its results, before the connection",
            failed or "it was killed",
        )


def _read_all(link: Link) -> None:
    if not link.driver.read_out(link.raw, READ_OUT_BYTES):
        _not_read_out(link, f"it has more than {READ_OUT_BYTES // 2**20} MB")


def _not_read_out(link: Link, why: str) -> None:
    link.fault = "unread_result"
    logger.warning(
        "the answer to a statement that may still write was not read to its end after its connection was given "
        "back: %s. The connection is closed, and what the statement has not done by now may stay undone; close the "
        "cursor, or fetch its results, before the connection",
        why,
    )


def kill_unread(link: Link) -> None:
    """Kill the statement whose rows have not been read to their end; the link must be closed next.

    If the task is cancelled, the cancellation is raised when it is done; cancel scopes do not interrupt.
    """
    if link.ended_by_kill:
        return  # the server may not have come to rest yet, and would look as if there were something to kill
    call = DriverCall(link, "kill", killable=True)
    link.executor.run("kill", partial(link.killer.end, call), shield=True)


def skip_unread(link: Link) -> None:
    """End the result that is being read, before a rollback; on the thread that makes the rollback.

    Of many rows none are waited for: the statement is killed, unless it may do what no rollback undoes.
    """
    driver, raw = link.driver, link.raw
    if not driver.unread(raw):
        return
    try:
        if driver.skip_few(raw):
            return
        if link.may_write:
            if driver.read_out(raw, READ_OUT_BYTES):
                return
            logger.warning(
                "a statement that may still write is killed before a rollback: it has more than %d MB left to send",
                READ_OUT_BYTES // 2**20,
            )
        call = DriverCall(link, "kill", killable=True)
        if not link.ended_by_kill:
            link.killer.end(call)
        driver.skip_killed(raw)  # where there was nothing to kill, the server has sent all that there is
        if call.killed:
            link.killed()
            driver.skip_killed(raw)
            link.absorb()
    except Exception as error:
        if not driver.in_step(error):  # else it is how the result ends
            raise


def roll_back(link: Link) -> None:
    """Roll back, on a worker, whatever is left unread."""
    skip_unread(link)
    link.raw.rollback()
    link.transaction_ended()
