"""Measure offload_db beside its peers: ``python -m tests.benchmarks.peers [--quick]``.

All contestants take turns within each round on one asyncio loop, and over HTTP on one server, so that a machine that
gets slower or faster meanwhile does the same to each. Prints medians, then the goals, and draws a picture. Peers that
are not installed are left out: ``pip install aiomysql asyncmy mysqlclient sqlalchemy fastapi uvicorn`` brings them.
Uses the database server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from examples.support.mariadb import server
from tests.conftest import MySQL

from .contestants import (
    ALL,
    Aiomysql,
    Asyncmy,
    Awaitable,
    Blocking,
    Contestant,
    Handler,
    HandlerMysqlclient,
    Missing,
    ThreadPerCall as PerCall,
)
from .over_http import measure as measure_over_http
from .workloads import SECONDS, TABLES, WORKLOADS, Figures, Title, Workload, bridge

OVER_HTTP = Title("10 users x 80 ms over HTTP", "requests/s", more_is_better=True)
TITLES = (OVER_HTTP, *(title for workload in WORKLOADS for title in workload.titles))
DRAWN = 8

Results = dict[str, dict[str, float]]
"""The median by figure and contestant."""


async def measure(workload: Workload, settings: dict[str, Any], *, quick: bool) -> Results:
    """Let all contestants take turns at one workload; return the medians of each."""
    contestants: list[Contestant] = []
    for kind in ALL:
        contestant = kind()
        with contextlib.suppress(Missing):
            await contestant.open(settings, workload.size)
            contestants.append(contestant)
    taken: dict[str, list[Figures]] = {contestant.name: [] for contestant in contestants}
    try:
        for contestant in contestants:  # connections are opened, threads started, statements known
            await asyncio.gather(*(contestant.one("SELECT 1") for _ in range(workload.size)))
        for _ in range(1 if quick else workload.rounds):
            for contestant in contestants:
                if (figures := await workload.run(contestant, quick)) is not None:
                    taken[contestant.name].append(figures)
    finally:
        for contestant in contestants:
            await contestant.close()
    return {
        title.name: {
            name: statistics.median(each[number] for each in rounds) for name, rounds in taken.items() if rounds
        }
        for number, title in enumerate(workload.titles)
    }


async def measure_all(settings: dict[str, Any], *, quick: bool) -> Results:
    """Measure every workload, and print each as it is done."""
    results: Results = {OVER_HTTP.name: await measure_over_http(settings, quick=quick)}
    show(OVER_HTTP, results)
    for workload in WORKLOADS:
        results |= await measure(workload, settings, quick=quick)
        for title in workload.titles:
            show(title, results)
    contestant = Handler()
    await contestant.open(settings, 1)
    request, each, hops = await bridge(contestant, quick)
    await contestant.close()
    print(f"the bridge: {request:.0f} µs a request, {each:.1f} µs an await; {hops:.2f} trips a query")
    results["bridge"] = {"request": request}
    return results


def show(title: Title, results: Results) -> None:
    """Print what a workload gave, the best first."""
    name, unit, more = title
    print(f"{name} ({unit}, {'more' if more else 'less'} is better)")
    for contestant, figure in sorted(results[name].items(), key=lambda item: item[1], reverse=more):
        print(f"  {contestant:<36} {figure:10.{2 if figure < 100 else 0}f}", flush=True)


def goals(results: Results) -> list[tuple[str, float, float, bool]]:
    """Return each goal with what was reached, the goal, and whether more is better; those that can be told."""

    def ratio(workload: str, ours: type[Contestant], theirs: type[Contestant]) -> float | None:
        figures = results[workload]
        if ours.name not in figures or theirs.name not in figures:
            return None
        return figures[ours.name] / figures[theirs.name]

    point, rows, worst = "point selects, 23 columns", "100,000 rows", "4 x 100,000 rows: worst lag"
    told: list[tuple[str, float | None, float, bool]] = [
        ("10 users x 80 ms over HTTP, of the ideal", results[OVER_HTTP.name][Handler.name] * SECONDS / 10, 0.97, True),
        ("10 users x 80 ms, of the ideal", results["10 users x 80 ms"][Handler.name] * SECONDS / 10, 0.97, True),
        (
            "100 at once, to the ideal",
            results["100 at once, 20 connections"][Handler.name] / (5 * SECONDS),
            1.08,
            False,
        ),
        ("point selects, to aiomysql", ratio(point, Handler, Aiomysql), 1.3, True),
        ("point selects awaited, to aiomysql", ratio(point, Awaitable, Aiomysql), 1.3, True),
        ("point selects, to a thread per driver call", ratio(point, Handler, PerCall), 3, True),
        ("point selects on mysqlclient, to aiomysql", ratio(point, HandlerMysqlclient, Aiomysql), 1.8, True),
        ("100,000 rows, to the blocking original", ratio(rows, Handler, Blocking), 0.6, False),
        ("worst stall, to aiomysql", ratio(worst, Handler, Aiomysql), 0.25, False),
        ("worst stall, to asyncmy", ratio(worst, Handler, Asyncmy), 1.0, False),
        ("p99 lag under 4 x 100,000 rows, ms", results["4 x 100,000 rows: p99 lag"][Handler.name], 10, False),
        (
            "10,000 callers, to 100",
            results["10,000 callers"][Handler.name] / results["100 callers"][Handler.name],
            1.2,
            False,
        ),
        ("the bridge, µs a request", results["bridge"]["request"], 25, False),
    ]
    return [(name, reached, goal, more) for name, reached, goal, more in told if reached is not None]


def draw(results: Results, path: Path) -> None:
    """Draw the workloads side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, plots = plt.subplots(2, DRAWN // 2, figsize=(20, 9), layout="constrained")
    for (name, unit, more), plot in zip(TITLES[:DRAWN], plots.flat, strict=True):
        figures = results[name]
        names = sorted(figures, key=figures.__getitem__, reverse=not more)
        colors = ["tab:orange" if name.startswith("offload_db") else "tab:gray" for name in names]
        bars = plot.barh(names, [figures[name] for name in names], color=colors)
        plot.bar_label(bars, fmt="%.4g", padding=2)
        plot.margins(x=0.2)
        plot.set_title(f"{name}\n{unit}, {'more' if more else 'less'} is better", fontsize=10)
        plot.tick_params(labelsize=8)
    figure.suptitle("offload_db beside its peers: medians of one run")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Read the arguments, measure, and show."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of each, in under a minute; less certain")
    default = Path(tempfile.gettempdir()) / "offload_db_peers.png"
    parser.add_argument("--picture", type=Path, default=default, help=f"where to draw (default: {default})")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the peers'
    print(f"PyMySQL {version('pymysql')}, anyio {version('anyio')}, asyncio's own loop")
    with server() as endpoint:
        mysql = MySQL(endpoint)
        name = mysql.fresh_database()
        with mysql.connect(database=name) as connection, connection.cursor() as cursor:
            for statement in TABLES:
                cursor.execute(statement)
        settings = {**mysql.settings(name), "autocommit": True, "ssl_disabled": True}
        results = asyncio.run(measure_all(settings, quick=arguments.quick))
        mysql.drop_database(name)
    print("\ngoals")
    for what, reached, goal, more in goals(results):
        met = reached >= goal if more else reached <= goal
        print(
            f"  {'met   ' if met else 'missed'} {what:<44} {reached:8.2f}  ({'at least' if more else 'at most'} {goal})"
        )
    draw(results, arguments.picture)
    print(f"\nthe picture: {arguments.picture}")


if __name__ == "__main__":
    main()
