"""Counters of a pool and the frozen snapshots made of them.

Owns what is counted and how it is shown. Does not decide anything: no other module reads a counter to act on it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, TypeVar

V = TypeVar("V")

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram buckets, in seconds; one further bucket holds everything above."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """A distribution of durations in seconds."""

    count: int = 0
    sum: float = 0.0
    max: float = 0.0
    buckets: tuple[tuple[float, int], ...] = ()
    """Pairs of an upper bound in seconds and the number of durations up to it; cumulative, the last bound is inf."""

    @property
    def mean(self) -> float:
        """The average duration in seconds, 0.0 before the first."""
        return self.sum / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """One lane at one moment."""

    limit: int
    in_use: int
    waiting: int


class SourceLine(NamedTuple):
    """A line of the source, and the function that it is in."""

    file: str
    line: int
    function: str


class Endpoint(NamedTuple):
    """A route of the application."""

    method: str
    path: str
    """With the names of its parameters, such as ``"/truck/{truck_id}"``."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class CallPath(NamedTuple):
    """How a call came about."""

    lines: tuple[SourceLine, ...]
    """From the line that made the call up to the one in the ``async def`` that led there; at least one."""
    endpoint: Endpoint | None
    """The route that was being served, where that can be seen."""
    decorated: bool = False
    """Whether an ``@offload`` function made it, over a connection that is not the library's."""


@dataclass(frozen=True, slots=True)
class BlockingCall:
    """A place in the source whose driver calls blocked the event loop's thread."""

    file: str
    line: int
    function: str
    call: str
    """What blocked, for instance ``"execute"``."""
    count: int
    seconds: float
    """How long the loop stood still for it, in all."""
    max_seconds: float = 0.0
    """How long the longest of them took."""
    statement: str | None = None
    """What was executed, with ``?`` in place of the values in its text; None for calls that execute nothing."""
    endpoints: tuple[Endpoint, ...] = ()
    """The routes that it was made for."""


@dataclass(frozen=True, slots=True)
class BlockedPath:
    """Calls of one kind that came about in the same way, and blocked the event loop's thread."""

    path: CallPath
    call: str
    statement: str | None
    count: int
    seconds: float
    max_seconds: float


class FrozenDict(dict[str, V]):
    """A dictionary that cannot be changed, but copied, pickled and, by ``dataclasses.asdict``, taken apart."""

    def _no_item(self, *_: Any) -> NoReturn:
        raise TypeError("a snapshot cannot be changed")

    def _no_method(self, *_: Any, **__: Any) -> NoReturn:
        raise AttributeError("a snapshot cannot be changed")

    __setitem__ = __delitem__ = __ior__ = _no_item
    clear = pop = popitem = setdefault = update = _no_method

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment: what it holds now, and what it has counted since it was made."""

    size: int
    """The most connections the pool ever has."""
    open: int
    """Connections that are open now: ``idle`` ones and those of ``in_use`` callers that have one already."""
    idle: int
    in_use: int
    """Callers admitted now: each holds a connection or is opening or giving back one."""
    waiting: int
    checkouts: int
    checkins: int
    """Connections that came back and were kept; one that was thrown out on its return is a discard."""
    discards: Mapping[str, int]
    """Connections thrown out, by reason."""
    statements: int
    hops: int
    """Trips to a worker thread."""
    kills: int
    kills_failed: int
    timeouts: int
    cancelled: int
    """Calls whose task was cancelled while it waited for a connection or for a worker."""
    blocking_calls: int
    """Driver calls that blocked the event loop's thread."""
    queue_wait: Histogram
    """How long each checkout waited to be admitted."""
    statement_time: Histogram
    """How long each statement took on its thread, fetching of buffered rows included."""
    lanes: Mapping[str, LaneStatistics] = field(default_factory=FrozenDict)


