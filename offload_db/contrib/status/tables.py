"""What the live page says, from the snapshots of the processes.

Owns the sums over processes, the comparison of the rollout's arms, and the sentences of what is wrong. Has no state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from ... import ConfigurationError
from ...monitor.report_command import join
from ...settings import kind_of
from .windows import MINUTE, SHORT, Track, added, buckets_between, grown, percentile, spread

Json = dict[str, Any]

# Rows that are shown of what blocks, and lines of each; and of the rollout.
_UNITS, _SITES, _ROUTES = 25, 5, 60
_OF_THE_ROLLOUT = "the rollout has some of its calls run as before: raise its share"
# Seconds that the loop may stand still before that is said, and before it is said loudly.
_LATE, _TOO_LATE = 0.1, 0.5
_COUNTED = ("checkouts", "statements", "hops", "kills", "kills_failed", "timeouts", "cancelled", "blocking_calls")
_OF_AN_AUDIT = ("handlers", "handlers_blocking", "handlers_migrated", "open")
# Reasons for which a connection is thrown out that say that the server has gone from it.
_LOST = ("lost", "unfit_server")


class Links:
    """How a line of the source is linked.

    :param template: with ``{file}`` (absolute) or ``{path}`` (below the working directory) and ``{line}``; None is none
    :raises ConfigurationError: if it is no address
    """

    def __init__(self, template: str | None) -> None:
        text: object = template
        if text is not None and not (
            isinstance(text, str)
            and re.match(r"(?!javascript|data|vbscript)[a-z][a-z0-9+.-]*:", text)
            and ("{file}" in text or "{path}" in text)
        ):
            raise ConfigurationError(
                f"StatusPage: link={kind_of(template)}; accepted are addresses with {{file}} or {{path}}, and {{line}}"
            )
        self._template = template

    def place(self, unit: Mapping[str, Any]) -> Json:
        """Return how a line is shown, and its link."""
        file, line = str(unit["file"]), unit["line"]
        short = _short(file)
        link = None
        if self._template is not None and PurePath(file).is_absolute():
            link = self._template.replace("{file}", quote(file)).replace("{path}", quote(short))
            link = link.replace("{line}", str(line))
        return {"place": f"{short}:{line}", "file": file, "link": link}


def _short(file: str) -> str:
    path = PurePath(file)
    if not path.is_absolute():
        return file
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(PurePath(*path.parts[-2:]))


def processes(shown: Sequence[Json], tracks: Mapping[str, Track]) -> list[Json]:
    """Return what is told of each process."""
    return [_process(each, tracks[each["id"]]) for each in shown]


def _process(each: Json, track: Track) -> Json:
    now, short, minute = track.now, track.before(SHORT), track.before(MINUTE)
    seconds = now["time"] - short["time"]
    newest = int(now["time"])
    recent = [lag for second, lag in now.get("lag_recent", ()) if second > newest - SHORT]
    lag = spread(now["lag_histogram"], minute["lag_histogram"]) if now.get("loop_lag") else None
    return {
        **{name: each.get(name) for name in ("id", "state", "age", "mine", "file")},
        "rollout_problem": now.get("rollout_problem"),
        "pid": now["pid"],
        "host": now.get("host"),
        "lag": None if lag is None else {**lag, "worst": max(recent, default=0.0)},
        "pools": [_pool(now["pools"], short["pools"], minute["pools"], at, seconds) for at in range(len(now["pools"]))],
    }


def _pool(now: Sequence[Json], short: Sequence[Json], minute: Sequence[Json], at: int, seconds: float) -> Json:
    pool = now[at]
    # A pool that was made meanwhile has nothing to be compared with.
    then, earlier = (each[at] if at < len(each) else None for each in (short, minute))
    discards = {
        reason: number - (earlier["discards"].get(reason, 0) if earlier else 0)
        for reason, number in pool["discards"].items()
    }
    return {
        "name": "pool" if len(now) == 1 else f"pool {at + 1}",
        **{name: pool[name] for name in ("size", "open", "idle", "in_use", "waiting", "server_away")},
        "lanes": [{"name": name, **lane} for name, lane in pool["lanes"].items()],
        "statements_per_second": grown(pool, then, "statements") / seconds if then and seconds else 0.0,
        "queue_wait": spread(pool["queue_wait"], earlier and earlier["queue_wait"]),
        "statement_time": spread(pool["statement_time"], earlier and earlier["statement_time"]),
        # For the sums over pools, and for the line of the last seconds.
        "buckets": {
            "queue_wait": buckets_between(pool["queue_wait"], earlier and earlier["queue_wait"]),
            "statement_time": buckets_between(pool["statement_time"], earlier and earlier["statement_time"]),
            "short": buckets_between(pool["statement_time"], then and then["statement_time"]),
        },
        "ever": {**{name: pool[name] for name in _COUNTED}, "discards": pool["discards"]},
        "minute": {
            **{name: grown(pool, earlier or {}, name) if earlier else pool[name] for name in _COUNTED},
            "discards": {reason: number for reason, number in discards.items() if number > 0},
        },
        "longest": {name: pool[name]["max"] for name in ("queue_wait", "statement_time")},
    }


def totals(views: Sequence[Json]) -> Json:
    """Add up what the processes that are at work say, and take from their pools what only sums need."""
    live = [view for view in views if view["state"] == "live"]
    pools = [pool for view in live for pool in view["pools"]]
    lags = [view["lag"] for view in live if view["lag"] is not None]
    times = {}
    for name in ("queue_wait", "statement_time", "short"):
        buckets: list[Any] = []
        for pool in pools:
            buckets = added(buckets, pool["buckets"][name])
        longest = max((pool["longest"].get(name, pool["longest"]["statement_time"]) for pool in pools), default=0.0)
        times[name] = {
            "count": buckets[-1][1] if buckets else 0,
            **{f"p{share}": percentile(buckets, share / 100, longest) for share in (50, 95)},
        }
    for view in views:
        for pool in view["pools"]:
            del pool["buckets"]
    return {
        "processes": len(live),
        **{name: sum(pool[name] for pool in pools) for name in ("size", "open", "idle", "in_use", "waiting")},
        "statements_per_second": sum(pool["statements_per_second"] for pool in pools),
        **times,
        "lag": {name: max(_numbers(lag[name] for lag in lags), default=0.0) for name in ("worst", "p50", "p99")}
        if lags
        else None,
        "minute": _summed(pools, "minute"),
        "ever": _summed(pools, "ever"),
    }


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _summed(pools: Sequence[Json], when: str) -> Json:
    reasons: dict[str, int] = {}
    for pool in pools:
        for reason, number in pool[when]["discards"].items():
            reasons[reason] = reasons.get(reason, 0) + number
    return {**{name: sum(pool[when][name] for pool in pools) for name in _COUNTED}, "discards": reasons}


def verdicts(views: Sequence[Json], now: Json, rollout: Sequence[Json]) -> list[Json]:
    """Say what is wrong at this moment, the worst first."""
    said: list[Json] = []

    def say(level: str, text: str) -> None:
        said.append({"level": level, "text": text})

    several = sum(view["state"] != "ended" for view in views) > 1
    for view in views:
        who = f" (pid {view['pid']})" if several else ""
        if view["state"] == "silent":
            say("bad", f"pid {view['pid']} on {view['host']} has written nothing for {view['age']:.0f} s")
        if view["state"] != "live":
            continue
        worst = view["lag"]["worst"] if view["lag"] else 0.0
        if worst >= _LATE:
            level = "bad" if worst >= _TOO_LATE else "warn"
            say(level, f"The event loop stood still for up to {worst * 1000:.0f} ms in the last 10 s{who}")
        if view["rollout_problem"]:
            say(
                "warn",
                f"The rollout's file was not read, and its rules stay as they are{who}: {view['rollout_problem']}",
            )
        for pool in view["pools"]:
            name = f"{pool['name'].capitalize()}{who}"
            if pool["server_away"]:
                say("bad", f"{name}: the server can't be reached, says the last attempt to connect")
            if pool["waiting"]:
                # Who has just come may wait for a moment in any pool that is used well.
                level = "bad" if pool["waiting"] * 2 >= pool["size"] else "warn"
                used = f"{pool['in_use']} of {pool['size']} connections are in use"
                waiting = _count(pool["waiting"], "caller waits", "callers wait")
                say(level, f"{name} is exhausted: {used}, and {waiting}")
            for lane in pool["lanes"]:
                if lane["waiting"]:
                    used = f"{lane['in_use']} of {lane['limit']} in use, {lane['waiting']} waiting"
                    say("warn", f"{name}: lane {lane['name']} is full, {used}")
    minute = now["minute"]
    if lost := sum(minute["discards"].get(reason, 0) for reason in _LOST):
        say("warn", f"{_count(lost, 'connection was', 'connections were')} lost within the last minute")
    if minute["timeouts"]:
        say(
            "warn", f"{_count(minute['timeouts'], 'statement', 'statements')} ran into a timeout within the last minute"
        )
    if minute["kills_failed"]:
        say("warn", f"{_count(minute['kills_failed'], 'kill', 'kills')} failed within the last minute")
    if minute["blocking_calls"]:
        calls = _count(minute["blocking_calls"], "driver call", "driver calls")
        say("note", f"{calls} blocked an event loop within the last minute")
    for route in rollout:
        if route["reverted"]:
            say("warn", f"The guard has put {route['target']} back: {route['reverted']}")
    if not any(view["lag"] for view in views):
        say("note", "Nothing samples the loop: put `async with offload_db.monitor.watch():` into the lifespan")
    order = ("bad", "warn", "note")
    return sorted(said, key=lambda each: order.index(each["level"]))


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {several}"


def routes(live: Sequence[Json], tracks: Mapping[str, Track]) -> tuple[list[Json], int]:
    """Return each target of the rollout with its arms side by side, over all processes; and how many are left out.

    What is set comes first, and then the routes that were called most.
    """
    targets: dict[str, list[tuple[Json, Json, Json | None]]] = {}
    for each in live:
        track = tracks[each["id"]]
        earlier = {route["target"]: route for route in track.before(MINUTE).get("rollout", ())}
        for route in track.now.get("rollout", ()):
            targets.setdefault(route["target"], []).append((each, route, earlier.get(route["target"])))
    first = sorted(targets, key=lambda target: _importance(target, targets[target]))[:_ROUTES]
    return [_route(target, targets[target]) for target in first], len(targets) - len(first)


def _importance(target: str, told: Sequence[tuple[Json, Json, Json | None]]) -> tuple[bool, int]:
    is_set = any(route.get("rule") == target for _, route, _ in told)
    calls = sum(arm["calls"] for _, route, _ in told for arm in route["arms"].values())
    return (False, 0) if is_set else (True, -calls)


def _route(target: str, told: Sequence[tuple[Json, Json, Json | None]]) -> Json:
    settings = [
        {"id": each["id"], "pid": each["snapshot"]["pid"], "mode": route["mode"], "share": route["share"]}
        for each, route, _ in told
    ]
    modes = sorted({mode for _, route, _ in told for mode in route["arms"]}, key=lambda mode: mode != "offload")
    return {
        "target": target,
        "mode": settings[0]["mode"],
        "share": settings[0]["share"],
        "source": told[0][1]["source"],
        "rule": told[0][1].get("rule"),
        "differs": len({(each["mode"], each["share"]) for each in settings}) > 1,
        "processes": settings,
        "reverted": next((route["reverted"] for _, route, _ in told if route["reverted"]), None),
        "arms": [
            {
                "mode": mode,
                "ever": _arm([(route["arms"][mode], None) for _, route, _ in told if mode in route["arms"]]),
                "minute": _arm(
                    [
                        (route["arms"][mode], (earlier or {"arms": {}})["arms"].get(mode))
                        for _, route, earlier in told
                        if mode in route["arms"]
                    ]
                ),
            }
            for mode in modes
        ],
    }


def _arm(pairs: Sequence[tuple[Json, Json | None]]) -> Json:
    calls = sum(grown(now, then or {}, "calls") for now, then in pairs)
    loop = sum(grown(now, then or {}, "loop_time") for now, then in pairs)
    errors: dict[str, int] = {}
    buckets: list[Any] = []
    for now, then in pairs:
        for name, number in now["errors"].items():
            new = number - (then["errors"].get(name, 0) if then else 0)
            if new > 0:
                errors[name] = errors.get(name, 0) + new
        buckets = added(buckets, buckets_between(now["durations"], then and then["durations"]))
    longest = max(now["durations"]["max"] for now, _ in pairs)
    return {
        "calls": calls,
        "errors": sum(errors.values()),
        "errors_by": errors,
        "error_share": sum(errors.values()) / calls if calls else None,
        "p50": percentile(buckets, 0.5, longest),
        "p95": percentile(buckets, 0.95, longest),
        "loop_time": loop,
        "loop_time_per_call": loop / calls if calls else None,
    }


def blocking(
    audit: Mapping[str, Any] | None,
    snapshots: Sequence[Json],
    before: Mapping[str, float] | None,
    links: Links,
    arms: Sequence[Json],
) -> tuple[Json, dict[str, float]]:
    """Return what still blocks, the costliest first, and the seconds that each has lost so far.

    :param before: what the latter was a minute ago; None if that is not known
    :param arms: the targets of the rollout: what blocks there does so on purpose
    """
    as_before = {
        route["target"]
        for route in arms
        if any(arm["mode"] != "offload" and arm["ever"]["calls"] for arm in route["arms"])
    }
    joined = join(audit, snapshots)
    lost: dict[str, float] = {}
    units: list[Json] = []
    for unit in joined["migrate_next"]:
        endpoint = unit["endpoint"]
        route = f"{endpoint['method']} {endpoint['path']}" if endpoint else None
        key = f"{route} {unit['file']} {unit['function']}"
        lost[key] = unit["seconds"]
        if len(units) < _UNITS:
            units.append(
                {
                    "key": key,
                    "route": route,
                    "function": unit["function"],
                    **links.place(unit),
                    **{name: unit[name] for name in ("seconds", "share", "count", "max_seconds", "rules")},
                    "remedy": _OF_THE_ROLLOUT if _is_one_of(unit, as_before) else unit["remedy"],
                    "minute": None if before is None else max(0.0, unit["seconds"] - before.get(key, 0.0)),
                    "more": max(0, len(unit["sites"]) - _SITES),
                    "sites": [
                        {
                            **links.place(site),
                            **{
                                name: site[name]
                                for name in ("function", "call", "statement", "count", "seconds", "max_seconds")
                            },
                        }
                        for site in unit["sites"][:_SITES]
                    ],
                }
            )
    return {"units": units, "more": max(0, len(lost) - _UNITS), "summary": joined["summary"]}, lost


def _is_one_of(unit: Mapping[str, Any], targets: set[str]) -> bool:
    endpoint = unit["endpoint"]
    if endpoint and f"{endpoint['method']}:{endpoint['path']}" in targets:
        return True
    return any(target.rpartition(".")[2] == unit["function"] for target in targets if ":" not in target)


def burn_down(audits: Sequence[tuple[float, Path, Mapping[str, Any]]]) -> list[Json]:
    """Return the handlers that block, by each audit, the oldest first."""
    found = []
    for at, path, audit in audits:
        summary = audit.get("summary")
        numbers = {name: summary.get(name) for name in _OF_AN_AUDIT} if isinstance(summary, dict) else {}
        if numbers and all(isinstance(number, int) for number in numbers.values()):
            found.append({"time": at, "file": path.name, **numbers})
    return found
