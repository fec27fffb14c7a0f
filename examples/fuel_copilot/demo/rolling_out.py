"""Owns the course of a rollout under load: one route, share by share, with a table lock on the way.

The share stands in a TOML file, which the backend reads again when it changes. At half of the requests the table that
they read is locked for some seconds. The backend's guard goes back then, and later the course goes on.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pymysql

from examples.fuel_copilot.demo import rollout_plot
from examples.fuel_copilot.demo.backend import HOST, ROOT, Backend, BackendFailed
from examples.fuel_copilot.demo.health import HealthPoller
from examples.fuel_copilot.demo.results import percentile
from examples.support.processes import end, start

ROUTE = "GET:/v2/truck/{truck_id}/sensors/cache"
QUERY_DELAY = 0.08
USERS = 20
LOCKED = 6.0
# Fewer connections than users, and less patience than the lock lasts: what is offloaded meanwhile runs out of time.
LIMITS = "size=5, checkout_timeout=4.0"
LONGEST_REACTION = 20.0
ASK_EVERY = 0.2


class Demo(Protocol):
    """What the course needs of the demo's run."""

    workspace: Path

    def copy(self, name: str, upto: int | None) -> Path:
        """Copy the legacy backend and apply its first steps."""

    def backend(
        self, directory: Path, query_delay: float, port: int | None = None, *, app: str, **more: str
    ) -> Backend:
        """Serve the backend in a directory."""

    def load_command(self, backend: Backend, users: int, settle: float, seconds: float, output: Path) -> list[str]:
        """Return the command that puts the backend under load."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the course; the clock is time.monotonic()."""

    name: str
    started: float
    ended: float


@dataclass(frozen=True, slots=True)
class Course:
    """What was seen."""

    phases: tuple[Phase, ...]
    answers: tuple[tuple[float, float, bool], ...]
    """When each answer came, how long it took, and whether it was right."""
    health: tuple[tuple[float, float], ...]
    """When /health was asked, and how long the answer took."""
    reverted: str
    rows: tuple[dict[str, Any], ...]


