"""Measures whether cancelled statements end in the server, behind a balancer that spreads connections over nodes.

Other clients come and go meanwhile, as they do: the node with the fewest connections is mostly not the one whose
statement is to be killed.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pymysql

from examples.cluster.galera import DATABASE, GaleraCluster, Node
from examples.cluster.haproxy import Balancer
from offload_db import OffloadPool

__all__ = ["Cancelled", "cancel_statements"]

# Seconds that the server would work on each, were it not killed: longer than the measurement.
LONG = 120
# Seconds that each may run before it is cancelled.
UNTIL_CANCELLED = 0.1
# Connections of other clients, and the seconds that they stay.
OTHERS = 24
STAY = 0.5
# Seconds after the last cancellation until those that still run are counted.
AFTERWARDS = 1.0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of the cancelled statements; durations are seconds."""

    statements: int
    still_running: int
    kills: int
    kills_failed: int
    lateness: Sequence[float]
    """How long after it was cancelled each caller was free again, ascending."""

    def __str__(self) -> str:
        middle, last = self.lateness[len(self.lateness) // 2], self.lateness[-1]
        return (
            f"{self.still_running} of {self.statements} cancelled statements still ran {AFTERWARDS:.0f} s later; "
            f"{self.kills} killed, {self.kills_failed} cut; "
            f"callers were free after {1000 * middle:.0f} ms (half of them), {1000 * last:.0f} ms (all)"
        )


def cancel_statements(
    cluster: GaleraCluster, balancer: Balancer, *, way: str, size: int, statements: int, users: int | None = None
) -> Cancelled:
    """Cancel *statements* while they run on a pool of *size* connections, and count those that run on.

    :param way: how the balancer spreads connections
    :param users: how many statements run at the same time; None means one on each connection
    """
    settings = balancer.endpoint(way).settings(DATABASE)
    pool = OffloadPool.create(min_size=size, max_size=size, autocommit=True, ssl_disabled=True, **settings)
    lateness: list[float] = []
    try:
        with _others(settings):
            anyio.run(_cancel, pool, users or size, statements, lateness)
        now = pool.statistics()
        time.sleep(AFTERWARDS)
        still_running = sum(map(_end_what_runs, cluster.nodes))
    finally:
        pool.close()
    return Cancelled(statements, still_running, now.kills, now.kills_failed, sorted(lateness))


async def _cancel(pool: OffloadPool, users: int, statements: int, lateness: list[float]) -> None:
    numbers = iter(range(statements))

    async def user() -> None:
        for _ in numbers:
            async with pool.acquire() as connection:  # the statement is certainly sent: it waits for no connection
                with anyio.move_on_after(UNTIL_CANCELLED) as scope:
                    await (await connection.cursor()).execute(f"SELECT SLEEP({LONG})")
                lateness.append(anyio.current_time() - scope.deadline)

    async with pool, anyio.create_task_group() as group:
        for _ in range(users):
            group.start_soon(user)


@contextmanager
def _others(settings: dict[str, Any]) -> Iterator[None]:
    """Let other clients come, those on one node leave, and the rest after them, in turn for each node."""
    over = threading.Event()

    def come_and_go() -> None:
        rounds = itertools.count()
        while not over.is_set():
            by_node: dict[int, list[Any]] = {}
            for _ in range(OTHERS):
                connection = pymysql.connect(**settings, ssl_disabled=True)
                with connection.cursor() as cursor:
                    cursor.execute("SELECT @@port")
                    ((node,),) = cursor.fetchall()
                by_node.setdefault(node, []).append(connection)
            first = next(rounds) % len(by_node)
            for node in sorted(by_node)[first:] + sorted(by_node)[:first]:
                for connection in by_node[node]:
                    connection.close()
                over.wait(STAY)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _end_what_runs(node: Node) -> int:
    """Kill the measurement's statements on a node, so that the next one counts its own, and return how many ran."""
    rows = node.execute(
        "SELECT id FROM information_schema.processlist"
        f" WHERE id <> CONNECTION_ID() AND command = 'Query' AND info LIKE '%SLEEP({LONG})%'"
    )
    for (number,) in rows:
        try:
            node.execute(f"KILL CONNECTION {number}")
        except pymysql.err.OperationalError:
            continue  # it has ended meanwhile
    return len(rows)