class Distribution:
    """A histogram that is being filled."""

    __slots__ = ("buckets", "longest", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration; who calls holds the lock that guards it."""
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    def snapshot(self) -> Histogram:
        """Freeze it."""
        total = 0
        cumulative = []
        for bound, number in zip((*BOUNDS, float("inf")), self.buckets, strict=True):
            total += number
            cumulative.append((bound, total))
        return Histogram(total, self.total, self.longest, tuple(cumulative))


MOST_PATHS = 1000
"""How many different paths, statements and routes of blocking calls are told apart."""
_ELSEWHERE = SourceLine("(further places)", 0, "(further places)")


class BlockedCalls:
    """Counts the calls that block the event loop's thread, in bounded memory; any thread may add."""

    def __init__(self) -> None:
        # Taken for a few instructions only, never while anything else is waited for.
        self._lock = threading.Lock()
        self._totals: dict[tuple[CallPath, str, str | None], tuple[int, float, float]] = {}

    def add(self, path: CallPath, call: str, statement: str | None, seconds: float) -> None:
        """Count a call that kept the thread for *seconds*."""
        key = (path, call, statement)
        with self._lock:
            # Statements that are put together with ever new names must not fill the memory.
            if key not in self._totals and len(self._totals) >= MOST_PATHS:
                key = (CallPath(path.lines[:1], None, path.decorated), call, None)
                if key not in self._totals and len(self._totals) >= 2 * MOST_PATHS:
                    key = (CallPath((_ELSEWHERE,), None), "(further calls)", None)
            count, total, longest = self._totals.get(key, (0, 0.0, 0.0))
            self._totals[key] = (count + 1, total + seconds, max(longest, seconds))

    @property
    def count(self) -> int:
        """How many calls there were."""
        with self._lock:
            return sum(count for count, _, _ in self._totals.values())

    def paths(self) -> list[BlockedPath]:
        """List what was counted in full detail."""
        with self._lock:
            return [BlockedPath(*key, *value) for key, value in self._totals.items()]

    def places(self) -> list[BlockingCall]:
        """List what was counted by the line that made the call and its statement, the costliest first."""
        found: dict[tuple[SourceLine, str, str | None], list[BlockedPath]] = {}
        for blocked in self.paths():
            found.setdefault((blocked.path.lines[0], blocked.call, blocked.statement), []).append(blocked)
        calls = [
            BlockingCall(
                *line,
                call,
                sum(blocked.count for blocked in group),
                sum(blocked.seconds for blocked in group),
                max(blocked.max_seconds for blocked in group),
                statement,
                tuple(sorted({blocked.path.endpoint for blocked in group if blocked.path.endpoint is not None})),
            )
            for (line, call, statement), group in found.items()
        ]
        return sorted(calls, key=lambda call: call.seconds, reverse=True)


class Counters:
    """What a pool counts; any thread may add."""

    def __init__(self) -> None:
        # Taken for a few instructions only, never while anything else is waited for.
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("checkouts", "checkins", "statements", "hops", "kills", "kills_failed", "timeouts", "cancelled"), 0
        )
        self._discards: dict[str, int] = {}
        self._finalised: deque[str | None] = deque()
        self.blocked = BlockedCalls()
        self._times = {"checkouts": Distribution(), "statements": Distribution()}

    def add(self, name: str) -> None:
        """Add one to the counter *name*."""
        with self._lock:
            self._counts[name] += 1

    def value(self, name: str) -> int:
        """Return the counter *name*."""
        return self._counts[name]

    def after_fork(self) -> None:
        """Begin anew in a child process: a thread of the parent may have held the lock."""
        self.__init__()  # type: ignore[misc]  # the counters are this process's own

    def discarded(self, reason: str) -> None:
        """Count a connection thrown out for *reason*."""
        with self._lock:
            self._discards[reason] = self._discards.get(reason, 0) + 1

    def finalised(self, discard_reason: str | None) -> None:
        """Count a checkin (None) or a discard made by a finaliser."""
        # A finaliser can run in the middle of anything, also of a section under our lock: it only appends.
        self._finalised.append(discard_reason)

    def add_timed(self, name: str, seconds: float) -> None:
        """Count something that has a histogram.

        :param name: ``"checkouts"``, of which is known how long each waited to be admitted, or ``"statements"``, of
            which is known how long each kept its thread busy
        """
        times = self._times[name]
        with self._lock:
            self._counts[name] += 1
            times.buckets[bisect_left(BOUNDS, seconds)] += 1
            times.total += seconds
            times.longest = max(times.longest, seconds)

    def snapshot(
        self, *, size: int, links: int, idle: int, in_use: int, waiting: int, lanes: Mapping[str, LaneStatistics]
    ) -> PoolStatistics:
        """Freeze the counters together with the momentary measures given."""
        while self._finalised:
            try:
                reason = self._finalised.popleft()
            except IndexError:  # another thread has taken the last one
                break
            if reason is None:
                self.add("checkins")
            else:
                self.discarded(reason)
        blocking_calls = self.blocked.count
        with self._lock:
            return PoolStatistics(
                size=size,
                open=links,
                idle=idle,
                in_use=in_use,
                waiting=waiting,
                discards=FrozenDict(self._discards),
                blocking_calls=blocking_calls,
                queue_wait=self._times["checkouts"].snapshot(),
                statement_time=self._times["statements"].snapshot(),
                lanes=FrozenDict(lanes),
                **self._counts,
            )
