"""The figures of the live page, ready to be sent.

Owns which processes are shown, and the sampling: one tick for all viewers. Each part of the page is a JSON text, so
that nothing is encoded twice, and a viewer is sent what has changed. Waits for the disk, and so is called
in a thread; it asks neither a pool for a connection nor the server for anything.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import OffloadPool, monitor
from ...monitor.report_command import read_audit, read_runtime
from .files import Files, time_of
from .tables import Links, blocking, burn_down, processes, routes, totals, verdicts
from .windows import Track

Json = dict[str, Any]

# Seconds between two samples; how many are kept; every how many ticks the costlier parts are made, and the costliest.
TICK, KEPT, SLOWER, SLOWEST = 1.0, 300, 2, 6
# Seconds without a new file after which a process counts as silent, beyond what it promised; and is forgotten.
_GRACE, _FORGOTTEN = 5.0, 900.0
# Seconds of lag that are sent anew with each tick: the last one goes on, and another process writes now and then.
_TAIL = 8
# Seconds that the last minute goes back, as what blocks is looked at every few seconds.
_MINUTE = 62.0
# What comes of a file that says something else than it ought to: another version may have written it, or anybody.
_UNUSABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# Processes that are shown.
_MOST_PROCESSES = 64


class Figures:
    """What the page shows.

    :param pools: the pools of this process to tell of; none tells of all
    :param audit: where the audits' files are
    :param dumps: where the other processes' files are
    :param link: how a line of the source is linked
    """

    def __init__(self, pools: tuple[OffloadPool, ...], audit: Any, dumps: Any, link: str | None) -> None:
        self._pools = pools
        self._audits = Files("audit", audit, read_audit)
        self._dumps = Files("dumps", dumps, read_runtime)
        self._links = Links(link)
        self._tracks: dict[str, Track] = {}
        self._points: deque[list[Any]] = deque(maxlen=KEPT)
        self._live: list[Json] = []
        self._ticks = 0
        self._lost: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=14)
        self._arms: list[Json] = []
        self.parts: dict[str, str] = {}

    @property
    def directory(self) -> Path | None:
        """Where the processes write what they have seen; None if they don't, or in several places."""
        return self._dumps.directory

    def others_live(self) -> bool:
        """Tell whether another process has written lately; waits for the disk."""
        found, _ = self._dumps.now()
        mine = (socket.gethostname(), os.getpid())
        clock = time.time()
        return any(
            _state(snapshot, clock) == "live" and (snapshot.get("host"), snapshot.get("pid")) != mine
            for _, _, snapshot in found
        )

    def tick(self) -> float:
        """Take a sample, and renew the parts that have changed; return the seconds of CPU that this took."""
        began = time.thread_time()
        found, problems = self._dumps.now()
        try:
            self._sample(found, problems)
        except _UNUSABLE as error:
            if not found:
                raise
            wrong = f"{found[0][0].parent}: files there are not what this version writes ({type(error).__name__})"
            self._sample([], [*problems, wrong])
        return time.thread_time() - began

    def _sample(self, found: list[tuple[Path, float, Any]], problems: list[str]) -> None:
        clock = time.time()
        own = monitor.snapshot(*self._pools)
        shown: list[Json] = [self._with_state(own, "live", 0.0, mine=True)]
        for path, _, snapshot in found:
            if (snapshot.get("host"), snapshot.get("pid")) == (own["host"], own["pid"]):
                continue  # what this process has written itself is older than what it knows
            if "pools" not in snapshot or len(shown) >= _MOST_PROCESSES:
                continue
            age = max(0.0, clock - snapshot["time"])
            if age < _FORGOTTEN:
                state = _state(snapshot, clock)
                shown.append({**self._with_state(snapshot, state, age, mine=False), "file": path.name})
        shown.sort(key=lambda each: (each["state"] == "ended", each["id"]))  # whichever answers, the order is the same
        self._tracks = {each["id"]: self._tracks[each["id"]] for each in shown}
        views = processes(shown, self._tracks)
        now = totals(views)
        point = _point(clock, now)
        live = [each for each in shown if each["state"] == "live"]
        if self._ticks % SLOWER == 0:
            self._arms, more = routes(live, self._tracks)
            self._set("routes", self._arms)
            self._set("routes_more", more)
        said = verdicts(views, now, self._arms)
        self._set("now", {"time": clock, "verdicts": said, "totals": now, "processes": views})
        self._set("point", {"point": point, "lag": _lag(live, _TAIL)})
        if self._ticks % SLOWEST == 0:
            self._costliest(clock, live, problems)
        self._live = live
        self._points.append(point)  # not before all of it has turned out to be of use
        self._ticks += 1

    def renew(self) -> None:
        """Have the next tick make every part anew, as something was changed."""
        self._ticks = 0

    def history(self) -> str:
        """Return what the charts of a new viewer begin with."""
        return _encoded({"points": list(self._points), "lag": _lag(self._live, KEPT)})

    def _costliest(self, clock: float, live: list[Json], problems: list[str]) -> None:
        audits, wrong = self._audits.now()
        made = sorted((time_of(path, written), path, audit) for path, written, audit in audits)
        self._set("burn_down", burn_down(made))
        newest = made[-1][2] if made else None
        before = next((lost for at, lost in self._lost if at >= clock - _MINUTE), None)
        snapshots = [each["snapshot"] for each in live]
        try:
            table, lost = blocking(newest, snapshots, before, self._links, self._arms)
        except _UNUSABLE as error:  # of the audit, or else of a process
            table, lost = blocking(None, snapshots, before, self._links, self._arms)
            wrong.append(f"{made[-1][1]}: it is not what this version writes ({type(error).__name__})")
        self._lost.append((clock, lost))
        self._set("blocking", table)
        self._set("problems", [*problems, *wrong])

    def _with_state(self, snapshot: Json, state: str, age: float, *, mine: bool) -> Json:
        name = f"{snapshot.get('host')}:{snapshot['pid']}"
        self._tracks.setdefault(name, Track()).add(snapshot)
        return {"id": name, "state": state, "age": age, "mine": mine, "snapshot": snapshot}

    def _set(self, name: str, value: object) -> None:
        self.parts[name] = _encoded(value)


def _encoded(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)  # which browsers don't read


def _state(snapshot: Mapping[str, Any], clock: float) -> str:
    again, at = snapshot.get("again_in"), snapshot.get("time")
    if not isinstance(again, (int, float)) or not isinstance(at, (int, float)):
        return "ended"
    return "silent" if clock - at > again + _GRACE else "live"


def _point(clock: float, now: Json) -> list[Any]:
    """Return one point of the charts, in the order that the page's script knows."""
    short = now["short"]
    return [
        *(round(clock, 1), round(now["statements_per_second"], 2), _rounded(short["p50"]), _rounded(short["p95"])),
        *(now["in_use"], now["size"], now["waiting"]),
    ]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _lag(live: list[Json], most: int) -> Json:
    """Return the longest lag of each of the last seconds, by process."""
    return {
        each["id"]: [[second, round(lag, 6)] for second, lag in each["snapshot"].get("lag_recent", ())[-most:]]
        for each in live
    }
