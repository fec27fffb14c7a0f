"""The report: what the static audit found, joined with what was seen at run time.

Owns the comparison and its text. Reads files of both kinds; knows neither a pool nor a running loop.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..errors import ConfigurationError

# How many lines of each list the text shows; JSON has them all.
_SHOWN = 20
_SITES_SHOWN = 3
_LONGEST_STATEMENT = 90

# What tells one place from another.
_SITE = ("file", "line", "function", "call", "statement", "source", "decorated")

Json = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``offload-db report``."""
    parser.add_argument(
        "audit", metavar="AUDIT.json", help="what `offload-db audit --format json` printed; - if there is none"
    )
    parser.add_argument(
        "runtime",
        metavar="RUNTIME.json",
        nargs="+",
        help="what offload_db.monitor.dump() wrote; those of several processes are added up",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; 0, or 2 if a file can't be read."""
    try:
        audit = None if arguments.audit == "-" else read_audit(arguments.audit)
        joined = join(audit, [read_runtime(path) for path in arguments.runtime])
    except ConfigurationError as error:
        print(f"offload-db report: {error}", file=sys.stderr)
        return 2
    print(as_text(joined) if arguments.format == "text" else as_json(joined))
    return 0


def read_audit(path: str | os.PathLike[str]) -> Json:
    """Read the JSON of the static audit.

    :raises ConfigurationError: if it can't be read, or is something else
    """
    return _read(path, "findings", "what `offload-db audit --format json` printed")


def read_runtime(path: str | os.PathLike[str]) -> Json:
    """Read what :func:`offload_db.monitor.dump` wrote.

    :raises ConfigurationError: if it can't be read, or is something else
    """
    return _read(path, "blocking_calls", "what offload_db.monitor.dump() wrote")


def _read(path: str | os.PathLike[str], key: str, accepted: str) -> Json:
    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (OSError, RecursionError, ValueError) as error:
        raise ConfigurationError(
            f"{os.fspath(path)} can't be read as JSON ({error}); accepted is {accepted}"
        ) from error
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise ConfigurationError(f"{os.fspath(path)} has no list {key!r}; accepted is {accepted}")
    return value


def _finite(text: str) -> float:
    """Read a number; NaN and Infinity are none in JSON, and no browser reads what is made of them."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{number} is no number")
    return number


def join(audit: Mapping[str, Any] | None, runtimes: Sequence[Mapping[str, Any]]) -> Json:
    """Join the findings of the audit with the calls that were seen.

    :param audit: the audit's JSON object; None if there is none
    :param runtimes: the objects of one or more processes
    :return: an object with ``migrate_next`` (by function and route, the costliest first, each with its ``remedy`` and
        its ``sites``), ``not_in_audit`` (those of them that the audit does not know), ``migrated_but_blocking``,
        ``not_seen`` (the audit's findings that cost nothing so far), ``shared_waits`` (by line and route, for
        connections that others had), ``loop_lag`` of each process, and ``summary``
    """
    findings: list[Json] = [] if audit is None else list(audit["findings"])
    units: dict[tuple[Any, ...], Json] = {}
    seen: set[int] = set()
    for call in (call for runtime in runtimes for call in runtime["blocking_calls"]):
        known = _known(call, findings)
        seen.update(known)
        handler, endpoint = call["stack"][0], call["endpoint"]
        key = (handler["file"], handler["function"], *(endpoint or {}).values())
        unit = units.setdefault(
            key,
            {
                "endpoint": endpoint,
                **handler,
                "count": 0,
                "seconds": 0.0,
                "max_seconds": 0.0,
                "rules": [],
                "migrated": False,
                "sites": {},
            },
        )
        _add(unit, call)
        unit["rules"] = sorted({*unit["rules"], *(str(findings[number].get("rule")) for number in known)})
        unit["migrated"] = unit["migrated"] or any(findings[number].get("migrated") for number in known)
        place = tuple(call[name] for name in _SITE)
        shown = {name: call[name] for name in _SITE}
        _add(unit["sites"].setdefault(place, {**shown, "count": 0, "seconds": 0.0, "max_seconds": 0.0}), call)
    lost = sum(unit["seconds"] for unit in units.values())
    for unit in units.values():
        unit["share"] = unit["seconds"] / lost if lost else 0.0
        unit["sites"] = _costliest(unit["sites"].values())
        unit["remedy"] = _remedy(unit["sites"][0])
    ordered = _costliest(units.values())
    not_seen = [
        finding for number, finding in enumerate(findings) if number not in seen and not finding.get("migrated")
    ]
    return {
        "migrate_next": ordered,
        "not_in_audit": [] if audit is None else [unit for unit in ordered if not unit["rules"]],
        "migrated_but_blocking": [unit for unit in ordered if unit["migrated"]],
        "not_seen": not_seen,
        "shared_waits": _waits(runtimes),
        "loop_lag": [runtime["loop_lag"] for runtime in runtimes if runtime.get("loop_lag")],
        "summary": {
            "processes": len(runtimes),
            "seconds_lost": lost,
            "blocking_calls": sum(unit["count"] for unit in units.values()),
            "hops": sum(runtime.get("hops", 0) for runtime in runtimes),
            "findings": None if audit is None else len(findings),
            "findings_migrated": None if audit is None else sum(bool(each.get("migrated")) for each in findings),
            "findings_seen": None if audit is None else len(seen),
        },
    }


def _waits(runtimes: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Add up how long connections were waited for that others had, the costliest first."""
    found: dict[tuple[Any, ...], Json] = {}
    for wait in (wait for runtime in runtimes for wait in runtime.get("shared_waits", ())):
        place = {name: wait[name] for name in ("file", "line", "function", "endpoint")}
        key = (*(place[name] for name in ("file", "line", "function")), *(place["endpoint"] or {}).values())
        _add(found.setdefault(key, {**place, "count": 0, "seconds": 0.0, "max_seconds": 0.0}), wait)
    return _costliest(found.values())


def _add(total: Json, call: Mapping[str, Any]) -> None:
    total["count"] += call["count"]
    total["seconds"] += call["seconds"]
    total["max_seconds"] = max(total["max_seconds"], call["max_seconds"])


def _costliest(totals: Iterable[Json]) -> list[Json]:
    return sorted(totals, key=lambda total: (-total["seconds"], total["file"], total["line"]))


def _remedy(costliest: Mapping[str, Any]) -> str:
    if costliest["source"] == "sqlalchemy":
        engine = "put its engine on a pool with offload_db.contrib.sqlalchemy.create_engine"
        if costliest["decorated"]:
            return f"it is decorated, but its engine's connections are not ours: {engine}, or use mode='thread'"
        return f"{engine}, and put @offload_db.offload on it"
    if costliest["source"] != "pymysql":
        return "put @offload_db.offload on it"
    if costliest["decorated"]:
        return "it is decorated, but the connection is not ours: use offload_db.connect, or mode='thread'"
    return "wrap its pool, or open its connection with offload_db.connect, and put @offload_db.offload on it"


def _known(call: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the findings that a call bears out best: by handler, line and route."""
    scores = [_score(call, finding) for finding in findings]
    best = max(scores, default=0)
    return [number for number, score in enumerate(scores) if score == best] if best else []


def _score(call: Mapping[str, Any], finding: Mapping[str, Any]) -> int:
    function = str(finding.get("function") or "").rpartition(".")[2]
    lines = [line for line in call["stack"] if _same_file(str(finding.get("file")), line["file"])]
    # A helper's line is every handler's that calls it: the line alone says nothing.
    if not any(function == line["function"] for line in lines):
        return 0
    by_handler: bool = function == call["stack"][0]["function"]
    by_line: bool = any(finding.get("line") == line["line"] for line in lines)
    by_route: bool = bool(call["endpoint"]) and finding.get("endpoint") == call["endpoint"]
    return 1 + 2 * by_route + 4 * by_line + 8 * by_handler


def _same_file(audited: str, run: str) -> bool:
    """Tell whether the audit's path, relative or of another machine, can be that of a module that ran."""
    ours, theirs = PurePath(os.path.normpath(audited)).parts, PurePath(run).parts
    if ours == theirs[-len(ours) :]:
        return True
    # An application is audited in one place and runs in another: its package and file are the same.
    return PurePath(audited).is_absolute() and len(ours) > 2 and ours[-2:] == theirs[-2:]


def as_json(joined: Json) -> str:
    """Print what :func:`join` returned as JSON."""
    return json.dumps(joined, indent=1)


def as_text(joined: Json) -> str:
    """Print what :func:`join` returned for a reader."""
    summary = joined["summary"]
    stood = f"The event loop stood still for {summary['seconds_lost']:.2f} s in {summary['blocking_calls']} calls"
    lines = [f"{stood}; {summary['hops']} trips to a worker thread left it free."]
    lines += [
        f"Its lag: p50 {_ms(lag['p50'])} ms, p99 {_ms(lag['p99'])} ms, longest {_ms(lag['max'])} ms"
        f" ({lag['samples']} samples)."
        for lag in joined["loop_lag"]
    ]
    if summary["findings"] is not None:
        lines.append(
            f"Of the audit's {summary['findings']} findings {summary['findings_migrated']} are migrated, and "
            f"{summary['findings_seen']} were seen blocking."
        )
    if joined["migrate_next"]:
        lines += ["", "Migrate next, by the time lost:", "", "     lost s   share   calls  longest ms"]
    for number, unit in enumerate(joined["migrate_next"][:_SHOWN], start=1):
        lines += _unit(number, unit, audited=summary["findings"] is not None)
    lines += _rest(joined["migrate_next"])
    if joined["shared_waits"]:
        lines += ["", "Waited for a connection that others had, while the loop went on:"]
        lines += [
            f"  {wait['seconds']:.2f} s in {wait['count']} calls, longest {_ms(wait['max_seconds'])} ms: {_what(wait)}"
            for wait in joined["shared_waits"][:_SHOWN]
        ]
    lines += _rest(joined["shared_waits"])
    lines += _list("Migrated, says the audit, and still blocking:", joined["migrated_but_blocking"])
    lines += _list("Seen blocking, and not in the audit:", joined["not_in_audit"])
    lines += _list("In the audit, and not seen blocking yet:", joined["not_seen"])
    return "\n".join(lines)


def _unit(number: int, unit: Json, *, audited: bool) -> list[str]:
    known = (", ".join(unit["rules"]) or "not in the audit") if audited else ""
    cost = f"{unit['seconds']:7.2f} {unit['share']:7.1%} {unit['count']:7d} {_ms(unit['max_seconds']):>11}"
    lines = [f"{number:3d} {cost}  {_what(unit)}{f'  [{known}]' if known else ''}", f"{'':41}{unit['remedy']}"]
    for site in unit["sites"][:_SITES_SHOWN]:
        statement = site["statement"] or ""
        if len(statement) > _LONGEST_STATEMENT:
            statement = f"{statement[:_LONGEST_STATEMENT]}…"
        lines.append(
            f"    {site['seconds']:7.2f}         {site['count']:7d} {_ms(site['max_seconds']):>11}    "
            f"{_place(site)} {site['call']}{f': {statement}' if statement else ''}"
        )
    if len(unit["sites"]) > _SITES_SHOWN:
        lines.append(f"{'':41}and {len(unit['sites']) - _SITES_SHOWN} more")
    return lines


def _list(title: str, units: Sequence[Json]) -> list[str]:
    if not units:
        return []
    return ["", title, *(f"  {_what(unit)}" for unit in units[:_SHOWN]), *_rest(units)]


def _rest(units: Sequence[Json]) -> list[str]:
    return [f"  and {len(units) - _SHOWN} more, see --format json"] if len(units) > _SHOWN else []


def _what(unit: Mapping[str, Any]) -> str:
    endpoint = unit.get("endpoint")
    route = f"{endpoint['method']} {endpoint['path']}  " if endpoint else ""
    rule = f"{unit['rule']} " if unit.get("rule") else ""
    return f"{rule}{route}{unit.get('function')}, {_place(unit)}"


def _place(unit: Mapping[str, Any]) -> str:
    path = PurePath(str(unit["file"]))
    shown = path
    if path.is_absolute():
        try:
            shown = path.relative_to(Path.cwd())
        except ValueError:
            shown = PurePath(*path.parts[-2:])
    return f"{shown}:{unit['line']}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f}"
