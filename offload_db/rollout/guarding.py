"""Going back by itself where offloaded calls do worse than the others.

Owns the comparison of the arms, which is made at the end of calls, and what is said of it. It has no thread of its own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ConfigurationError
from ..settings import check_count, check_seconds, shown
from .choice import CallRecord, watchers
from .rules import RULES, Rule
from .targets import Target

logger = logging.getLogger("offload_db.rollout")

SHORTEST = 0.01
"""Seconds that durations are compared as at least: how often a hop fits into nothing says nothing."""


class _Ended(NamedTuple):
    """What is kept of a call that is over."""

    seconds: float
    failed: bool
    checkout_timeouts: int


class _Compared:
    """The last calls of one rule, by arm."""

    __slots__ = ("before", "looks_at", "offloaded")

    def __init__(self, most: int) -> None:
        self.offloaded: deque[_Ended] = deque(maxlen=most)
        self.before: deque[_Ended] = deque(maxlen=most)
        self.looks_at = 0.0


class Guard:
    """Watches over the rules that its target matches; see :func:`guard`."""

    def __init__(
        self,
        target: Target,
        *,
        error_ratio: float | None,
        p95_ratio: float | None,
        checkout_timeouts: int | None,
        min_calls: int,
        interval: float,
    ) -> None:
        self.target = target.text
        self.reason: str | None = None
        """Why it went back last; None if it did not."""
        self._target = target
        self._error_ratio = error_ratio
        self._p95_ratio = p95_ratio
        self._checkout_timeouts = checkout_timeouts
        self._min_calls = min_calls
        self._interval = interval
        # Taken for a few instructions only, never while anything else is waited for.
        self._lock = threading.Lock()
        self._compared: dict[str | None, _Compared] = {}

    def after_fork(self) -> None:
        """Compare anew in a child process."""
        self._lock, self._compared = threading.Lock(), {}  # a thread of the parent may have held it

    def __repr__(self) -> str:
        state = "" if self in _guards() else ", ended"
        return f"<Guard of {self.target}{state}{'' if self.reason is None else f': {self.reason}'}>"

    def end(self) -> None:
        """Watch no more; what went back stays as it is."""
        if self._note in watchers:
            watchers.remove(self._note)

    def begin(self) -> None:
        """Watch from the next call on."""
        watchers.append(self._note)

    def _note(self, record: CallRecord) -> None:
        rule = record.rule
        if record.cancelled or (rule is not None and rule.reverted is not None):
            return  # what was under way when it went back says nothing of what is set afterwards
        if not (rule is not None and self._target.covers(rule.target)) and not self._target.matches(record.request):
            return
        key = None if rule is None else rule.target.text
        ended = _Ended(record.seconds, record.error is not None, record.checkout_timeouts)
        with self._lock:
            compared = self._compared.setdefault(key, _Compared(self._min_calls))
            (compared.offloaded if record.mode == "offload" else compared.before).append(ended)
            now = time.monotonic()
            if now < compared.looks_at:
                return
            compared.looks_at = now + self._interval
            reason = self._judge(compared.offloaded, compared.before)
            if reason is None:
                return
            del self._compared[key]
            self.reason = reason
        self._go_back(rule, reason)

    def _judge(self, offloaded: Sequence[_Ended], before: Sequence[_Ended]) -> str | None:
        """Tell why the offloaded calls do worse; None if they do not, or if nobody can know yet."""
        timeouts = sum(call.checkout_timeouts for call in offloaded)
        if self._checkout_timeouts is not None and timeouts >= self._checkout_timeouts:
            return (
                f"{timeouts} CheckoutTimeouts in the last {len(offloaded)} offloaded calls; "
                f"the guard goes back from {self._checkout_timeouts} on"
            )
        if min(len(offloaded), len(before)) < self._min_calls:
            return None
        number = self._min_calls
        if self._error_ratio is not None:
            failed, others = (sum(call.failed for call in calls) for calls in (offloaded, before))
            # One that fails by chance where no other has failed yet is no sign of anything.
            if failed > self._error_ratio * (others + 1):
                return (
                    f"{failed} of the last {number} offloaded calls failed, and {others} of the last {number} others; "
                    f"the guard goes back at more than {self._error_ratio:g} times as many and one"
                )
        if self._p95_ratio is not None:
            slow, usual = (_p95(calls) for calls in (offloaded, before))
            if slow > self._p95_ratio * max(usual, SHORTEST):
                return (
                    f"p95 of the last {number} offloaded calls is {1000 * slow:.0f} ms, and {1000 * usual:.0f} ms of "
                    f"the last {number} others; the guard goes back at more than {self._p95_ratio:g} times"
                )
        return None

    def _go_back(self, rule: Rule | None, reason: str) -> None:
        for target in RULES.revert(self._target, rule, reason):
            logger.warning("%s runs as before, and is offloaded no more: %s", target, reason)


def _p95(calls: Sequence[_Ended]) -> float:
    durations = sorted(call.seconds for call in calls)
    return durations[min(len(durations) - 1, int(0.95 * len(durations)))]


def _guards() -> list[object]:
    return [getattr(watcher, "__self__", None) for watcher in watchers]


def _after_fork() -> None:
    for guard in _guards():
        if isinstance(guard, Guard):
            guard.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _check_ratio(where: str, name: str, value: object) -> None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0):
        return
    raise ConfigurationError(f"{where}: {name}={shown(value)}; accepted are numbers above 0, and None")


def guard(
    target: str = "*",
    *,
    error_ratio: float | None = 2.0,
    p95_ratio: float | None = 3.0,
    checkout_timeouts: int | None = 5,
    min_calls: int = 100,
    interval: float = 1.0,
) -> Guard:
    """Let what a target matches run as before again, by itself, where offloaded calls do worse than the others.

    Each rule that the target matches is watched by itself: of its last calls, *min_calls* that were offloaded are
    compared with as many that ran as before. Where there are none of those any more, because all are offloaded by now,
    the last ones of earlier count. If the guard goes back, none of the rule's requests is offloaded from the next one
    on; the log says why, once, and so does :func:`snapshot` by ``reverted``. It is never undone but by whoever sets the
    rule anew, which is then watched anew. Cancelled calls count for nothing.

    :param target: as for :func:`set`
    :param error_ratio: go back if more than so many times the others' failures, and one, are the offloaded calls'; None
        does not compare them. A failure is an error, or an answer with a status from 500 up
    :param p95_ratio: go back if the time that 95 % of the offloaded calls stay below is more than so many times that of
        the others; None does not compare them. Times under 10 ms count as 10 ms
    :param checkout_timeouts: go back if that often no connection came in time to the last *min_calls* offloaded calls,
        also before there are as many, and whatever the others did; None goes by the other two alone
    :param min_calls: how many calls of each arm are compared, and needed
    :param interval: seconds between two comparisons, at least
    :raises ConfigurationError: if an argument is not accepted
    """
    where = "rollout.guard"
    watched = Target(where, target)
    _check_ratio(where, "error_ratio", error_ratio)
    _check_ratio(where, "p95_ratio", p95_ratio)
    if checkout_timeouts is not None:
        check_count(where, "checkout_timeouts", checkout_timeouts, minimum=1)
    check_count(where, "min_calls", min_calls, minimum=1)
    check_seconds(where, "interval", interval)
    begun = Guard(
        watched,
        error_ratio=error_ratio,
        p95_ratio=p95_ratio,
        checkout_timeouts=checkout_timeouts,
        min_calls=min_calls,
        interval=interval,
    )
    begun.begin()
    return begun
