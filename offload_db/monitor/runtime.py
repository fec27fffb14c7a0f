"""What a running application can tell of itself: who blocks the event loop, for how long, and how late the loop is.

Owns the snapshot of it all, writing that to a file, and the report from it. What is said in the report is
``report_command.py``'s. No text here holds a parameter or a literal of a statement.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..connection.call_lock import shared_waits
from ..connection.call_sites import request_scope
from ..connection.unpooled import unpooled_counters
from ..errors import ConfigurationError
from ..pool.checkout import PoolCore, every_pool
from ..pool.pool import OffloadPool
from ..rollout import control as rollout
from ..rollout.figures import RouteRollout
from ..rollout.rules_file import watched_file
from ..settings import check_seconds, check_word, shown
from ..statistics import BlockedPath, Histogram, SourceLine
from .lag import WATCHES, Samples, Watch
from .observe import forget_observed, observed_calls, observed_engines
from .report_command import as_json, as_text, join, read_audit

logger = logging.getLogger("offload_db")

# The version of the format of snapshot().
FORMAT = 1


def watch(
    *, interval: float = 0.05, dump_to: str | os.PathLike[str] | None = None, dump_every: float | None = 2.0
) -> Watch:
    """Sample how late the running event loop is, for as long as the ``async with`` block lasts.

    Put it into the application's lifespan. It works on asyncio, uvloop and trio. Detached the block and being cancelled
    end it alike.

    :param interval: seconds between two samples
    :param dump_to: where to write what was seen, as :func:`dump` does, meanwhile and at the end of the block; a
        failure is logged
    :param dump_every: seconds between two writes, more where writing takes more than a hundredth of the time; None
        writes at the end alone
    :raises ConfigurationError: if the interval or *dump_every* is no duration
    """
    check_seconds("monitor.watch", "interval", interval)
    check_seconds("monitor.watch", "dump_every", dump_every)
    if interval is None:
        raise ConfigurationError("monitor.watch: interval=None; accepted are seconds above 0")
    return Watch(interval, None if dump_to is None else functools.partial(_dump, dump_to), dump_every)


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


def _after_fork() -> None:
    # A thread of the parent may have held the lock.
    forget_observed()
    WATCHES.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def snapshot(*pools: OffloadPool) -> dict[str, Any]:
    """Return what was seen in this process so far, in JSON's types.

    ``blocking_calls`` has for each way that led to a blocking call its ``file``, ``line``, ``function``, ``call``,
    ``statement``, ``endpoint`` (``method`` and ``path``, or null), ``stack`` (from the ``async def`` down to the
    call), ``source`` (``"pool"``, ``"connect"`` for :func:`offload_db.connect`, ``"pymysql"`` where it is observed,
    ``"sqlalchemy"`` where that is an engine's),
    ``decorated`` (whether ``@offload`` stands above a raw connection), ``count``, ``seconds`` and ``max_seconds``.
    ``loop_lag`` is null where nothing watched; ``lag_histogram`` has the same in buckets, and ``lag_recent`` the
    longest lag of each of the last seconds. ``shared_waits`` has the same as ``blocking_calls`` of callers that waited,
    without blocking the loop, for a connection that others had, such as one that a module keeps for all. ``pools`` are
    the statistics of each pool, ``rollout`` is what :func:`offload_db.rollout.snapshot` returns, ``rollout_problem``
    why its file could not be read, and ``time`` the clock's.

    :param pools: the pools to tell of; none tells of all in this process
    :raises ConfigurationError: if one of them is none
    """
    for pool in pools:
        if not isinstance(pool, OffloadPool):
            raise ConfigurationError(f"monitor.snapshot: got {shown(pool)}; accepted are OffloadPool objects")
    cores = [pool._core for pool in pools] or every_pool()
    sources = [("pool", core.counters.blocked) for core in cores]
    sources += [("connect", unpooled_counters().blocked), ("pymysql", observed_calls())]
    sources.append(("sqlalchemy", observed_engines()))
    lag = Samples()
    for each in list(WATCHES):
        lag.merge(each.so_far())
    rules = watched_file()
    interval = min((each.interval for each in list(WATCHES)), default=0.0)
    return {
        "format": FORMAT,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "time": time.time(),
        "loop_lag": asdict(lag.shown(interval)) if interval else None,
        "lag_histogram": _durations(lag.histogram()),
        "lag_recent": sorted(lag.recent.items()),
        "hops": sum(core.counters.value("hops") for core in cores),
        "pools": [_pool(core) for core in cores],
        "rollout": [_rollout(route) for route in rollout.snapshot()],
        "rollout_problem": None if rules is None else rules.problem,
        "blocking_calls": [_shown(source, blocked) for source, calls in sources for blocked in calls.paths()],
        "shared_waits": [_shown("wait", waited) for waited in shared_waits.paths()],
    }


def _pool(core: PoolCore) -> dict[str, Any]:
    now = core.statistics()
    durations = {name: _durations(getattr(now, name)) for name in ("queue_wait", "statement_time")}
    lanes = {name: _fields(lane) for name, lane in now.lanes.items()}
    return {**_fields(now), **durations, "lanes": lanes, "server_away": core.connector.server_away}


def _rollout(route: RouteRollout) -> dict[str, Any]:
    arms = {mode: {**_fields(arm), "durations": _durations(arm.durations)} for mode, arm in route.arms.items()}
    return {**_fields(route), "arms": arms}


def _durations(histogram: Histogram) -> dict[str, Any]:
    # JSON has no infinity.
    buckets = [[None if bound == math.inf else bound, number] for bound, number in histogram.buckets]
    return {**_fields(histogram), "buckets": buckets}


def _fields(frozen: Any) -> dict[str, Any]:
    # Not by asdict(), which copies what nobody can change: it took most of the time of a snapshot.
    return {name: getattr(frozen, name) for name in frozen.__slots__}


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
    """Write :func:`snapshot` into a file, for ``offload-db report`` and the live page of another process.

    The file is replaced as a whole. It waits for the disk: call it from a thread, or at the end.

    :param path: where to; ``{pid}`` in it becomes the number of the process, for servers with several workers, and
        ``{host}`` the name of the machine
    :return: the file
    :raises OSError: if it can't be written
    """
    return _write(path, snapshot())


def _dump(path: str | os.PathLike[str], again_in: float | None) -> None:
    _write(path, {**snapshot(), "again_in": again_in})


def _write(path: str | os.PathLike[str], value: dict[str, Any]) -> Path:
    name = os.fspath(path).replace("{pid}", str(value["pid"])).replace("{host}", value["host"])
    target = Path(name)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=target.parent, prefix=target.name, delete=False
    ) as file:
        try:
            file.write(json.dumps(value))
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
