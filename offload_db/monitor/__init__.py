"""The run-time audit: who blocks the event loop, for how long, and how late the loop is.

Owns what a running application can tell of itself: the lines, statements and routes that its pools have counted, raw
PyMySQL connections while they are observed, and samples of the loop's lag. What is said of it all is
``report_command.py``'s. No text here holds a parameter or a literal of a statement.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.to_thread
import pymysql

from ..bridge.place import Place, place
from ..connection.call_sites import call_path, request_scope
from ..connection.unpooled import unpooled_counters
from ..drivers.statement_digest import digest
from ..errors import ConfigurationError
from ..pool.checkout import every_pool
from ..settings import check_seconds, check_word
from ..statistics import BlockedCalls, BlockedPath, BlockingCall, SourceLine
from .report_command import as_json, as_text, join, read_audit

logger = logging.getLogger("offload_db")

# The version of the format of snapshot().
FORMAT = 1

# Bounds that are 5 % apart from 0.1 ms to 1000 s, so that a percentile is as exact as that.
_BOUNDS = [0.0001 * 1.05**step for step in range(331)]
# uvloop rounds to whole milliseconds, and would turn and turn without sleeping until the rest of one is over.
_SHORTEST_SLEEP = 0.001
# Samples that a process makes up for at most after it was stopped as a whole.
_MOST_MISSED = 10_000


@dataclass(frozen=True, slots=True)
class LoopLag:
    """How late the event loop was, in seconds: how long a task that was ready had to wait for its turn."""

    interval: float
    """Seconds between two samples."""
    samples: int
    p50: float
    p99: float
    max: float


class _Samples:
    """A distribution of lags."""

    __slots__ = ("counts", "longest")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BOUNDS) + 1)
        self.longest = 0.0

    def add(self, lag: float) -> None:
        self.counts[bisect_left(_BOUNDS, lag)] += 1
        self.longest = max(self.longest, lag)

    def merge(self, other: _Samples) -> None:
        self.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        self.longest = max(self.longest, other.longest)

    def percentile(self, share: float) -> float:
        wanted = math.ceil(share * sum(self.counts))
        total = 0
        for number, bound in zip(self.counts, (*_BOUNDS, math.inf), strict=True):
            total += number
            if total >= wanted:
                return min(bound, self.longest)
        return self.longest

    def shown(self, interval: float) -> LoopLag:
        return LoopLag(interval, sum(self.counts), self.percentile(0.5), self.percentile(0.99), self.longest)


class Watch:
    """The sampler of one event loop; see :func:`watch`."""

    def __init__(self, interval: float, dump_to: str | os.PathLike[str] | None) -> None:
        self.interval = interval
        self._dump_to = dump_to
        self._samples = _Samples()
        self._due = math.inf
        self._group: anyio.abc.TaskGroup | None = None

    def lag(self) -> LoopLag:
        """Return how late the loop has been so far, also if it stands still just now; any thread may ask."""
        return self._so_far().shown(self.interval)

    def _so_far(self) -> _Samples:
        samples = _Samples()
        samples.merge(self._samples)
        self._catch_up(samples)
        return samples

    async def __aenter__(self) -> Watch:
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group
        self._due = time.monotonic() + self.interval
        group.start_soon(self._sample)
        _watches.append(self)
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
        if self._dump_to is not None:
            with anyio.CancelScope(shield=True):
                try:
                    await anyio.to_thread.run_sync(dump, self._dump_to)
                except OSError as failure:  # the application's own end matters more
                    logger.warning("what was seen at run time could not be written: %s", failure)

    async def _sample(self) -> None:
        while True:
            await anyio.sleep(max(_SHORTEST_SLEEP, self._due - time.monotonic()))
            self._due = self._catch_up(self._samples)

    def _catch_up(self, samples: _Samples) -> float:
        """Add each sample that is due; return when the next one is."""
        now, interval = time.monotonic(), self.interval
        due = max(self._due, now - _MOST_MISSED * interval)
        # Whoever had come while the loop stood still would have waited, too: each sample that was missed counts.
        while due <= now:
            samples.add(now - due)
            due += interval
        return due


_watches: deque[Watch] = deque(maxlen=8)


def watch(*, interval: float = 0.05, dump_to: str | os.PathLike[str] | None = None) -> Watch:
    """Sample how late the running event loop is, for as long as the ``async with`` block lasts.

    Put it into the application's lifespan. It works on asyncio, uvloop and trio. Detached the block and being cancelled
    end it alike.

    :param interval: seconds between two samples
    :param dump_to: where to write what was seen at the end of the block, as :func:`dump` does; a failure is logged
    :raises ConfigurationError: if the interval is no duration
    """
    check_seconds("monitor.watch", "interval", interval)
    if interval is None:
        raise ConfigurationError("monitor.watch: interval=None; accepted are seconds above 0")
    return Watch(interval, dump_to)


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class RequestScope:
    """ASGI middleware that tells the tasks which a handler starts what they are part of.

    A handler itself is found without it: only what runs in ``gather``, ``create_task`` and the like needs it to be
    reported with its route.

    :param app: the ASGI application
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        token = request_scope.set(scope)
        try:
            await self.app(scope, receive, send)
        finally:
            request_scope.reset(token)


