"""Measures what a small query costs beside peers: ``python -m tests.benchmarks.point [--rounds 20]``.

Twenty users ask for rows of 23 columns by key, over pools of twenty connections, in one process. All contestants take
turns in blocks of a fraction of a second, in an order that is random in each round, so that a machine that gets slower
or faster meanwhile does the same to each. Prints the median of the blocks: queries per second, processor time of the
whole process for a query, and both beside the contestant that each is compared with. Peers that are not installed are
left out: ``pip install aiomysql asyncmy cymysql mysql-connector-python mysqlclient`` brings them. Uses the database
server that MYSQL_HOST names, or a private one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import statistics
import time
from typing import Any, NamedTuple

from examples.support.mariadb import server
from tests.conftest import MySQL

from .peers import contestants as peers
from .peers.workloads import KEYS, POINT, TABLES

USERS = SIZE = 20
SECONDS = 0.25

# Who is compared with whom.
Kind = type[peers.Contestant]
BESIDE: dict[Kind, Kind] = {
    peers.Handler: peers.Aiomysql,
    peers.Awaitable: peers.Aiomysql,
    peers.Threaded: peers.DefHandler,
    peers.HandlerMysqlclient: peers.MysqlclientDef,
    peers.Asyncmy: peers.Aiomysql,
    peers.CymysqlAio: peers.Aiomysql,
    peers.ConnectorAio: peers.Aiomysql,
}
ALL: tuple[Kind, ...] = tuple(dict.fromkeys((peers.Blocking, *BESIDE.values(), *BESIDE)))


class Block(NamedTuple):
    """What one contestant did in one block."""

    per_second: float
    processor: float
    """Seconds of processor time for each query."""


async def block(contestant: peers.Contestant) -> Block:
    """Let the users ask for a fraction of a second."""
    gc.collect()
    asked = 0
    began, processor = time.perf_counter(), time.process_time()
    ends = began + SECONDS

    async def user(number: int) -> None:
        nonlocal asked
        key = number
        while time.perf_counter() < ends:
            key = (key + USERS) % KEYS
            row = await contestant.one(POINT, (key + 1,))
            assert row[0] == key + 1
            asked += 1

    await asyncio.gather(*(user(number) for number in range(USERS)))
    taken, processor = time.perf_counter() - began, time.process_time() - processor
    return Block(asked / taken, processor / asked)


async def measure(settings: dict[str, Any], rounds: int) -> dict[Kind, Block]:
    """Return the medians of each contestant that is installed."""
    opened: list[peers.Contestant] = []
    for kind in ALL:
        contestant = kind()
        with contextlib.suppress(peers.Missing):
            await contestant.open(settings, SIZE)
            opened.append(contestant)
    for contestant in opened:
        await block(contestant)
    blocks: dict[Kind, list[Block]] = {type(contestant): [] for contestant in opened}
    for _ in range(rounds):
        random.shuffle(opened)
        for contestant in opened:
            blocks[type(contestant)].append(await block(contestant))
    for contestant in opened:
        await contestant.close()
    return {
        kind: Block(*(statistics.median(figures) for figures in zip(*done, strict=True)))
        for kind, done in blocks.items()
    }


def report(medians: dict[Kind, Block]) -> None:
    """Print the medians, and what they are beside those they are compared with."""
    print(f"{'':36} {'queries/s':>10} {'CPU µs':>7}   beside")
    for kind in ALL:
        if kind not in medians:
            print(f"{kind.name:36} not installed")
            continue
        own = medians[kind]
        line = f"{kind.name:36} {own.per_second:10.0f} {own.processor * 1e6:7.0f}"
        other = BESIDE.get(kind)
        if other in medians:
            theirs = medians[other]
            line += (
                f"   {other.name}: {own.per_second / theirs.per_second:.2f} of its queries/s, "
                f"{own.processor / theirs.processor:.2f} of its CPU"
            )
        print(line)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="Measure what a small query costs beside peers.")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each contestant")
    arguments = parser.parse_args()
    with server() as endpoint:
        mysql = MySQL(endpoint)
        name = mysql.fresh_database()
        settings = {**mysql.settings(name), "autocommit": True, "ssl_disabled": True}
        with mysql.connect(database=name) as connection, connection.cursor() as cursor:
            for statement in TABLES[:2]:
                cursor.execute(statement)
        try:
            report(asyncio.run(measure(settings, arguments.rounds)))
        finally:
            mysql.drop_database(name)


if __name__ == "__main__":
    main()