def run(demo: Demo, settings: dict[str, Any], output: Path, *, quick: bool) -> int:
    """Roll out one route of the backend under load; print the table, and write the picture and the numbers."""
    course = _go(demo, settings, seconds=3.0 if quick else 6.0)
    print(f"\n{ROUTE}\n{USERS} users, {1000 * QUERY_DELAY:.0f} ms queries\n\n{table(course)}", flush=True)
    print(f"\nthe guard went back: {course.reverted}\n\n{arms(course)}", flush=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    numbers = output.with_suffix(".json")
    numbers.write_text(json.dumps(asdict(course), indent=1) + "\n", encoding="utf-8")
    rollout_plot.draw(course, output)
    print(f"\npicture: {output}\nnumbers: {numbers}", flush=True)
    locked, back = course.phases[3:5]
    wrong = sum(not right and not locked.started <= at < back.started for at, _, right in course.answers)
    if wrong:
        print(f"ERRORS: {wrong} answers were wrong though nothing was locked", flush=True)
    return 1 if wrong else 0


def _go(demo: Demo, settings: dict[str, Any], *, seconds: float) -> Course:
    directory = demo.copy("rolling out", 2)
    source = (directory / "database_mysql.py").read_text(encoding="utf-8")
    limited = source.replace("offload_db.OffloadPool(pool)", f"offload_db.OffloadPool(pool, {LIMITS})")
    (directory / "database_mysql.py").write_text(limited, encoding="utf-8")
    rules, measured = demo.workspace / "rollout.toml", demo.workspace / "load.json"
    _write(rules, 0.0)
    app = f"{__package__}.guarded:app"
    with (
        demo.backend(directory, QUERY_DELAY, app=app, OFFLOAD_DB_ROLLOUT=str(rules)) as backend,
        HealthPoller(HOST, backend.port) as poller,
        (demo.workspace / "load.log").open("w+b") as log,
    ):
        longest = 10 * (seconds + LONGEST_REACTION)
        command = [*demo.load_command(backend, USERS, 0.0, longest, measured), "--keep-answers"]
        process = start(command, cwd=ROOT, output=log)
        try:
            time.sleep(1.0)  # the users arrive
            phases = [_phase(backend, "as before", seconds)]
            for share in (0.1, 0.5):
                _write(rules, share)
                _until(backend, lambda row, share=share: row["share"] == share)
                phases.append(_phase(backend, f"{share:.0%} offloaded", seconds))
            phases.append(_lock(backend, settings))
            reverted = str(_row(backend)["reverted"])
            phases.append(_phase(backend, "the guard went back", seconds))
            _write(rules, 1.0)
            _until(backend, lambda row: row["mode"] == "offload" and row["share"] == 1.0)
            phases.append(_phase(backend, "100% offloaded", seconds))
            rows = _ask(backend)
        finally:
            end(process)  # it writes what it has measured
        poller.stop()
        if not measured.exists():
            log.seek(0)
            raise BackendFailed(f"the load generator failed:\n{log.read().decode(errors='replace')}")
    load = json.loads(measured.read_text(encoding="utf-8"))
    last = phases[-1].ended
    return Course(
        phases=tuple(phases),
        answers=tuple((at, latency, right) for at, latency, right in load["answers"] if at <= last),
        health=tuple((poll.sent, poll.latency) for poll in poller.between(phases[0].started, last)),
        reverted=reverted,
        rows=tuple(rows),
    )


def _write(path: Path, share: float) -> None:
    """Replace the file as a whole, so that nobody reads half of it."""
    new = path.with_suffix(".new")
    new.write_text(f'["{ROUTE}"]\nmode = "offload"\nshare = {share}\n', encoding="utf-8")
    os.replace(new, path)


def _phase(backend: Backend, name: str, seconds: float) -> Phase:
    print(f"  {name} ...", flush=True)
    started = time.monotonic()
    time.sleep(seconds)
    if not backend.running:
        raise BackendFailed(f"the backend ended by itself:\n{backend.log}")
    return Phase(name, started, time.monotonic())


def _lock(backend: Backend, settings: dict[str, Any]) -> Phase:
    """Lock the table that the route reads for a while, and wait until the guard has gone back."""
    with pymysql.connect(**settings, ssl_disabled=True) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES truck_sensors_cache WRITE")
        phase = _phase(backend, "the table is locked", LOCKED)
        cursor.execute("UNLOCK TABLES")
    _until(backend, lambda row: row["reverted"] is not None)
    return phase


def _until(backend: Backend, condition: Any) -> None:
    deadline = time.monotonic() + LONGEST_REACTION
    while not condition(_row(backend)):
        if time.monotonic() > deadline:
            raise BackendFailed(f"the backend did not change its way within {LONGEST_REACTION:.0f} s:\n{backend.log}")
        time.sleep(ASK_EVERY)


def _row(backend: Backend) -> dict[str, Any]:
    return next(row for row in _ask(backend) if row["target"] == ROUTE)


def _ask(backend: Backend) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(HOST, backend.port, timeout=LONGEST_REACTION)
    try:
        connection.request("GET", "/rollout")
        rows: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        return rows
    finally:
        connection.close()


def _answers(course: Course, phase: Phase) -> list[tuple[float, bool]]:
    return [(latency, right) for at, latency, right in course.answers if phase.started <= at < phase.ended]


def table(course: Course) -> str:
    """Write what users saw in each phase."""
    lines = [f"  {'':<20} {'requests/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'/health p99 ms':>15} {'errors':>7}"]
    for phase in course.phases:
        answers = _answers(course, phase)
        right = [latency for latency, is_right in answers if is_right]
        health = [latency for at, latency in course.health if phase.started <= at < phase.ended]
        seconds = phase.ended - phase.started
        figures = (_ms(percentile(right, 0.5)), _ms(percentile(right, 0.95)), _ms(percentile(health, 0.99)))
        lines.append(
            f"  {phase.name:<20} {len(right) / seconds:>10.1f} {figures[0]:>8} {figures[1]:>8} {figures[2]:>15} "
            f"{len(answers) - len(right):>7}"
        )
    return "\n".join(lines)


def arms(course: Course) -> str:
    """Write what the backend itself has counted."""
    lines = [f"  {'':<20} {'calls':>10} {'errors':>8} {'mean ms':>8} {'loop stood still s':>19}"]
    (row,) = [row for row in course.rows if row["target"] == ROUTE]
    for mode, arm in row["arms"].items():
        durations = arm["durations"]
        mean = _ms(durations["sum"] / max(1, durations["count"]))
        errors = sum(arm["errors"].values())
        lines.append(f"  {mode:<20} {arm['calls']:>10} {errors:>8} {mean:>8} {arm['loop_time']:>19.1f}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return "" if math.isnan(seconds) else f"{1000 * seconds:.0f}"