class Observation:
    """What :func:`observe_pymysql` has seen."""

    def __init__(self) -> None:
        self.calls = BlockedCalls()

    def blocking_calls(self) -> list[BlockingCall]:
        """List the places in the source that blocked an event loop, the costliest first."""
        return self.calls.places()


# Everything that waits for the server by itself.
_OBSERVED: tuple[tuple[type, str], ...] = (
    *(
        (pymysql.connections.Connection, name)
        for name in (
            "autocommit",
            "begin",
            "commit",
            "connect",
            "next_result",
            "ping",
            "query",
            "rollback",
            "select_db",
        )
    ),
    (pymysql.cursors.SSCursor, "read_next"),
)
# These may have nothing to ask the server: a row has arrived already, a mode is what it was. Then they take less than
# these seconds, and a round trip takes more.
_MAYBE_LOCAL = frozenset({"autocommit", "read_next"})
_LOCAL_SECONDS = 0.00003

_observing = threading.Lock()
_replaced: dict[tuple[type, str], tuple[Any, Any]] = {}
_observers = 0
_observation = Observation()
_inside = threading.local()


@contextmanager
def observe_pymysql() -> Iterator[Observation]:
    """Watch raw PyMySQL connections while the block lasts, those of a DBUtils pool that is not wrapped included.

    It replaces methods of PyMySQL's classes, and puts them back at the end. A call is timed only on a thread that runs
    an event loop, and only if no pool of this library makes it, which counts it already. mysqlclient and
    mysql-connector are not seen; the loop's lag shows them.

    :return: what is seen; blocks inside another one share it
    """
    global _observers, _observation
    with _observing:
        if not _observers:
            _observation = Observation()
            for owner, name in _OBSERVED:
                original = getattr(owner, name)
                _replaced[owner, name] = (original, _timed(name, original))
                setattr(owner, name, _replaced[owner, name][1])
        _observers += 1
    try:
        yield _observation
    finally:
        with _observing:
            _observers -= 1
            if not _observers:
                for (owner, name), (original, ours) in _replaced.items():
                    # Somebody may have put another method above ours meanwhile; ours does nothing then.
                    if vars(owner).get(name) is ours:
                        setattr(owner, name, original)


