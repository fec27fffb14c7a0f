"""What a pool does behind a balancer while all nodes are well."""

from __future__ import annotations

import anyio
import pytest

from examples.cluster.cancelled_statements import cancel_statements
from examples.cluster.galera import DATABASE, GaleraCluster
from examples.cluster.haproxy import Balancer
from offload_db import AsyncConnection, OffloadPool
from tests.support import pool_of, value

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.mark.parametrize("way", ["roundrobin", "leastconn"])
def test_cancelled_statements_end_in_the_node(way: str, cluster: GaleraCluster, balancer: Balancer) -> None:
    """Of many cancelled statements none runs on in any node, whichever the kill's own connection leads to first."""
    found = cancel_statements(cluster, balancer, way=way, size=10, statements=60)
    assert (found.still_running, found.kills_failed) == (0, 0)
    assert found.kills >= 50


def test_conflicts_are_tried_again(cluster: GaleraCluster, balancer: Balancer) -> None:
    """Transactions of several nodes that meet in a row: run_transaction does each of them once in the end."""
    cluster.nodes[0].execute(f"CREATE OR REPLACE TABLE {DATABASE}.counters (id INT PRIMARY KEY, n INT) ENGINE=InnoDB")
    cluster.nodes[0].execute(f"INSERT INTO {DATABASE}.counters VALUES (1, 0)")
    tries = 0

    async def count_on(connection: AsyncConnection) -> None:
        nonlocal tries
        tries += 1
        cursor = await connection.cursor()
        await cursor.execute("SELECT n FROM counters WHERE id = 1")
        await cursor.execute("UPDATE counters SET n = n + 1 WHERE id = 1")

    async def user(pool: OffloadPool) -> None:
        for _ in range(5):
            await pool.run_transaction(count_on, attempts=100)

    async def users(pool: OffloadPool) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(6):
                group.start_soon(user, pool)

    with pool_of(6, balancer.endpoint("roundrobin").settings(DATABASE)) as pool:
        anyio.run(users, pool)
        assert pool.statistics().in_use == 0
    for node in cluster.nodes:
        assert node.execute(f"SELECT n FROM {DATABASE}.counters", first="SET wsrep_sync_wait = 1") == ((30,),)
    assert tries > 30


def test_what_one_has_written_another_reads(cluster: GaleraCluster, balancer: Balancer) -> None:
    """With wsrep_sync_wait, what one request has written the next one reads, whichever nodes they meet."""
    cluster.nodes[0].execute(f"CREATE OR REPLACE TABLE {DATABASE}.notes (n INT PRIMARY KEY) ENGINE=InnoDB")
    settings = balancer.endpoint("roundrobin").settings(DATABASE)
    with pool_of(3, settings, init_command="SET SESSION wsrep_sync_wait = 1") as pool:
        connections = [pool.connection() for _ in range(3)]
        assert len({value(connection, "SELECT @@port") for connection in connections}) == 3
        for number in range(30):
            writer, reader = connections[number % 3], connections[(number + 1) % 3]
            value(writer, "INSERT INTO notes VALUES (%s)", number)
            assert value(reader, "SELECT COUNT(*) FROM notes") == number + 1
        for connection in connections:
            connection.close()
