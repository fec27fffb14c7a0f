"""What happened within the last seconds, from totals that only grow.

Owns the ring of one process' earlier totals, rates and percentiles between two of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

# Seconds between two totals that are kept, and how many: a minute and some more.
_STEP, _KEPT = 5.0, 14
MINUTE, SHORT = 60.0, 10.0


class Track:
    """The totals of one process over the last minute."""

    def __init__(self) -> None:
        self._ring: deque[Json] = deque(maxlen=_KEPT)
        self.now: Json = {}

    def add(self, snapshot: Json) -> None:
        """Take the newest snapshot."""
        if self._ring and snapshot["hops"] < self._ring[-1]["hops"]:
            self._ring.clear()  # another process with the same number
        if not self._ring or snapshot["time"] - self._ring[-1]["time"] >= _STEP:
            # What blocks is long, and is compared elsewhere.
            self._ring.append({name: value for name, value in snapshot.items() if name != "blocking_calls"})
        self.now = snapshot

    def before(self, seconds: float) -> Json:
        """Return the youngest totals that are at least so old, or else the oldest there are."""
        wanted = self.now["time"] - seconds
        return next((each for each in reversed(self._ring) if each["time"] <= wanted), self._ring[0])


def grown(now: Json, then: Json, name: str) -> float:
    """Return by how much a total has grown."""
    growth: float = now.get(name, 0) - then.get(name, 0)
    return max(0, growth)


def buckets_between(now: Json, then: Json | None) -> list[tuple[float | None, int]]:
    """Return the cumulative buckets of a histogram for what was added between two states of it."""
    if not then or len(then["buckets"]) != len(now["buckets"]):
        return [(bound, number) for bound, number in now["buckets"]]
    pairs = zip(now["buckets"], then["buckets"], strict=True)  # the bounds are the same
    return [(bound, number - earlier) for (bound, number), (_, earlier) in pairs]


def added(one: Sequence[tuple[float | None, int]], other: Sequence[tuple[float | None, int]]) -> list[Any]:
    """Add up the buckets of two histograms that have the same bounds."""
    if not one or not other:
        return list(one or other)
    return [(bound, number + further) for (bound, number), (_, further) in zip(one, other, strict=True)]


def percentile(buckets: Sequence[tuple[float | None, int]], share: float, longest: float) -> float | None:
    """Return about how long this share of the durations was at most; None if there are none.

    :param buckets: cumulative ones, the last of which has no bound
    :param longest: the longest duration that is known
    """
    total = buckets[-1][1] if buckets else 0
    if not total:
        return None
    wanted = share * total
    below, lower = 0, 0.0
    for bound, number in buckets:
        if number >= wanted:
            upper = max(longest, lower) if bound is None else min(bound, max(longest, lower))
            within = (wanted - below) / (number - below) if number > below else 1.0
            return lower + (upper - lower) * within
        below, lower = number, bound if bound is not None else lower
    return longest


def spread(now: Json, then: Json | None = None) -> dict[str, Any]:
    """Return count, middle and 95th percentile of a histogram, for what was added since an earlier state of it."""
    buckets = buckets_between(now, then)
    return {
        "count": buckets[-1][1] if buckets else 0,
        "p50": percentile(buckets, 0.5, now["max"]),
        "p95": percentile(buckets, 0.95, now["max"]),
        "p99": percentile(buckets, 0.99, now["max"]),
    }
