"""Owns what tests of the pool look at behind the public names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from offload_db import OffloadPool
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Ticket


def common_queue(lanes: Admission) -> int:
    """Return the length of the queue of the pool as a whole."""
    return len(lanes._common.queue)


def common_timeout(lanes: Admission) -> float | None:
    """Return how long somebody without a lane waits."""
    return lanes._lane(None).checkout_timeout


def before_withdrawing(patch: pytest.MonkeyPatch, lanes: Admission, first: Callable[[], object]) -> None:
    """Have *first* called when somebody's wait is over, just before they leave the queue."""
    withdraw = lanes._withdraw

    def late(ticket: Ticket) -> bool:
        first()
        return withdraw(ticket)

    patch.setattr(lanes, "_withdraw", late)


def looking(lanes: Admission, look: Callable[..., None]) -> None:
    """Have *look*, which gets the search itself first, search whether a waiter can ever be served."""
    refuse = lanes._refuse_hopeless

    def called(ticket: Ticket, *args: Any, **kwargs: Any) -> None:
        look(refuse, ticket, *args, **kwargs)

    lanes._refuse_hopeless = called  # type: ignore[method-assign]


def keep_one(lanes: Admission) -> None:
    """Keep a slot for the event loop's thread, as after a refusal."""
    lanes._keep_one()


def keep_longer(lanes: Admission, seconds: float) -> None:
    """Prolong the keeping of a slot."""
    lanes._keep_until += seconds


def kinds_kept(pool: OffloadPool) -> int:
    """Return how many kinds of connections a pool remembers."""
    return len(pool._kinds._kept)


def waiting_for_share(pool: OffloadPool) -> int:
    """Return how many callers wait for a connection of their kind to come back."""
    return len(pool._core.idle._waiters)
