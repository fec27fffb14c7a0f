"""Claims about where a synchronous call can be made from, and what a driver call does there."""

from __future__ import annotations

import asyncio
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import greenback
import pytest

import offload_db
from offload_db import BlockingCallError, BlockingCallWarning, OffloadPool, blocking, offload
from offload_db.bridge.place import Place, current_task, place
from tests.conftest import needs
from tests.inside import warn_again
from tests.support import PATIENCE, RecordingCursor, in_thread, pool_of, settled, value

pytestmark = pytest.mark.anyio


@offload
async def bridged(function: Callable[[], Any]) -> Any:
    """Call *function* as plain code of a bridged handler."""
    return function()


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    with pool_of(3, database) as pool:
        yield pool


def only_asyncio(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has this")


def statement_thread(pool: OffloadPool) -> int:
    """Run a statement as legacy code does, and return the thread that sent it."""
    connection = pool.connection()
    cursor = connection.cursor(RecordingCursor)
    try:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
        thread: int = cursor.threads[0]
        return thread
    finally:
        cursor.close()
        connection.close()


# Where am I?


async def test_place_of_a_task() -> None:
    """Code of a task is bridged exactly while a decorated call runs."""
    assert place() is Place.LOOP
    assert await bridged(place) is Place.BRIDGED
    assert place() is Place.LOOP


async def test_place_of_a_worker_thread() -> None:
    """A worker thread is off the loop, also one that a bridged call started."""
    assert await anyio.to_thread.run_sync(place) is Place.THREAD

    @offload
    async def handler() -> Place:
        return await anyio.to_thread.run_sync(place)

    assert await handler() is Place.THREAD
    assert await bridged(blocking(place)) is Place.THREAD


def test_place_of_a_script() -> None:
    """Where no loop runs nothing is bridged, in the main thread as in others."""
    assert place() is Place.THREAD
    assert in_thread(place).result(PATIENCE) is Place.THREAD


def test_place_while_another_thread_imports_trio(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script's thread is just that, also at a moment at which there is no more of trio than its name."""
    monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
    assert place() is Place.THREAD


async def test_a_call_back_into_the_loop(anyio_backend_name: str) -> None:
    """What a worker of a bridged call runs on the loop's thread suspends exactly where that is the call's own task."""
    here = threading.get_ident()
    hopping = blocking(threading.get_ident)

    def look() -> tuple[Place, bool]:
        return place(), hopping() != here

    async def look_in_task() -> tuple[Place, bool]:
        return look()

    def work() -> list[tuple[Place, bool]]:
        return [anyio.from_thread.run(look_in_task), anyio.from_thread.run_sync(look)]

    @offload
    async def handler() -> list[tuple[Place, bool]]:
        return await anyio.to_thread.run_sync(work)

    places = await handler()
    assert all((where is Place.BRIDGED) == hopped for where, hopped in places)
    if anyio_backend_name == "asyncio":  # trio sends such a call to the task that waits for the thread
        assert places == [(Place.LOOP, False)] * 2


async def test_child_tasks_are_not_bridged() -> None:
    """A task that a bridged call starts is not bridged, and the call still is."""
    places: list[Place] = []

    async def child() -> None:
        places.append(place())

    @offload
    async def handler() -> Place:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        return place()

    assert await handler() is Place.BRIDGED
    assert places == [Place.LOOP]


async def test_asyncio_children_are_not_bridged(anyio_backend_name: str) -> None:
    """The same with gather and create_task."""
    only_asyncio(anyio_backend_name)

    async def child() -> Place:
        return place()

    @offload
    async def handler() -> list[Place]:
        return [*await asyncio.gather(child(), child()), await asyncio.create_task(child()), await child()]

    assert await handler() == [Place.LOOP, Place.LOOP, Place.LOOP, Place.BRIDGED]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_are_not_bridged(anyio_backend_name: str) -> None:
    """A task that starts at once, inside the bridged code that creates it, is not bridged all the same."""
    only_asyncio(anyio_backend_name)
    if sys.version_info >= (3, 12):
        loop = asyncio.get_running_loop()

        async def child() -> Place:
            return place()

        @offload
        async def handler() -> tuple[Place, Place]:
            task: asyncio.Task[Place] = asyncio.Task(child(), loop=loop, eager_start=True)
            return await task, place()

        assert await handler() == (Place.LOOP, Place.BRIDGED)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_that_are_bridged_themselves(pool: OffloadPool, anyio_backend_name: str) -> None:
    """Tasks that start at once inside a bridged call, and outlive it or not, have bridges of their own."""
    only_asyncio(anyio_backend_name)
    if sys.version_info >= (3, 12):
        loop = asyncio.get_running_loop()

        @offload
        async def child() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 1")

        async def awaitable() -> Any:
            return await pool.fetch_value("SELECT 1")

        @offload
        async def handler(parents_end: bool) -> list[asyncio.Task[Any]]:
            tasks = [asyncio.Task(make(), loop=loop, eager_start=True) for make in (child, awaitable)]
            if not parents_end:
                assert [await task for task in tasks] == [1, 1]
            assert await child() == 1
            return tasks

        with anyio.fail_after(PATIENCE):
            for parents_end in (False, True):
                assert [await task for task in await handler(parents_end)] == [1, 1]
        assert pool.statistics().blocking_calls == 0


async def test_callbacks_are_not_bridged(anyio_backend_name: str) -> None:
    """A callback that a bridged call schedules runs on the loop's thread outside of any task."""
    found: list[tuple[Place, object]] = []
    called = anyio.Event()

    def callback() -> None:
        found.append((place(), current_task()))
        called.set()

    @offload
    async def handler() -> None:
        if anyio_backend_name == "trio":
            import trio

            trio.lowlevel.current_trio_token().run_sync_soon(callback)
        else:
            asyncio.get_running_loop().call_soon(callback)
        await called.wait()

    await handler()
    assert found[0][0] is Place.LOOP
    if anyio_backend_name == "asyncio":
        assert found[0][1] is None


async def test_in_a_portal_of_the_users_own() -> None:
    """Where greenback has a portal already a decorated call suspends and an undecorated one does not; both work on."""
    here = threading.get_ident()
    hopping = blocking(threading.get_ident)

    async def pause() -> str:
        await anyio.lowlevel.checkpoint()
        return "paused"

    @offload
    async def handler() -> list[Any]:
        return [greenback.await_(pause()), hopping() != here, await pause(), hopping() != here]

    await greenback.ensure_portal()
    assert place() is Place.LOOP
    assert hopping() == here
    assert await handler() == ["paused", True, "paused", True]
    assert place() is Place.LOOP
    assert greenback.await_(pause()) == "paused"
    assert await bridged(hopping) != here


async def test_nested_portals() -> None:
    """A bridged call inside greenback's own with_portal_run, and the other way round, suspends."""
    here = threading.get_ident()
    hopping = blocking(threading.get_ident)

    @offload
    async def handler() -> tuple[int, int]:
        return await greenback.with_portal_run_sync(hopping), hopping()

    assert here not in await greenback.with_portal_run(handler)
    assert here not in await handler()


@needs("sqlalchemy")
async def test_sqlalchemys_greenlets(anyio_backend_name: str) -> None:
    """In a greenlet that SQLAlchemy's asyncio support spawned in a bridged task both kinds of suspension work."""
    only_asyncio(anyio_backend_name)
    from sqlalchemy.util.concurrency import await_only, greenlet_spawn

    here = threading.get_ident()
    hopping = blocking(threading.get_ident)
    order: list[str] = []

    async def pause(name: str) -> str:
        await asyncio.sleep(0)
        order.append(name)
        return name

    def synchronous() -> None:
        assert hopping() != here
        assert await_only(pause("first")) == "first"
        assert hopping() != here
        assert await_only(pause("second")) == "second"
        with pytest.raises(ZeroDivisionError):
            blocking(lambda: 1 // 0)()

    @offload
    async def handler() -> int:
        await greenlet_spawn(synchronous)
        return hopping()

    assert await handler() != here
    assert order == ["first", "second"]


# What a driver call does in each place, DESIGN's table of contexts


async def test_bridged_statement(pool: OffloadPool) -> None:
    """A bridged statement runs in a worker thread, and the handler's own code before and after it does not."""
    here = threading.get_ident()
    trail: list[int] = []

    def handler() -> int:
        trail.append(threading.get_ident())
        thread = statement_thread(pool)
        trail.append(threading.get_ident())
        return thread

    assert await bridged(handler) != here
    assert trail == [here, here]
    assert pool.blocking_calls() == []
    assert pool.statistics().hops >= 2  # connect, execute


async def test_other_tasks_run_while_a_bridged_statement_waits(pool: OffloadPool, database: dict[str, Any]) -> None:
    """The loop is free during a statement: only what another task does lets the statement end."""
    with pool_of(3, database) as other:
        lock = f"{database['database']}_lock"
        waiting = anyio.Event()

        @offload
        async def holder() -> None:
            connection = other.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT GET_LOCK(%s, 0)", (lock,))
            await waiting.wait()
            cursor.execute("SELECT RELEASE_LOCK(%s)", (lock,))
            connection.close()

        @offload
        async def waiter() -> Any:
            connection = pool.connection()
            cursor = connection.cursor()
            waiting.set()
            cursor.execute("SELECT GET_LOCK(%s, %s)", (lock, PATIENCE))
            connection.close()
            return cursor.fetchone()

        rows: list[Any] = []

        async def run_waiter() -> None:
            rows.append(await waiter())

        async with anyio.create_task_group() as group:
            group.start_soon(holder)
            await settled(lambda: other.statistics().statements)
            group.start_soon(run_waiter)
        assert rows == [(1,)]


async def test_statement_in_a_worker_thread(pool: OffloadPool) -> None:
    """In a thread off the loop a statement runs inline, and is no blocking call."""

    def work() -> tuple[int, int]:
        return statement_thread(pool), threading.get_ident()

    statement, own = await anyio.to_thread.run_sync(work)
    assert statement == own
    assert pool.statistics().hops == 0
    assert pool.blocking_calls() == []


def test_statement_in_a_script(pool: OffloadPool) -> None:
    """Without any loop a statement runs inline, in the main thread and in a thread of one's own."""
    assert statement_thread(pool) == threading.get_ident()
    used, own = in_thread(lambda: (statement_thread(pool), threading.get_ident())).result(PATIENCE)
    assert used == own
    assert pool.blocking_calls() == []


async def test_unbridged_statement_warns_once_per_call_site(database: dict[str, Any]) -> None:
    """On the loop's thread each call site warns once, with its file, line and the remedy; every call counts."""
    with pool_of(3, database) as pool:
        with pytest.warns(BlockingCallWarning):
            connection = pool.connection()
        cursor = connection.cursor(RecordingCursor)
        with pytest.warns(BlockingCallWarning) as caught:
            assert list(map(cursor.execute, ["SELECT 1"] * 3)) == [1, 1, 1]
        line = _line_number("assert list(map(cursor")
        assert [(record.filename, record.lineno) for record in caught] == [(__file__, line)]
        message = str(caught[0].message)
        assert f"{__file__}:{line}" in message
        assert "execute" in message
        assert "@offload_db.offload" in message
        assert cursor.threads == [threading.get_ident()] * 3
        with pytest.warns(BlockingCallWarning) as caught:
            cursor.execute("SELECT 2")
        assert len(caught) == 1
        connection.close()

        calls = {(call.call, call.line): call for call in pool.blocking_calls()}
        execute = calls["execute", line]
        assert execute.count == 3
        assert execute.file == __file__
        assert execute.function == "test_unbridged_statement_warns_once_per_call_site"
        assert execute.seconds > 0
        assert pool.statistics().blocking_calls == sum(call.count for call in pool.blocking_calls()) == 5
        seconds = [call.seconds for call in pool.blocking_calls()]
        assert seconds == sorted(seconds, reverse=True)


def _line_number(text: str) -> int:
    with open(__file__, encoding="utf-8") as source:
        return next(number for number, line in enumerate(source, start=1) if line.strip().startswith(text))


async def test_unbridged_statement_raises_before_anything_is_sent(database: dict[str, Any], mysql: Any) -> None:
    """With on_loop_call="raise" neither a connection is opened nor a statement sent, and no slot is lost."""
    with pool_of(1, database, on_loop_call="raise") as pool:
        for _ in range(3):
            with pytest.raises(BlockingCallError, match=r"test_contexts\.py:\d+.*connect.*@offload_db\.offload"):
                pool.connection()
        assert mysql.process_list(database["database"]) == []

        def prepare() -> None:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE sent (id INT)")

        await bridged(prepare)
        connection = pool.connection()  # an idle one costs nothing
        cursor = connection.cursor(RecordingCursor)
        with pytest.raises(BlockingCallError, match="execute"):
            cursor.execute("INSERT INTO sent VALUES (1)")
        assert cursor.threads == []
        connection.close()

        def count() -> Any:
            with pool.connection() as connection, connection.cursor() as cursor:
                cursor.execute("SELECT COUNT(*) FROM sent")
                return cursor.fetchone()

        assert await bridged(count) == (0,)
        assert pool.statistics().in_use == 0
        assert pool.blocking_calls() == []


async def test_unbridged_statement_allowed(database: dict[str, Any]) -> None:
    """With on_loop_call="allow" a statement runs on the loop's thread without a word, and is counted."""
    with pool_of(3, database, on_loop_call="allow") as pool:
        assert statement_thread(pool) == threading.get_ident()
        assert [call.call for call in pool.blocking_calls() if call.call == "execute"] == ["execute"]
        assert pool.blocking_calls()[0].file == __file__


async def test_a_child_task_of_a_bridged_call_warns(pool: OffloadPool) -> None:
    """A statement in a child task would block the loop, and says so."""
    handler_done: list[int] = []

    async def child() -> None:
        with pytest.warns(BlockingCallWarning):
            handler_done.append(statement_thread(pool))

    @offload
    async def handler() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)

    await handler()
    assert handler_done == [threading.get_ident()]


async def test_unpooled_connections_follow_the_table(database: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """connect() opens on a worker when bridged, and warns on the loop's thread."""
    warn_again(monkeypatch)
    options = {"ssl_disabled": True, **database}

    def use() -> int:
        connection = offload_db.connect(**options)
        cursor = connection.cursor(RecordingCursor)
        cursor.execute("SELECT 1")
        connection.close()
        thread: int = cursor.threads[0]
        return thread

    here = threading.get_ident()
    assert await bridged(use) != here
    assert await anyio.to_thread.run_sync(use) != here
    with pytest.warns(BlockingCallWarning) as caught:
        assert use() == here
    assert [str(record.message).split(": ")[1].split()[0] for record in caught] == ["connect()", "execute()", "close()"]
