"""Whose turn it is on a connection that many share: whole calls take turns, children share, nobody blocks the loop."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pymysql
import pytest

import offload_db
from offload_db import BlockingCallError, CheckoutTimeout, ConnectionClosed, blocking, offload
from offload_db.bridge.call_scope import BridgedCall, current_bridged_call
from offload_db.bridge.decorator import THREADS
from offload_db.connection.call_lock import CallLock
from tests.conftest import MySQL
from tests.connection.inside import is_taken
from tests.inside import lock_of, turn_of, waiting_turns
from tests.support import PATIENCE, QUICK, in_thread, outcome, pool_of, settled, together, until, value


@contextmanager
def shared_connection(kind: str, settings: dict[str, Any], **options: Any) -> Iterator[Any]:
    """Open the one connection that legacy code keeps in a module global."""
    if kind == "pooled":
        with pool_of(1, settings, on_loop_call="allow", **options) as pool:
            connection = in_thread(pool.connection).result(PATIENCE)
            try:
                yield connection
            finally:
                in_thread(connection.close).result(PATIENCE)
    else:
        connection = in_thread(partial(offload_db.connect, **{**QUICK, **settings, **options})).result(PATIENCE)
        try:
            yield connection
        finally:
            in_thread(connection.close).result(PATIENCE)


KINDS = pytest.mark.parametrize("kind", ["pooled", "unpooled"])


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> dict[str, Any]:
    with mysql.connect(**database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE log (position INT AUTO_INCREMENT PRIMARY KEY, caller INT NOT NULL)")
        cursor.execute("CREATE TABLE counter (n INT NOT NULL)")
        cursor.execute("INSERT INTO counter VALUES (0)")
    return database


def waiting_for(connection: Any) -> int:
    """How many callers wait for their turn on the connection."""
    return waiting_turns(turn_of(connection))


@pytest.mark.anyio
@KINDS
async def test_transactions_on_one_connection_do_not_mix(kind: str, table: dict[str, Any]) -> None:
    """Tasks, worker threads and plain calls that share a connection and a cursor run one after the other, whole."""
    with shared_connection(kind, table, autocommit=False) as connection:
        cursor = connection.cursor()

        def transaction(number: int) -> int:
            cursor.execute("SELECT n FROM counter FOR UPDATE")
            before: int = cursor.fetchone()[0]
            cursor.execute("INSERT INTO log (caller) VALUES (%s)", (number,))
            cursor.execute("UPDATE counter SET n = %s", (before + 1,))
            cursor.execute("INSERT INTO log (caller) VALUES (%s)", (number,))
            if number % 4 == 3:
                connection.rollback()
                return 0
            connection.commit()
            return 1

        @offload
        async def bridged(number: int) -> int:
            return transaction(number)

        @offload(mode="thread")
        async def threaded(number: int) -> int:
            return transaction(number)

        @offload
        def plain(number: int) -> int:
            return transaction(number)

        kinds = [bridged, threaded, plain]
        results = await together(*[partial(kinds[number % 3], number) for number in range(40)])
        assert results == [int(number % 4 != 3) for number in range(40)]

        @offload
        async def check() -> None:
            assert value(connection, "SELECT n FROM counter") == 30
            cursor.execute("SELECT caller FROM log ORDER BY position")
            callers = [row[0] for row in cursor.fetchall()]
            assert callers[::2] == callers[1::2], "statements of two transactions were mixed"
            assert len(set(callers)) == 30

        await check()


@pytest.mark.anyio
@KINDS
async def test_results_never_mix(kind: str, mysql: MySQL) -> None:
    """In thousands of statements over one cursor every caller reads its own answers."""
    with shared_connection(kind, mysql.settings()) as connection:
        cursor = connection.cursor()

        def ask(number: int, times: int) -> int:
            for call_lock in range(times):
                cursor.execute("SELECT %s, %s", (number, call_lock))
                assert cursor.fetchone() == (number, call_lock)
                assert cursor.fetchall() == ()
            return number

        bridged = offload(_async(ask))
        threaded = offload(mode="thread")(_async(ask))

        async def nested(number: int) -> int:
            done: int = await offload(bridged)(number, 20)
            return done

        results = await together(
            *[partial(bridged, number, 20) for number in range(20)],
            *[partial(threaded, number, 20) for number in range(20, 40)],
            *[partial(nested, number) for number in range(40, 50)],
        )
        assert results == list(range(50))


def _async(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any) -> Any:
        return function(*args)

    return call


@pytest.mark.anyio
@KINDS
@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_who_waits_does_not_block_the_loop(kind: str, mode: Any, mysql: MySQL) -> None:
    """A call owns the connection from its first statement to its end, also while it awaits; the loop runs meanwhile."""
    with shared_connection(kind, mysql.settings()) as connection:
        used, end = anyio.Event(), anyio.Event()
        order: list[str] = []

        @offload
        async def owner() -> None:
            assert value(connection, "SELECT 1") == 1
            used.set()
            await end.wait()
            order.append("owner")
            assert value(connection, "SELECT 2") == 2

        @offload(mode=mode)
        async def other() -> None:
            assert value(connection, "SELECT 3") == 3
            order.append("other")

        async with anyio.create_task_group() as group:
            group.start_soon(owner)
            await used.wait()
            for _ in range(3):
                group.start_soon(other)
            await settled(lambda: waiting_for(connection) == 3)
            for _ in range(20):  # the loop turns
                await anyio.lowlevel.checkpoint()
            assert order == []
            end.set()
        assert order == ["owner"] + ["other"] * 3


@pytest.mark.anyio
@KINDS
async def test_children_share_the_ownership(kind: str, mysql: MySQL) -> None:
    """Tasks and threads that a call starts use its connection at once, one statement at a time; others still wait."""
    with shared_connection(kind, mysql.settings()) as connection:
        order: list[str] = []
        owned, end = anyio.Event(), anyio.Event()

        def child(number: int) -> int:
            cursor = connection.cursor()
            cursor.execute("SELECT %s", (number,))
            order.append("child")
            return int(cursor.fetchone()[0])

        @offload
        async def bridged(number: int) -> int:
            return child(number)

        @offload(mode="thread")
        async def threaded(number: int) -> int:
            return child(number)

        @offload
        async def owner() -> None:
            assert value(connection, "SELECT 0") == 0
            owned.set()
            await end.wait()
            children = [partial(kind, number) for number in range(10) for kind in (bridged, threaded)]
            assert await together(*children) == [number for number in range(10) for _ in range(2)]
            order.append("owner")

        @offload
        async def stranger() -> None:
            assert value(connection, "SELECT 1") == 1
            order.append("stranger")

        async with anyio.create_task_group() as group:
            group.start_soon(owner)
            await owned.wait()
            group.start_soon(stranger)
            await settled(lambda: waiting_for(connection) == 1)
            end.set()
        assert order == ["child"] * 20 + ["owner", "stranger"]


def test_children_by_gather_and_create_task(mysql: MySQL) -> None:
    """Gather and create_task of asyncio make children that share the ownership."""

    async def main() -> None:
        with shared_connection("unpooled", mysql.settings()) as connection:

            @offload
            async def child(number: int) -> Any:
                return value(connection, "SELECT %s", number)

            @offload
            async def owner() -> None:
                assert value(connection, "SELECT 1") == 1
                assert await asyncio.gather(*map(child, range(20))) == list(range(20))
                assert await asyncio.create_task(child(7)) == 7

            await asyncio.wait_for(asyncio.gather(owner(), owner(), owner()), PATIENCE)

    asyncio.run(main())


@pytest.mark.anyio
@KINDS
@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_a_cancelled_owner_hands_over(kind: str, mode: Any, mysql: MySQL) -> None:
    """When the call that owns the connection is cancelled in the middle of its work, the next one gets it."""
    with shared_connection(kind, mysql.settings()) as connection:
        used = anyio.Event()
        scope = anyio.CancelScope()

        @offload
        async def owner() -> None:
            assert value(connection, "SELECT 1") == 1
            used.set()
            with scope:
                await anyio.sleep_forever()

        @offload(mode=mode)
        async def other() -> Any:
            return value(connection, "SELECT 2")

        async def cancel() -> None:
            await used.wait()
            await settled(lambda: waiting_for(connection) == 1)
            scope.cancel()

        async def wait_and_use() -> Any:
            await used.wait()
            return await other()

        assert (await together(owner, wait_and_use, cancel))[1] == 2


@pytest.mark.anyio
@KINDS
async def test_a_cancelled_waiter_does_not_break_the_queue(kind: str, mysql: MySQL) -> None:
    """Waiters that are cancelled before, while and after they get their turn leave the others theirs."""
    with shared_connection(kind, mysql.settings()) as connection:
        dice = random.Random(11)
        done: list[int] = []

        @offload
        async def call(number: int) -> None:
            for _ in range(3):
                assert value(connection, "SELECT %s", number) == number
            done.append(number)

        async def impatient(number: int) -> None:
            with anyio.move_on_after(dice.choice([0.0, 0.001, 0.004, 0.01, 0.02])):
                await call(number)

        @offload
        async def patient(number: int) -> None:
            await call(1000 + number)

        await together(*[partial(kind, number) for number in range(40) for kind in (impatient, patient)])
        assert {1000 + number for number in range(40)} <= set(done)
        assert waiting_for(connection) == 0


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel-turn", "turn-cancel"])
def test_native_cancel_and_turn_in_one_tick(cancel_first: bool, mysql: MySQL) -> None:
    """A waiter that is cancelled in the tick in which it gets its turn passes the turn on."""

    async def main() -> None:
        with shared_connection("unpooled", mysql.settings()) as connection:
            for _ in range(10):
                used, end = asyncio.Event(), asyncio.Event()

                @offload
                async def owner(used: asyncio.Event = used, end: asyncio.Event = end) -> None:
                    assert value(connection, "SELECT 1") == 1
                    used.set()
                    await end.wait()

                @offload
                async def other() -> Any:
                    return value(connection, "SELECT 2")

                first = asyncio.ensure_future(owner())
                await used.wait()
                waiter, last = asyncio.ensure_future(other()), asyncio.ensure_future(other())
                await settled(lambda: waiting_for(connection) == 2)
                if cancel_first:
                    waiter.cancel()
                    end.set()
                else:
                    first.add_done_callback(lambda _, waiter=waiter: waiter.cancel())  # type: ignore[misc]
                    end.set()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
                assert await asyncio.wait_for(last, PATIENCE) == 2
                await first

    asyncio.run(main())


@pytest.mark.anyio
async def test_close_hands_over(mysql: MySQL) -> None:
    """When the owner closes the connection, waiters are told so at once, and the next checkout gets its link."""
    with pool_of(1, mysql.settings()) as pool:
        shared: list[Any] = []
        used, close = anyio.Event(), anyio.Event()

        @offload
        async def owner() -> None:
            shared.append(pool.connection())
            assert value(shared[0], "SELECT 1") == 1
            used.set()
            await close.wait()
            shared[0].close()
            with pool.connection() as again:
                assert value(again, "SELECT 2") == 2

        @offload
        async def other() -> Any:
            await used.wait()
            return value(shared[0], "SELECT 3")

        async def let_close() -> None:
            await used.wait()
            await settled(lambda: waiting_for(shared[0]) == 1)
            close.set()

        results = await together(owner, other, let_close)
        assert results[0] is None
        assert isinstance(results[1], ConnectionClosed)
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_closing_at_the_same_time(mysql: MySQL) -> None:
    """Children that all close the same connection, while a statement runs on it, close it once and get no error."""
    with pool_of(1, mysql.settings()) as pool, mysql.connect() as barrier:
        value(barrier, "SELECT GET_LOCK('closing', 5)")

        @offload
        async def parent() -> list[Any]:
            connection = pool.connection()
            connection.cursor().execute("DO 1")
            call_lock = turn_of(connection)

            @offload
            async def busy() -> Any:
                return value(connection, "SELECT GET_LOCK('closing', 20)")

            @offload
            async def closer() -> None:
                await settled(lambda: is_taken(call_lock))
                connection.close()

            async def let_go() -> None:
                await settled(lambda: waiting_turns(call_lock) == 3)
                await outcome(in_thread(lambda: value(barrier, "SELECT RELEASE_LOCK('closing')")))

            return await together(busy, closer, closer, closer, let_go)

        results = await parent()
        assert results == [1, None, None, None, None]
        assert pool.statistics().in_use == 0
        assert pool.statistics().checkins == 1


@pytest.mark.anyio
@KINDS
async def test_an_undecorated_call_on_an_owned_connection_is_refused(kind: str, mysql: MySQL) -> None:
    """On the loop's thread, a statement on a connection that another call owns is refused: it could only corrupt."""
    with shared_connection(kind, mysql.settings()) as connection:
        used, end = anyio.Event(), anyio.Event()

        @offload
        async def owner() -> Any:
            assert value(connection, "SELECT 1") == 1
            used.set()
            await end.wait()
            return value(connection, "SELECT 2")

        async def undecorated() -> None:
            await used.wait()
            try:
                with pytest.raises(BlockingCallError, match="another call that is under way owns it"):
                    connection.cursor().execute("SELECT 3")
            finally:
                end.set()

        assert await together(owner, undecorated) == [2, None]


