"""Owns what the demo measured, and its form as JSON and as a table."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from examples.fuel_copilot.demo.health import Poll
from examples.fuel_copilot.demo.load import Load

POOL_SIZE = 20
PACKAGES = ("anyio", "dbutils", "fastapi", "greenlet", "pymysql", "uvicorn")

BEFORE = "before"
AFTER = "after"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that *share* of the values do not exceed; not a number if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


@dataclass(frozen=True, slots=True)
class Point:
    """One backend under one load. Durations are seconds."""

    backend: str
    query_delay: float
    users: int
    seconds: float
    requests: int
    throughput: float
    p50: float
    p95: float
    p99: float
    health_p50: float
    health_p99: float
    errors: int
    error_samples: tuple[str, ...]
    client_cpu: float
    health: tuple[tuple[float, float], ...]
    """When /health was asked, since the start of the measurement, and how long the answer took."""

    @classmethod
    def of(cls, backend: str, query_delay: float, load: Load, polls: Sequence[Poll], errors: Iterable[str]) -> Point:
        """Condense what the load generator and the health poller measured at the same time."""
        seconds = load.ended - load.started
        health = [poll.latency for poll in polls]
        samples = (*load.error_samples, *errors)
        return cls(
            backend=backend,
            query_delay=query_delay,
            users=load.users,
            seconds=seconds,
            requests=len(load.latencies),
            throughput=len(load.latencies) / seconds,
            p50=percentile(load.latencies, 0.50),
            p95=percentile(load.latencies, 0.95),
            p99=percentile(load.latencies, 0.99),
            health_p50=percentile(health, 0.50),
            health_p99=percentile(health, 0.99),
            errors=load.errors + len(samples) - len(load.error_samples),
            error_samples=samples,
            client_cpu=load.client_cpu,
            health=tuple((poll.sent - load.started, poll.latency) for poll in polls),
        )

    @property
    def ideal(self) -> float:
        """Requests per second that the delay and the pool's size allow; infinite without a delay."""
        return min(self.users, POOL_SIZE) / self.query_delay if self.query_delay else math.inf


def find(points: Iterable[Point], backend: str, query_delay: float, users: int) -> Point | None:
    """Return the point with these coordinates, if it was measured."""
    for point in points:
        if (point.backend, point.query_delay, point.users) == (backend, query_delay, users):
            return point
    return None


def factor(points: Sequence[Point], point: Point) -> float | None:
    """Return how many times the throughput of *before* this point has under the same load."""
    base = find(points, BEFORE, point.query_delay, point.users)
    return point.throughput / base.throughput if base is not None and base.throughput else None


def milliseconds(seconds: float) -> str:
    """Write a duration with as many digits as mean something."""
    return f"{1000 * seconds:.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


HEADINGS = ("users", "backend", "req/s", "factor", "ideal", "p50 ms", "p95 ms", "p99 ms", "/health p99 ms", "errors")


def table(points: Sequence[Point]) -> str:
    """Show *points*, the two backends under each other for each number of users."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for point in points:
        times = None if point.backend == BEFORE else factor(points, point)
        rows.append(
            (
                str(point.users),
                point.backend,
                f"{point.throughput:.1f}",
                "" if times is None else f"x {times:.1f}",
                "" if math.isinf(point.ideal) else f"{point.ideal:.1f}",
                *(milliseconds(value) for value in (point.p50, point.p95, point.p99, point.health_p99)),
                str(point.errors),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    previous = ""
    for row in rows:
        if previous not in {"", row[0]}:
            lines.append("")
        shown = row if row[0] != previous else ("", *row[1:])
        previous = row[0]
        cells = [
            cell.ljust(width) if heading == "backend" else cell.rjust(width)
            for cell, width, heading in zip(shown, widths, HEADINGS, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def save(points: Sequence[Point], path: Path) -> None:
    """Write everything that was measured, and on what, as JSON."""
    document = {
        "machine": {
            "processors": os.cpu_count(),
            "system": platform.platform(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        },
        "pool_size": POOL_SIZE,
        "points": [
            {
                **asdict(point),
                "ideal": None if math.isinf(point.ideal) else point.ideal,
                "factor": factor(points, point),
            }
            for point in points
        ],
    }
    path.write_text(json.dumps(document, indent=1).replace("NaN", "null") + "\n", encoding="utf-8")
