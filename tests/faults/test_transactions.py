"""A transaction that is interrupted is there as a whole or not at all, and its row locks go with it."""

from __future__ import annotations

import gc
from typing import Any, Literal

import anyio
import pymysql
import pytest

from offload_db import ConnectionLost, offload
from tests.conftest import MySQL
from tests.support import pool_of, until

from .checks import check, checked
from .proxy import Proxy

STATEMENTS = ["INSERT INTO t VALUES (1, 1)", "UPDATE t SET n = n + 1", "INSERT INTO t VALUES (2, 2)", "COMMIT"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("boundary", range(len(STATEMENTS)))
def test_a_transaction_cut_at_every_boundary(
    *, boundary: int, when: Literal["before", "after"], proxy: Proxy, through: dict[str, Any], table: Any, mysql: MySQL
) -> None:
    """A transaction whose link breaks is there as a whole or not at all, and only a commit's outcome is unknown."""
    with pool_of(1, through, autocommit=False) as pool:
        raised: list[tuple[int, ConnectionLost]] = []
        with pool.connection() as connection, connection.cursor() as cursor:
            proxy.trap(STATEMENTS[boundary].encode(), when)
            done = 0
            try:
                for statement in STATEMENTS:
                    if statement == "COMMIT":
                        connection.commit()
                    else:
                        cursor.execute(statement)
                    done += 1
            except ConnectionLost as error:
                raised.append((done, error))
                # Nothing can be added to half a transaction.
                with pytest.raises(pymysql.err.InterfaceError):
                    cursor.execute("INSERT INTO t VALUES (3, 3)")
                with pytest.raises(pymysql.err.InterfaceError):
                    connection.commit()
        assert [done for done, _ in raised] == [boundary]
        until(lambda: not [p for p in mysql.process_list(through["database"]) if p["COMMAND"] != "Sleep"])
        committed = STATEMENTS[boundary] == "COMMIT" and when == "after"
        assert table("COUNT(*)") == (2 if committed else 0)
        assert table("COALESCE(SUM(n), 0)") == (4 if committed else 0)
        assert raised[0][1].may_have_run or not committed
        check(pool, mysql, through["database"])


@pytest.mark.parametrize("boundary", range(len(STATEMENTS)))
@pytest.mark.anyio
async def test_a_transaction_cancelled_at_every_boundary(
    boundary: int, database: dict[str, Any], table: Any, mysql: MySQL
) -> None:
    """A transaction cancelled between any two statements, or in its commit, is there as a whole or not at all."""
    with pool_of(1, database, autocommit=False) as pool:
        committed = []

        @offload
        async def handler(scope: anyio.CancelScope) -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                for number, statement in enumerate(STATEMENTS):
                    if number == boundary:
                        scope.cancel()
                    if statement == "COMMIT":
                        connection.commit()
                    else:
                        cursor.execute(statement)
                committed.append(True)

        with anyio.CancelScope() as scope:
            await handler(scope)
        assert committed == []  # the cancellation is raised at the call
        assert table("COUNT(*)") in ((0, 2) if boundary == len(STATEMENTS) - 1 else (0,))
        await checked(pool, mysql, database["database"])


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("end", ["close", "drop", "cancel", "timeout", "error"])
@pytest.mark.anyio
async def test_row_locks_never_survive_a_checkin(
    autocommit: bool, end: str, database: dict[str, Any], table: Any, mysql: MySQL
) -> None:
    """However a connection with row locks comes back, the next caller and everybody else find the rows free."""
    name = database["database"]
    with mysql.connect() as plain, pool_of(1, database, autocommit=autocommit) as pool:
        plain.cursor().execute(f"INSERT INTO {name}.t VALUES (1, 0)")
        plain.cursor().execute("SET innodb_lock_wait_timeout = 1")

        @offload
        async def handler() -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            if autocommit:
                connection.begin()
            cursor.execute("SELECT * FROM t WHERE id = 1 FOR UPDATE")
            assert cursor.fetchall() == ((1, 0),)
            if end == "drop":
                return
            try:
                if end in ("cancel", "timeout"):
                    cursor.execute("SELECT SLEEP(50)")
                if end == "error":
                    raise LookupError
            finally:
                connection.close()

        if end == "timeout":
            with pytest.raises(TimeoutError):
                await offload(timeout=0.2)(handler)()
        elif end == "error":
            with pytest.raises(LookupError):
                await handler()
        else:
            with anyio.move_on_after(0.2):
                await handler()
        gc.collect()
        until(lambda: pool.statistics().in_use == 0)

        def free() -> bool:
            try:
                return bool(plain.cursor().execute(f"UPDATE {name}.t SET n = n + 1") == 1)
            except pymysql.err.OperationalError:
                return False

        if end == "drop":
            until(free)  # the server rolls back when it sees the closed link
        else:
            assert free()
        await checked(pool, mysql, name)
