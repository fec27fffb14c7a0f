"""Owns the claim that handlers which are not decorated yet survive beside decorated ones under load."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest
from dbutils.pooled_db import PooledDB

import offload_db
from offload_db.pool import admission_queue
from tests.support import settled

pytestmark = pytest.mark.anyio


def make_pool(database: dict[str, Any], size: int) -> offload_db.OffloadPool:
    dbutils = PooledDB(pymysql, maxconnections=size, blocking=True, autocommit=True, ssl_disabled=True, **database)
    return offload_db.OffloadPool(dbutils, on_loop_call="allow")


def query(pool: offload_db.OffloadPool) -> Any:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()


async def test_after_one_refusal_an_undecorated_handler_finds_a_connection_under_full_load(
    database: dict[str, Any],
) -> None:
    """Decorated handlers that saturate the pool cost the undecorated ones one error, not all their requests."""
    pool = make_pool(database, size=2)
    both_hold, go_on, finished = anyio.Event(), anyio.Event(), False
    holding = 0

    @offload_db.offload
    async def hold() -> None:
        nonlocal holding
        with pool.connection():
            holding += 1
            if holding == 2:
                both_hold.set()
            await go_on.wait()

    @offload_db.offload
    async def user() -> None:
        while not finished:
            query(pool)

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        group.start_soon(hold)
        await both_hold.wait()
        with pytest.raises(offload_db.CheckoutTimeout, match=r"put @offload_db\.offload on the handler"):
            query(pool)
        for _ in range(6):
            group.start_soon(user)
        await anyio.wait_all_tasks_blocked()
        go_on.set()
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
            # Once its kept connection is there, the loop's thread is never refused again.
            if pool.statistics().in_use < 2:
                break
            await anyio.sleep(0.01)
        for _ in range(200):
            assert query(pool) == (1,)
            await anyio.lowlevel.checkpoint()
        finished = True
    pool.close()


@pytest.mark.parametrize("waiting", [False, True])
async def test_what_idle_threads_hold_cannot_be_waited_for_on_the_loop(waiting: bool, database: dict[str, Any]) -> None:
    """Connections of generator dependencies come back through the loop: its thread does not stand still for them.

    The threads that took them rest, or one of them waits for another request's connection.
    """
    pool = make_pool(database, size=2)

    def dependency() -> Any:
        with pool.connection() as connection:
            yield connection

    dependencies = [contextmanager(dependency)() for _ in range(3)]
    for each in dependencies[:2]:
        await anyio.to_thread.run_sync(each.__enter__)
    async with anyio.create_task_group() as group:
        if waiting:
            group.start_soon(anyio.to_thread.run_sync, dependencies[2].__enter__)
            await settled(lambda: pool.statistics().waiting)
        else:
            del dependencies[2]
        started = time.monotonic()
        with pytest.raises(offload_db.CheckoutTimeout, match=r"put @offload_db\.offload on the handler"):
            query(pool)
        assert time.monotonic() - started < 10  # of the 30 s of the checkout_timeout
        for each in dependencies[:2]:
            await anyio.to_thread.run_sync(each.__exit__, None, None, None)
    for each in dependencies[2:]:
        await anyio.to_thread.run_sync(each.__exit__, None, None, None)
    assert query(pool) == (1,)
    pool.close()


async def test_what_a_busy_thread_holds_is_waited_for_on_the_loop(database: dict[str, Any]) -> None:
    """A thread that works on gives its connection back by itself, however long that takes."""
    pool = make_pool(database, size=1)
    taken = threading.Event()

    def work() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            taken.set()
            cursor.execute("SELECT SLEEP(0.5)")

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.to_thread.run_sync, work)
        await settled(taken.is_set)
        assert query(pool) == (1,)
    pool.close()


async def test_the_kept_connection_is_given_to_others_when_nobody_asks_for_it(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal long ago does not make the pool smaller, even where no connection comes back meanwhile."""
    monkeypatch.setattr(admission_queue, "KEEP_SECONDS", 0.2)
    pool = make_pool(database, size=2)
    both_hold = anyio.Event()
    holding = 0

    @offload_db.offload
    async def fill_and_refuse() -> None:
        done = anyio.Event()

        async def unbridged() -> None:
            with pytest.raises(offload_db.CheckoutTimeout):
                query(pool)
            done.set()

        with pool.connection(), pool.connection():
            async with anyio.create_task_group() as group:
                group.start_soon(unbridged)
                await done.wait()

    @offload_db.offload
    async def hold() -> None:
        nonlocal holding
        with pool.connection():
            holding += 1
            if holding == 2:
                both_hold.set()
            await both_hold.wait()

    await fill_and_refuse()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(hold)
            group.start_soon(hold)
    assert pool.statistics().checkouts == 4
    pool.close()


async def test_the_kept_connection_is_given_to_others_before_they_wait_for_each_other(
    database: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that hold all connections but the kept one, and each want one more, get it, and so do those before them."""
    monkeypatch.setattr(admission_queue, "KEEP_SECONDS", 60.0)
    pool = make_pool(database, size=3)
    both_hold, queued, done = anyio.Event(), anyio.Event(), anyio.Event()
    holding = 0
    order: list[str] = []

    async def unbridged() -> None:
        with pytest.raises(offload_db.CheckoutTimeout):
            query(pool)
        done.set()

    @offload_db.offload
    async def fill_and_refuse() -> None:
        with pool.connection(), pool.connection(), pool.connection():
            async with anyio.create_task_group() as group:
                group.start_soon(unbridged)
                await done.wait()

    @offload_db.offload
    async def nested() -> None:
        nonlocal holding
        with pool.connection():
            holding += 1
            if holding == 2:
                both_hold.set()
            await queued.wait()
            with pool.connection():
                order.append("nested")

    @offload_db.offload
    async def plain() -> None:
        with pool.connection():
            order.append("plain")

    await fill_and_refuse()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(nested)
            group.start_soon(nested)
            await both_hold.wait()
            group.start_soon(plain)
            await settled(lambda: pool.statistics().waiting)
            queued.set()
    assert order == ["plain", "nested", "nested"]
    pool.close()