@pytest.mark.anyio
async def test_a_waiting_caller_leaves_the_shared_unbuffered_cursor_alone(mysql: MySQL) -> None:
    """A call that waits for its turn on a shared unbuffered cursor takes no row from the call that is reading."""
    with shared_connection("unpooled", mysql.settings("mysql")) as connection:
        cursor = connection.cursor(pymysql.cursors.SSCursor)
        reading, go_on = anyio.Event(), anyio.Event()

        @offload
        async def reader() -> list[int]:
            cursor.execute("SELECT seq FROM seq_1_to_1000")
            rows = [cursor.fetchone()]
            reading.set()
            await go_on.wait()
            rows += cursor.fetchmany(10)
            rows += cursor.fetchall()
            return [row[0] for row in rows]

        @offload
        async def other() -> Any:
            await reading.wait()
            cursor.execute("SELECT 'mine'")
            return cursor.fetchall()

        async def let_read() -> None:
            await reading.wait()
            await settled(lambda: waiting_for(connection) == 1)
            go_on.set()

        results = await together(reader, other, let_read)
        assert results[0] == list(range(1, 1001))
        assert list(results[1]) == [("mine",)]  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_plain_threads_take_turns_statement_by_statement(mysql: MySQL) -> None:
    """Threads outside of any call share a connection statement by statement, and every answer is right."""
    with shared_connection("unpooled", mysql.settings()) as connection:

        def thread(number: int) -> int:
            for _ in range(50):
                assert value(connection, "SELECT %s", number) == number
            return number

        @offload
        async def task(number: int) -> int:
            return sum(value(connection, "SELECT %s", number) for _ in range(10))

        futures = [in_thread(partial(thread, number)) for number in range(6)]
        assert await together(*[partial(task, number) for number in range(6)]) == [10 * number for number in range(6)]
        assert [await outcome(future) for future in futures] == list(range(6))


