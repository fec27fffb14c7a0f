"""How late the event loop is.

Owns the samples of the loop's lag and the sampler that takes them. What is made of them is ``runtime.py``'s.
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import anyio
import anyio.abc
import anyio.to_thread

from ..statistics import BOUNDS, Histogram

logger = logging.getLogger("offload_db")

# Bounds that are 5 % apart from 0.1 ms to 1000 s, so that a percentile is as exact as that.
_BOUNDS = [0.0001 * 1.05**step for step in range(331)]
# uvloop rounds to whole milliseconds, and would turn and turn without sleeping until the rest of one is over.
_SHORTEST_SLEEP = 0.001
# Samples that a process makes up for at most after it was stopped as a whole.
_MOST_MISSED = 10_000
# Seconds of which the longest lag of each is kept.
RECENT = 300
# Seconds between two files, as a multiple of what one takes: a hundredth of a core for them all, at most.
_WRITING_COSTS = 100


@dataclass(frozen=True, slots=True)
class LoopLag:
    """How late the event loop was, in seconds: how long a task that was ready had to wait for its turn."""

    interval: float
    """Seconds between two samples."""
    samples: int
    p50: float
    p99: float
    max: float


class Samples:
    """A distribution of lags."""

    __slots__ = ("counts", "longest", "recent", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.longest = 0.0
        self.total = 0.0
        self.recent: dict[int, float] = {}
        """The longest lag of each second, by the seconds of the clock."""

    def add(self, lag: float, second: int) -> None:
        """Count one sample.

        :param second: when it was due, by the clock
        """
        self.counts[bisect_left(_BOUNDS, lag)] += 1
        self.longest = max(self.longest, lag)
        self.total += lag
        self.recent[second] = max(self.recent.get(second, 0.0), lag)
        while len(self.recent) > RECENT:
            del self.recent[next(iter(self.recent))]

    def merge(self, other: Samples) -> None:
        """Add those of another distribution."""
        self.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        self.longest = max(self.longest, other.longest)
        self.total += other.total
        for second, lag in dict(other.recent).items():  # a copy in one step: its own thread goes on counting
            self.recent[second] = max(self.recent.get(second, 0.0), lag)

    def percentile(self, share: float) -> float:
        """Return the lag that this share of the samples stayed below."""
        wanted = math.ceil(share * sum(self.counts))
        total = 0
        for number, bound in zip(self.counts, (*_BOUNDS, math.inf), strict=True):
            total += number
            if total >= wanted:
                return min(bound, self.longest)
        return self.longest

    def histogram(self) -> Histogram:
        """Return them in the buckets that all durations are shown in; a bucket's own bound is as exact as 5 %."""
        sums = [0]
        for number in self.counts:
            sums.append(sums[-1] + number)
        buckets = [(bound, sums[bisect_right(_BOUNDS, bound)]) for bound in BOUNDS]
        return Histogram(sums[-1], self.total, self.longest, (*buckets, (math.inf, sums[-1])))

    def shown(self, interval: float) -> LoopLag:
        """Return what is told of them."""
        return LoopLag(interval, sum(self.counts), self.percentile(0.5), self.percentile(0.99), self.longest)


class Watch:
    """The sampler of one event loop; see :func:`watch`.

    :param interval: seconds between two samples
    :param write: writes what was seen into a file, and is given the seconds until it does so again, None at the end
    :param write_every: seconds between two files; None writes one at the end alone
    """

    def __init__(
        self, interval: float, write: Callable[[float | None], object] | None, write_every: float | None
    ) -> None:
        self.interval = interval
        self._write = write
        self._write_every = write_every
        self._failing = False
        self._samples = Samples()
        self._due = math.inf
        self._group: anyio.abc.TaskGroup | None = None

    def lag(self) -> LoopLag:
        """Return how late the loop has been so far, also if it stands still just now; any thread may ask."""
        return self.so_far().shown(self.interval)

    def so_far(self) -> Samples:
        """Return the samples up to now, with those that are due."""
        samples = Samples()
        samples.merge(self._samples)
        self._catch_up(samples)
        return samples

    async def __aenter__(self) -> Watch:
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._due = time.monotonic() + self.interval
        group.start_soon(self._sample)
        if self._write_every is not None and self._write is not None:
            group.start_soon(self._keep_writing, self._write_every)
        WATCHES.append(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trail: TracebackType | None
    ) -> None:
        group, self._group = self._group, None
        if group is not None:
            self._catch_up(self._samples)
            self._due = math.inf
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)  # the body's error is not the group's, which would wrap it
        with anyio.CancelScope(shield=True):
            self._failing = False  # what is not there in the end is told in any case
            await self._write_off_the_loop(None)

    async def _keep_writing(self, seconds: float) -> None:
        while True:
            began = time.monotonic()
            await self._write_off_the_loop(seconds)
            took = time.monotonic() - began
            await anyio.sleep(max(seconds, _WRITING_COSTS * took))

    async def _write_off_the_loop(self, again_in: float | None) -> None:
        if self._write is None:
            return
        try:
            # A place of its own: it is written also while every thread of the application waits for something.
            await anyio.to_thread.run_sync(self._write, again_in, limiter=anyio.CapacityLimiter(1))
            self._failing = False
        except Exception as failure:  # also where there is no thread to be had; the application itself matters more
            if not self._failing:
                logger.warning("what was seen at run time could not be written, look at dump_to: %s", failure)
            self._failing = True

    async def _sample(self) -> None:
        while True:
            await anyio.sleep(max(_SHORTEST_SLEEP, self._due - time.monotonic()))
            self._due = self._catch_up(self._samples)

    def _catch_up(self, samples: Samples) -> float:
        """Add each sample that is due; return when the next one is."""
        now, interval = time.monotonic(), self.interval
        clock = time.time() - now
        due = max(self._due, now - _MOST_MISSED * interval)
        # Whoever had come while the loop stood still would have waited, too: each sample that was missed counts.
        while due <= now:
            samples.add(now - due, int(clock + due))
            due += interval
        return due


WATCHES: deque[Watch] = deque(maxlen=8)