def _timed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        where = place()
        if not _observers or where is Place.THREAD or getattr(_inside, "call", False) or _is_ours():
            return original(self, *args, **kwargs)
        _inside.call = True
        started = time.perf_counter()
        try:
            return original(self, *args, **kwargs)
        finally:
            seconds = time.perf_counter() - started
            _inside.call = False
            if name not in _MAYBE_LOCAL or seconds > _LOCAL_SECONDS:
                text = args[0] if name == "query" and args else None
                path = call_path()._replace(decorated=where is Place.BRIDGED)
                _observation.calls.add(path, name, digest(text), seconds)

    return timed


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    _observation.calls = BlockedCalls()
    _watches.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _is_ours() -> bool:
    """Tell whether a pool of this library makes the driver call."""
    frame = sys._getframe(2)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if module not in ("pymysql", "dbutils"):
            return module == "offload_db"
        frame = frame.f_back
    return False


def snapshot() -> dict[str, Any]:
    """Return what was seen in this process so far, in JSON's types.

    ``blocking_calls`` has for each way that led to a blocking call its ``file``, ``line``, ``function``, ``call``,
    ``statement``, ``endpoint`` (``method`` and ``path``, or null), ``stack`` (from the ``async def`` down to the
    call), ``source`` (``"pool"``, ``"connect"`` for :func:`offload_db.connect`, ``"pymysql"`` where it is observed),
    ``decorated`` (whether ``@offload`` stands above a raw connection), ``count``, ``seconds`` and ``max_seconds``.
    ``loop_lag`` is null where nothing watched.
    """
    pools = every_pool()
    sources = [("pool", pool.counters.blocked) for pool in pools]
    sources += [("connect", unpooled_counters().blocked), ("pymysql", _observation.calls)]
    lag = _Samples()
    for each in list(_watches):
        lag.merge(each._so_far())
    interval = min((each.interval for each in list(_watches)), default=0.0)
    return {
        "format": FORMAT,
        "pid": os.getpid(),
        "loop_lag": asdict(lag.shown(interval)) if interval else None,
        "hops": sum(pool.counters.value("hops") for pool in pools),
        "blocking_calls": [_shown(source, blocked) for source, calls in sources for blocked in calls.paths()],
    }


def _shown(source: str, blocked: BlockedPath) -> dict[str, Any]:
    endpoint = blocked.path.endpoint
    return {
        **_line(blocked.path.lines[0]),
        "call": blocked.call,
        "statement": blocked.statement,
        "endpoint": None if endpoint is None else endpoint._asdict(),
        "stack": [_line(line) for line in reversed(blocked.path.lines)],
        "source": source,
        "decorated": blocked.path.decorated,
        "count": blocked.count,
        "seconds": blocked.seconds,
        "max_seconds": blocked.max_seconds,
    }


def _line(line: SourceLine) -> dict[str, Any]:
    return line._asdict()


def dump(path: str | os.PathLike[str]) -> Path:
    """Write :func:`snapshot` into a file, for ``offload-db report``.

    The file is replaced as a whole. It waits for the disk: call it from a thread, or at the end.

    :param path: where to; ``{pid}`` in it becomes the number of the process, for servers with several workers
    :return: the file
    :raises OSError: if it can't be written
    """
    target = Path(os.fspath(path).replace("{pid}", str(os.getpid())))
    text = json.dumps(snapshot(), indent=1)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=target.parent, prefix=target.name, delete=False
    ) as file:
        try:
            file.write(text)
            file.close()
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
    return target


def report(
    audit: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
    *,
    format: Literal["text", "json"] = "text",  # noqa: A002  # the name that the command's option has, too
) -> str:
    """Say what to migrate next, by the time that the event loop stood still for it.

    :param audit: what ``offload-db audit --format json`` printed, or the path of it; None leaves it out
    :param runtime: what :func:`snapshot` returned; None takes what this process has seen so far
    :param format: ``"text"``, or ``"json"`` as ``offload-db report --format json`` prints it
    :raises ConfigurationError: if the audit can't be read, or the format is another one
    """
    check_word("monitor.report", "format", format, ("text", "json"))
    if isinstance(audit, (str, os.PathLike)):
        audit = read_audit(audit)
    joined = join(audit, [snapshot() if runtime is None else runtime])
    return as_text(joined) if format == "text" else as_json(joined)