@pytest.mark.anyio
async def test_a_thread_that_waits_for_its_turn_does_not_starve_the_owner(mysql: MySQL) -> None:
    """Worker threads that wait for a shared connection do not keep its owner from running a helper in a thread."""
    with shared_connection("unpooled", mysql.settings()) as connection:
        used, end = anyio.Event(), anyio.Event()

        @offload
        def helper() -> int:
            return threading.get_ident()

        @offload
        async def owner() -> str:
            assert value(connection, "SELECT 1") == 1
            used.set()
            await end.wait()
            with anyio.fail_after(3.0):
                await helper()
            return "owner"

        @offload(mode="thread")
        async def other() -> Any:
            return value(connection, "SELECT 2")

        async def late() -> Any:
            await used.wait()
            return await other()

        async def let_end() -> None:
            await settled(lambda: waiting_for(connection) == THREADS)
            end.set()

        results = await together(owner, let_end, *[late] * THREADS)
        assert results == ["owner", None] + [2] * THREADS


RINGS: dict[str, list[Any]] = {
    "bridged": [offload] * 3,
    "thread": [offload(mode="thread")] * 3,
    "mixed": [offload, offload(mode="thread"), offload],
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", RINGS)
@pytest.mark.parametrize("number", [2, 3])
async def test_shared_connections_in_a_ring(kind: str, number: int, mysql: MySQL) -> None:
    """Of calls that each own a shared connection and want the next one's, the one that closes the ring is refused.

    The others get what they wait for as soon as that call has ended.
    """
    with ExitStack() as stack:
        shared = [stack.enter_context(shared_connection("unpooled", mysql.settings())) for _ in range(number)]
        everybody = blocking(threading.Barrier(number).wait)

        async def ask(position: int) -> Any:
            value(shared[position], "SELECT 1")
            everybody(PATIENCE)
            return value(shared[(position + 1) % number], "SELECT 2")

        calls = [partial(RINGS[kind][position](ask), position) for position in range(number)]
        results = await together(*calls)
        refused = [result for result in results if isinstance(result, CheckoutTimeout)]
        assert len(refused) == 1, results
        assert "shared connection" in str(refused[0])
        assert results.count(2) == number - 1
        assert await together(partial(offload(_async(value)), shared[0], "SELECT 3")) == [3]


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_waiting_for_its_own_child_is_no_ring(mode: Literal["bridge", "thread"], mysql: MySQL) -> None:
    """A call whose child is using the shared connection that belongs to the call waits for the child, and is served."""
    with shared_connection("unpooled", mysql.settings()) as shared:
        sent: list[str] = []

        @offload
        async def child() -> None:
            value(shared, "SELECT SLEEP(0.2)")
            sent.append("child")

        @offload(mode=mode)
        async def again() -> Any:
            sent.append("call")
            return value(shared, "SELECT 2")

        @offload
        async def call() -> Any:
            value(shared, "SELECT 1")
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await settled(lambda: not turn_of(shared).free)
                return await again()

        assert await together(call) == [2]
        assert sorted(sent) == ["call", "child"]


@pytest.mark.anyio
async def test_shared_connections_one_after_the_other(mysql: MySQL) -> None:
    """Calls that use shared connections in the same order, or whose children do in another, wait and are served."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(shared_connection("unpooled", mysql.settings())) for _ in range(2))

        owned = anyio.Event()

        @offload
        async def in_order() -> Any:
            value(first, "SELECT 1")
            await anyio.lowlevel.checkpoint()
            return value(second, "SELECT 2")

        @offload
        async def child() -> Any:
            return value(first, "SELECT 3")

        @offload
        async def with_a_child() -> Any:
            await owned.wait()
            value(second, "SELECT 1")
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await settled(lambda: waiting_for(first) > 0)
                second.close()  # and so nobody waits for this call any more
            return 4

        results = await together(*[in_order] * 5)
        assert results == [2] * 5

        @offload
        async def opposite() -> Any:
            value(first, "SELECT 1")
            owned.set()
            await settled(lambda: waiting_for(first) > 0)
            try:
                return value(second, "SELECT 2")
            except ConnectionClosed:
                return "closed"

        assert await together(opposite, with_a_child) == ["closed", 4]


def test_an_owner_that_ends_in_the_collector_locks_nobody_out() -> None:
    """A call that is collected unfinished gives up its call_lock, also where the collector runs under the turn's lock.

    Its scope ends wherever the collector closes the coroutine, also in the middle of `take()` of the same thread.
    """
    scope = BridgedCall()
    call_lock = CallLock(scope)

    def collected_under_the_lock() -> None:
        with lock_of(call_lock):
            scope.end()

    in_thread(collected_under_the_lock).result(3.0)
    assert call_lock.acquire(None)


@pytest.mark.parametrize("same_thread", [True, False])
def test_a_waiter_whose_loop_has_ended_keeps_no_turn(same_thread: bool) -> None:
    """The turn of a task whose event loop was closed under it goes on to the next who waits."""
    call_lock = CallLock()
    assert call_lock.acquire(None)
    loop = asyncio.new_event_loop()
    task = loop.create_task(take(call_lock))
    loop.run_until_complete(asyncio.sleep(0.01))
    assert waiting_turns(call_lock) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this test does
    loop.close()
    future = in_thread(lambda: call_lock.acquire(None))
    until(lambda: waiting_turns(call_lock) == 2)
    if same_thread:
        call_lock.release()
    else:
        in_thread(call_lock.release).result(PATIENCE)
    assert future.result(PATIENCE)
    in_thread(call_lock.release).result(PATIENCE)
    assert call_lock.free


@offload
async def take(call_lock: CallLock) -> bool:
    return call_lock.acquire(current_bridged_call())


@pytest.mark.anyio
async def test_blocking_hops_only_when_bridged() -> None:
    """`blocking` takes a function off the loop in bridged code, and leaves it where it is elsewhere."""
    where = blocking(threading.get_ident)

    @offload
    async def bridged() -> int:
        return where()

    assert await bridged() != threading.get_ident()
    assert where() == threading.get_ident()
