"""Measure what injected faults cost, with many of each: ``python -m tests.benchmarks.faults``.

Prints one line for each figure; ends with status 1 if one is not what it must be. Takes some minutes. Uses the server
that MYSQL_HOST names, or a private one; the servers that are killed are always private.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio

from examples.support.mariadb import PrivateServer, server
from tests.conftest import MySQL
from tests.faults.checks import check
from tests.faults.storms import WAYS, cancel_at_random_points, cancel_near_the_end, the_general_way
from tests.faults.test_balancer import SIZE, cancel_many, collision
from tests.faults.test_server_death import CALLERS, survive
from tests.support import pool_of

LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

bad: list[str] = []


def report(name: str, text: str, *, good: bool) -> None:
    """Print a figure, and remember it if it is not what it must be."""
    print(f"{'ok ' if good else 'BAD'} {name}: {text}", flush=True)
    if not good:
        bad.append(name)


def run_on(loop: str, function: Callable[[], Any]) -> Any:
    backend, options = LOOPS[loop]
    return anyio.run(function, backend=backend, backend_options=options)


def random_cancellations(mysql: MySQL, loop: str, number: int) -> None:
    """Cancel at random points of every stage, by each way that the loop has."""
    ways = [way for way, backends in WAYS.items() if LOOPS[loop][0] in backends]
    stages: Counter[str] = Counter()
    errors = lost = left = halves = 0
    for way in ways:
        name = mysql.fresh_database()
        settings = mysql.settings(name)
        with mysql.connect() as plain, plain.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {name}.t (id INT, half INT, PRIMARY KEY (id, half))")
            with pool_of(4, settings, autocommit=False, max_age=0.3) as pool:
                # About half of the handlers are cancelled before their end, so twice as many are begun.
                begun = 0
                done = 0
                while done < number / len(ways):
                    storm = run_on(loop, lambda: cancel_at_random_points(pool, 200, way, first=begun))  # noqa: B023
                    begun += 200
                    done += storm.cancelled.total()
                    stages += storm.cancelled
                    errors += len(storm.errors)
                    cursor.execute(f"SELECT id, COUNT(*) FROM {name}.t WHERE id >= {begun - 200} GROUP BY id")
                    found = dict(cursor.fetchall())
                    halves += sum(rows != 2 for rows in found.values())
                    halves += len(storm.committed - set(found)) + len(storm.rolled_back & set(found))
                time.sleep(1)
                left += sum(process["COMMAND"] != "Sleep" for process in mysql.process_list(name))
                try:
                    check(pool, mysql, name)
                except AssertionError as error:
                    print(error)
                    lost += 1
        mysql.drop_database(name)
    report(
        f"cancellations at random points, {loop}",
        f"{stages.total()} cancelled ({', '.join(f'{stage} {n}' for stage, n in sorted(stages.items()))}) by "
        f"{', '.join(ways)}: {left} statements left after 1 s, {lost} pools with lost slots, "
        f"{halves} halves of transactions, {errors} errors",
        good=not (left or lost or halves or errors),
    )


def late_cancellations(mysql: MySQL, general: bool, number: int) -> None:
    """Cancel close to the natural end."""
    name = mysql.fresh_database()
    with the_general_way() if general else contextlib.nullcontext(), pool_of(8, mysql.settings(name)) as pool:
        fire = anyio.run(lambda: cancel_near_the_end(pool, number))
        now = pool.statistics()
    mysql.drop_database(name)
    report(
        f"cancelled close to the end, {'general way' if general else 'by query id'}",
        f"{fire.cancelled} cancelled, {fire.natural} ended by themselves, {now.kills} kills, {fire.early} in time: "
        f"{fire.innocent} innocent statements killed, {now.kills_failed} kills failed",
        good=not (fire.innocent or now.kills_failed),
    )


def colliding_ids(servers: tuple[MySQL, MySQL], general: bool, number: int) -> None:
    """Cancel behind a balancer whose two servers have sessions with the same ids."""
    with (
        the_general_way() if general else contextlib.nullcontext(),
        collision(servers) as (pool, proxy, victims, _),
    ):
        anyio.run(lambda: cancel_many(pool, number))
        now = pool.statistics()
        report(
            f"two servers, colliding ids, {'general way' if general else 'by query id'}",
            f"{number} cancelled, {now.kills} kills over {proxy.accepted - SIZE} connections: "
            f"{SIZE - victims.alive} wrong kills, {now.kills_failed} links cut",
            good=victims.alive == SIZE,
        )


def server_deaths(callers: str, times: int) -> None:
    """Kill the server with -9 under inserting callers."""
    with PrivateServer() as private:
        name = MySQL(private.endpoint).fresh_database()
        back, acknowledged, refused = survive(private, private.endpoint.settings(name), callers, times)
    report(
        f"server killed {times} times under {CALLERS} inserting {callers}",
        f"{acknowledged} acknowledged inserts are there once, {refused} that certainly did not run are not; back "
        f"{', '.join(f'{seconds:.2f}' for seconds in back)} s after the server",
        good=max(back) < 2,
    )


def main() -> int:
    """Measure everything."""
    with server() as endpoint:
        mysql = MySQL(endpoint)
        for loop in LOOPS:
            if loop != "asyncio" and importlib.util.find_spec(loop) is None:
                print(f"--  {loop} is not installed")
                continue
            random_cancellations(mysql, loop, 1000)
        for general in (False, True):
            late_cancellations(mysql, general, 2000)
    with PrivateServer() as first, PrivateServer() as second:
        for general in (False, True):
            colliding_ids((MySQL(first.endpoint), MySQL(second.endpoint)), general, 500)
    for callers in ("tasks", "threads"):
        server_deaths(callers, 5)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
