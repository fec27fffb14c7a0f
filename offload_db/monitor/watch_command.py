"""The figures of the live page in a terminal: ``offload-db watch``.

Owns asking for them and their text. What the page shows is ``contrib/status``'s; here its JSON is read, so that it
works from any machine that reaches the page.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import shutil
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError

Json = Mapping[str, Any]

_NAME, _LONGEST = "state.json", 20_000_000
_SECONDS = 10.0
# Lines of each list, and characters of one.
_ROUTES, _UNITS, _WIDTH = 12, 8, 120
_LONGEST_PAUSE = 3600
_CLEAR, _LEVELS = "\x1b[H\x1b[2J", {"bad": "TROUBLE", "warn": "look   ", "note": "note   "}
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``offload-db watch``."""
    parser.epilog = "exit status: 0 after --once, 2 where there are no figures to be had, 130 after Ctrl-C"
    parser.add_argument("url", metavar="URL", help="where the application has mounted its StatusPage")
    parser.add_argument("--once", action="store_true", help="show the figures once")
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="sent with each request; can be repeated"
    )


def run(arguments: argparse.Namespace) -> int:
    """Show the figures until Ctrl-C; 0, 2 if there are none to show, 130 if it was interrupted."""
    try:
        _watch(request_of(arguments.url, arguments.header), arguments.interval, once=arguments.once)
    except ConfigurationError as error:
        print(f"offload-db watch: {_printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    return 0


def _watch(request: urllib.request.Request, interval: float, *, once: bool) -> None:
    if not 0 < interval <= _LONGEST_PAUSE:
        raise ConfigurationError(f"--interval: accepted are seconds above 0, up to {_LONGEST_PAUSE}")
    screen = sys.stdout.isatty()
    before = _CLEAR if screen and not once else ""
    seen = False
    while True:
        try:
            state = fetch_state(request)
            columns = shutil.get_terminal_size((_WIDTH, 40)).columns
            text = _told(request, state, columns if screen or once else None)
        except ConfigurationError as error:
            # Once it has been there, it is waited for: it may just be restarting.
            if not seen:
                raise
            print(f"{before}{time.strftime('%H:%M:%S')}  {_printable(str(error))}", flush=True)
        else:
            seen = True
            print(before + text, flush=True)
        if once:
            return
        time.sleep(interval)


def request_of(url: str, headers: Sequence[str]) -> urllib.request.Request:
    """Return the request for a page's figures.

    :raises ConfigurationError: if the address or a header is none
    """
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port, for one, is no number
        parts, whole = urllib.parse.urlsplit(""), False
    if not whole:
        raise ConfigurationError("accepted are addresses such as http://127.0.0.1:8000/offload")
    path = parts.path.removesuffix(_NAME).rstrip("/")
    user, _, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(
        parts._replace(netloc=place, path=f"{path}/{_NAME}", query="", fragment="").geturl()
    )
    if user:
        encoded = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise ConfigurationError("--header: accepted are headers such as 'Authorization: Bearer …'")
        request.add_header(name.strip(), value.strip())
    return request


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to no other place, which would be given the headers as well."""

    def redirect_request(  # noqa: PLR0917  # so urllib calls it
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to where the answer leads."""
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if old[:2] == new[:2] or (new.scheme == "https" and new.hostname == old.hostname):
            return super().redirect_request(req, fp, code, msg, headers, newurl)
        return None


def fetch_state(request: urllib.request.Request) -> Json:
    """Ask for the figures.

    :raises ConfigurationError: if there are none to be had
    """
    address = request.full_url
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=_SECONDS) as response:
            value = json.loads(_read(response))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 400:
            raise ConfigurationError(
                f"{address} answers {error.code}; accepted is the address that it leads to, given at once"
            ) from None
        hint = {401: "; give --header", 403: "; give --header", 404: "; is the StatusPage mounted there?"}
        raise ConfigurationError(f"{address} answers {error.code} {error.reason}{hint.get(error.code, '')}") from None
    except urllib.error.URLError as error:
        raise ConfigurationError(f"{address} can't be reached: {error.reason}") from None
    except TimeoutError:
        raise ConfigurationError(
            f"{address} has not answered within {_SECONDS:.0f} s, as when its event loop stands still; accepted are "
            "addresses of a StatusPage that answers"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise ConfigurationError(f"{address} can't be read: {type(error).__name__}") from None
    except (RecursionError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise _no_page(request)
    return value


def _read(response: Any) -> bytes:
    """Read an answer; one that comes by drops is not waited for without end."""
    until = time.monotonic() + _SECONDS
    body = bytearray()
    while len(body) < _LONGEST and (more := response.read1(65536)):
        body += more
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(body)


def _told(request: urllib.request.Request, state: Json, columns: int | None) -> str:
    """Return the figures for a screen of so many columns, or as one line.

    :raises ConfigurationError: if they are something else
    """
    try:
        return as_line(state) if columns is None else as_text(state, columns)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError):
        raise _no_page(request) from None


def _no_page(request: urllib.request.Request) -> ConfigurationError:
    return ConfigurationError(
        f"{request.full_url}: no StatusPage answers there; accepted is the address that one is mounted at"
    )


def _printable(line: str) -> str:
    """Leave out what would do something to a terminal: names may come from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def as_line(state: Json) -> str:
    """Return the figures as one line."""
    now, totals = state["now"], state["now"]["totals"]
    lag = ms(totals["lag"]["worst"]) if totals["lag"] else "not sampled"
    worst = next((each for each in now["verdicts"] if each["level"] in ("bad", "warn")), None)
    text = (
        f"{_clock(now)}  lag {lag}  in use {totals['in_use']}/{totals['size']}  waiting {totals['waiting']}  "
        f"{totals['statements_per_second']:.1f} statements/s  p50 {ms(totals['statement_time']['p50'])}  "
        f"p95 {ms(totals['statement_time']['p95'])}"
    )
    return _printable(f"{text}  {_LEVELS[worst['level']].strip()}: {worst['text']}" if worst else text)


def as_text(state: Json, width: int) -> str:
    """Return all figures for a reader."""
    now, totals = state["now"], state["now"]["totals"]
    minute = totals["minute"]
    lag = totals["lag"]
    lines = [f"offload_db  {_clock(now)}  {_number(totals['processes'], 'process', 'processes')}", ""]
    lines += [f"{_LEVELS[each['level']]}  {each['text']}" for each in now["verdicts"]] or ["fine     the loop is free"]
    used = f"{totals['in_use']} of {totals['size']} in use, {totals['idle']} idle, {totals['waiting']} waiting"
    times = {name: totals[name] for name in ("queue_wait", "statement_time")}
    ended = f"{minute['kills']} killed, {minute['timeouts']} timeouts, {minute['cancelled']} cancelled"
    gone = f"{minute['blocking_calls']} blocked the loop, {sum(minute['discards'].values())} connections discarded"
    rate, middle = f"{totals['statements_per_second']:.1f}/s", f"p50 {ms(times['statement_time']['p50'])}"
    lines += [
        "",
        f"loop lag         {ms(lag['worst'])} longest of 10 s, p99 {ms(lag['p99'])}" if lag else "loop lag         -",
        f"connections      {used}, queue wait p95 {ms(times['queue_wait']['p95'])}",
        f"statements       {rate}, {middle}, p95 {ms(times['statement_time']['p95'])}",
        f"last minute      {ended}, {gone}",
    ]
    lines += ["", *_processes(now["processes"])]
    if state.get("routes"):
        lines += ["", *_routes(state["routes"])]
    if state.get("blocking", {}).get("units"):
        lines += ["", *_blocking(state["blocking"])]
    if state.get("burn_down"):
        newest = state["burn_down"][-1]
        lines += ["", f"migration        {newest['handlers_blocking']} of {newest['handlers']} handlers block"]
    lines += [f"could not read   {problem}" for problem in state.get("problems", ())]
    return "\n".join(_printable(line if len(line) <= width else f"{line[: width - 1]}…") for line in lines)


def _processes(processes: Sequence[Json]) -> list[str]:
    lines = [f"{'process':<22} {'pool, lane':<16} {'in use':>8} {'waiting':>8} {'stmt/s':>8} {'p95':>9} {'lag':>9}"]
    for each in processes:
        name = f"{each['pid']} {each['host']}"[:22]
        state = "" if each["state"] == "live" else f"  {each['state']} for {each['age']:.0f} s"
        if not each["pools"]:
            lines.append(f"{name:<22} no pool{state}")
        for pool in each["pools"]:
            worst = ms(each["lag"]["worst"]) if each["lag"] else "-"
            lines.append(
                f"{name:<22} {pool['name'][:16]:<16} {pool['in_use']:>4}/{pool['size']:<3} {pool['waiting']:>8} "
                f"{pool['statements_per_second']:>8.1f} {ms(pool['statement_time']['p95']):>9} {worst:>9}{state}"
            )
            lines += [
                f"{'':<22}   {lane['name'][:14]:<14} {lane['in_use']:>4}/{lane['limit']:<3} {lane['waiting']:>8}"
                for lane in pool["lanes"]
            ]
    return lines


def _routes(routes: Sequence[Json]) -> list[str]:
    lines = [
        f"{'route, last minute':<44} {'way':<8} {'calls':>7} {'errors':>7} {'p50':>9} {'p95':>9} {'loop held':>10}"
    ]
    for route in routes[:_ROUTES]:
        lines.append(f"{route['target'][:60]}  {route['mode']} {route['share']:.1%}, {route['source']}")
        if route["reverted"]:
            lines.append(f"    put back by the guard: {route['reverted']}")
        for arm in route["arms"]:
            now = arm["minute"]
            errors = "-" if now["error_share"] is None else f"{now['error_share']:.1%}"
            lines.append(
                f"{'':<44} {arm['mode']:<8} {now['calls']:>7} {errors:>7} {ms(now['p50']):>9} {ms(now['p95']):>9} "
                f"{ms(now['loop_time_per_call']):>10}"
            )
    return [*lines, *_rest(len(routes) - _ROUTES)]


def _blocking(table: Json) -> list[str]:
    lines = [f"{'still blocks':<14} {'last min':>9} {'calls':>8}"]
    for unit in table["units"][:_UNITS]:
        minute = "-" if unit["minute"] is None else ms(unit["minute"])
        what = f"{unit['route']}  {unit['function']}" if unit["route"] else unit["function"]
        lines.append(f"{ms(unit['seconds']):>14} {minute:>9} {unit['count']:>8}  {what}, {unit['place']}")
        site = next((site for site in unit["sites"] if site["statement"]), None)
        if site is not None:
            lines.append(f"{'':<34} {site['place']}  {site['statement']}")
    return [*lines, *_rest(len(table["units"]) + table["more"] - _UNITS)]


def _rest(number: int) -> list[str]:
    return [f"  and {number} more"] if number > 0 else []


def _number(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _clock(now: Json) -> str:
    return time.strftime("%H:%M:%S", time.localtime(now["time"]))


def ms(seconds: float | None) -> str:
    """Return a duration with its unit."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
