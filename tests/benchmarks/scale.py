"""Measure how cost grows with callers, connections, rows and columns: ``python -m tests.benchmarks.scale [--quick]``.

Prints one table for each, and draws them. Uses the server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pymysql

import offload_db
from examples.support.mariadb import server
from tests.conftest import MySQL

SLOW = 0.02
Curve = list[tuple[int, float]]


def handler(pool: offload_db.OffloadPool) -> Callable[[str], Awaitable[Any]]:
    """Make a decorated handler that runs one statement."""

    @offload_db.offload
    async def run(sql: str) -> Any:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    return run


async def rate(run: Callable[[str], Awaitable[Any]], sql: str, callers: int, total: int) -> float:
    """Let *callers* run *total* statements between them; statements per second."""
    numbers = iter(range(total))

    async def caller() -> None:
        for _ in numbers:
            await run(sql)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return total / (time.perf_counter() - began)


async def median(measure: Callable[[], Awaitable[float]], rounds: int) -> float:
    """Return the median of some rounds."""
    return statistics.median([await measure() for _ in range(rounds)])


async def by_callers(settings: dict[str, Any], rounds: int) -> Curve:
    """Measure callers at once on 20 connections, statements without a delay: statements per second."""
    async with offload_db.OffloadPool.create(pymysql, max_size=20, **settings) as pool:
        run = handler(pool)
        await rate(run, "SELECT 1", 20, 100)
        return [
            (callers, await median(lambda: rate(run, "SELECT 1", callers, max(500, callers)), rounds))  # noqa: B023
            for callers in (1, 2, 5, 10, 20, 50, 100, 1000)
        ]


async def by_connections(settings: dict[str, Any], rounds: int) -> Curve:
    """Measure connections with as many callers, statements of 20 ms: the part of what they could do at best."""
    curve: Curve = []
    for size in (1, 5, 10, 20, 40, 80, 160):
        async with offload_db.OffloadPool.create(pymysql, max_size=size, **settings) as pool:
            run = handler(pool)
            await rate(run, "SELECT 1", size, size)
            reached = await median(lambda: rate(run, f"SELECT SLEEP({SLOW})", size, 20 * size), rounds)  # noqa: B023
            curve.append((size, reached / (size / SLOW)))
    return curve


async def by_rows(settings: dict[str, Any], rounds: int) -> Curve:
    """Measure rows of six columns in one answer: µs per row."""
    columns = "seq, seq + 1, CONCAT('FL-', seq), seq / 7, NOW(), NULL"
    return await _per_item(
        settings, rounds, {rows: (f"SELECT {columns} FROM mysql.seq_1_to_{rows}", rows) for rows in _TENS}
    )


async def by_columns(settings: dict[str, Any], rounds: int) -> Curve:
    """Measure columns of one row: µs per statement."""
    return await _per_item(
        settings,
        rounds,
        {n: ("SELECT " + ", ".join(f"{k} AS c{k}" for k in range(n)), 1) for n in (1, 10, 25, 100, 400)},
    )


_TENS = (1, 10, 100, 1000, 10_000, 100_000)


async def _per_item(settings: dict[str, Any], rounds: int, statements: dict[int, tuple[str, int]]) -> Curve:
    curve: Curve = []
    async with offload_db.OffloadPool.create(pymysql, max_size=1, **settings) as pool:
        run = handler(pool)
        for number, (sql, items) in statements.items():
            times = max(1, min(200, 20_000 // items))
            await run(sql)
            each = await median(lambda: rate(run, sql, 1, times), rounds)  # noqa: B023
            curve.append((number, 1e6 / each / items))
    return curve


CURVES: dict[str, tuple[Callable[[dict[str, Any], int], Awaitable[Curve]], str]] = {
    "callers": (by_callers, "statements/s"),
    "connections": (by_connections, "of the best possible"),
    "rows": (by_rows, "µs per row"),
    "columns": (by_columns, "µs per statement"),
}


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw the curves side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(1, len(curves), figsize=(4 * len(curves), 4), layout="constrained")
    for (name, curve), plot in zip(curves.items(), plots, strict=True):
        plot.plot(*zip(*curve, strict=True), marker="o")
        plot.set_xscale("log")
        plot.set_ylim(bottom=0)
        plot.set_xlabel(name)
        plot.set_title((CURVES[name][0].__doc__ or "").removeprefix("Measure ").replace(": ", ":\n"), fontsize=8)
    figure.savefig(path, dpi=110)


async def measure_all(settings: dict[str, Any], rounds: int) -> dict[str, Curve]:
    """Measure all curves, and print each as it is done."""
    curves: dict[str, Curve] = {}
    for name, (measure, unit) in CURVES.items():
        curves[name] = await measure(settings, rounds)
        print((measure.__doc__ or "").removeprefix("Measure "))
        for number, figure in curves[name]:
            print(f"  {number:>8,} {name:<12} {figure:10.{2 if figure < 100 else 0}f} {unit}", flush=True)
    return curves


def main() -> None:
    """Read the arguments, measure, and show."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each; less certain")
    default = Path(tempfile.gettempdir()) / "offload_db_scale.png"
    parser.add_argument("--picture", type=Path, default=default, help=f"where to draw (default: {default})")
    arguments = parser.parse_args()
    with server() as endpoint:
        settings = {**MySQL(endpoint).settings(), "autocommit": True, "ssl_disabled": True}
        curves = asyncio.run(measure_all(settings, 1 if arguments.quick else 5))
    draw(curves, arguments.picture)
    print(f"the picture: {arguments.picture}")


if __name__ == "__main__":
    main()
