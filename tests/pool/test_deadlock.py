"""No order of checkouts and statements hangs: everybody finishes, or is refused at once where that cannot be."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from offload_db import CheckoutTimeout, Lane, blocking, offload
from offload_db.bridge.decorator import THREADS
from tests.conftest import MySQL
from tests.support import PATIENCE, in_thread, outcome, pool_of, settled, together, until, value

Handler = Callable[[], Awaitable[Any]]

# How a handler may run: its driver calls hop, it runs in a worker as a whole, or it is a thread of its own.
WAYS = pytest.mark.parametrize("way", ["bridge", "thread", "plain"])


def handler(way: str, function: Callable[[], Any]) -> Handler:
    """Make a handler of a plain function."""
    if way == "plain":
        return lambda: outcome(in_thread(function))

    @offload(mode="thread" if way == "thread" else "bridge")
    async def run() -> Any:
        return function()

    return run


def refused(results: list[Any]) -> list[CheckoutTimeout]:
    """Return the refusals among results; any other error fails the test."""
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, CheckoutTimeout):
            raise result
    return [result for result in results if isinstance(result, CheckoutTimeout)]


class Meeting:
    """Where callers of any kind wait for each other; nobody blocks a loop meanwhile."""

    def __init__(self, parties: int) -> None:
        self._barrier = threading.Barrier(parties)

    def wait(self) -> None:
        blocking(self._barrier.wait)(PATIENCE)


@pytest.mark.anyio
@pytest.mark.parametrize(("connections", "threads", "callers"), [(2, 4, 6), (1, 8, 20), (10, 40, 50), (50, 40, 200)])
async def test_everybody_finishes(connections: int, threads: int, callers: int, mysql: MySQL) -> None:
    """More callers than connections and threads, tasks and threads mixed, all finish their checkout and statements."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    before, limiter.total_tokens = limiter.total_tokens, threads
    try:
        with pool_of(connections, mysql.settings()) as pool:

            def work() -> int:
                connection = pool.connection()
                cursor = connection.cursor()
                cursor.execute("SELECT 1")
                cursor.execute("SELECT CONNECTION_ID()")
                number: int = cursor.fetchone()[0]
                cursor.close()
                connection.close()
                return number

            kinds: list[Handler] = [
                handler("bridge", work),
                handler("thread", work),
                partial(anyio.to_thread.run_sync, work),  # what a framework does with a `def` handler
                handler("plain", work),
            ]
            results = await together(*[kinds[number % 4] for number in range(callers)])
            assert not refused(results)
            assert 1 <= len(set(results)) <= connections
            statistics = pool.statistics()
            assert (statistics.in_use, statistics.waiting, statistics.checkouts) == (0, 0, callers)
            assert statistics.statements == 2 * callers
            assert statistics.open <= connections
    finally:
        limiter.total_tokens = before


@pytest.mark.anyio
@WAYS
async def test_a_second_connection_of_one_is_refused_at_once(way: str, mysql: MySQL) -> None:
    """Who holds the only connection and asks for another is refused at once; the error says why and what to do."""
    with pool_of(1, mysql.settings(), checkout_timeout=3.0) as pool:

        def greedy() -> None:
            with pool.connection() as connection:
                assert value(connection, "SELECT 1") == 1
                pool.connection()

        with pytest.raises(CheckoutTimeout, match=r"holds 1 .* waits for one more .*1 of 1 in use.* close the first"):
            await handler(way, greedy)()
        assert pool.statistics().in_use == 0
        assert await handler(way, lambda: value(pool.connection(), "SELECT 2"))() == 2


@pytest.mark.anyio
@WAYS
@pytest.mark.parametrize("size", [2, 3])
async def test_of_holders_that_all_want_a_second_one_is_refused(way: str, size: int, mysql: MySQL) -> None:
    """Of N callers that hold N connections and all want one more, the last is refused and the others finish."""
    with pool_of(size, mysql.settings(), checkout_timeout=3.0) as pool:
        meeting = Meeting(size)

        def greedy() -> int:
            with pool.connection() as first:
                assert value(first, "SELECT 1") == 1
                meeting.wait()
                with pool.connection() as second:
                    return int(value(second, "SELECT 2"))

        results = await together(*[handler(way, greedy)] * size)
        assert len(refused(results)) == 1
        assert results.count(2) == size - 1
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_holders_of_all_kinds_that_want_a_second(mysql: MySQL) -> None:
    """The same with tasks, worker threads and plain threads together."""
    with pool_of(6, mysql.settings(), checkout_timeout=3.0) as pool:
        meeting = Meeting(6)

        def greedy() -> str:
            with pool.connection():
                meeting.wait()
                with pool.connection():
                    return "done"

        results = await together(*[handler(way, greedy) for way in ("bridge", "thread", "plain") * 2])
        assert len(refused(results)) == 1
        assert results.count("done") == 5


@pytest.mark.anyio
@WAYS
async def test_two_lanes_taken_in_opposite_order(way: str, mysql: MySQL) -> None:
    """Two callers that hold a lane each and want the other's: one is refused, the other finishes."""
    with pool_of(4, mysql.settings(), lanes=[Lane("a", 1), Lane("b", 1)], checkout_timeout=3.0) as pool:
        meeting = Meeting(2)

        def greedy(first: str, second: str) -> str:
            with pool.connection(lane=first):
                meeting.wait()
                with pool.connection(lane=second):
                    return "done"

        with anyio.fail_after(30.0):
            results = await together(
                handler(way, partial(greedy, "a", "b")),
                handler(way, partial(greedy, "b", "a")),
            )
        assert len(refused(results)) == 1
        assert "no connection within" not in str(refused(results)[0]), "it was refused only when its time was over"
        assert results.count("done") == 1


@pytest.mark.anyio
@pytest.mark.parametrize("lane_first", [True, False], ids=["lane-waits-first", "pool-waits-first"])
async def test_a_lane_and_the_pool_taken_in_opposite_order(lane_first: bool, mysql: MySQL) -> None:
    """One holds a lane and waits for the pool, the other holds the rest of the pool and waits for that lane."""
    with pool_of(2, mysql.settings(), lanes=[Lane("a", 1)], checkout_timeout=3.0) as pool:
        holding = Meeting(2)
        second_may = threading.Event()

        def greedy(first: str | None, second: str | None, waits: bool) -> str:
            with pool.connection(lane=first):
                holding.wait()
                if waits:
                    blocking(second_may.wait)(PATIENCE)
                with pool.connection(lane=second):
                    return "done"

        async def let_second() -> None:
            await settled(lambda: pool.statistics().waiting == 1)
            second_may.set()

        with anyio.fail_after(30.0):
            results = await together(
                handler("bridge", partial(greedy, "a", None, lane_first)),
                handler("bridge", partial(greedy, None, "a", not lane_first)),
                let_second,
            )
        assert len(refused(results)) == 1
        assert "no connection within" not in str(refused(results)[0]), "it was refused only when its time was over"
        assert results.count("done") == 1


@pytest.mark.anyio
@WAYS
async def test_a_second_connection_that_can_come_is_waited_for(way: str, mysql: MySQL) -> None:
    """Nested checkouts succeed where a connection is free, or held by somebody who is not waiting."""
    with pool_of(3, mysql.settings()) as pool:
        meeting = Meeting(2)
        waits = threading.Event()

        def greedy() -> list[int]:
            with pool.connection() as first:
                meeting.wait()
                with pool.connection() as second:
                    return [value(first, "SELECT 1"), value(second, "SELECT 2")]

        def modest() -> list[int]:
            with pool.connection() as first, pool.connection() as second:
                meeting.wait()
                blocking(waits.wait)(PATIENCE)
                return [value(first, "SELECT 3"), value(second, "SELECT 4")]

        async def release() -> None:
            await settled(lambda: pool.statistics().waiting == 1)
            waits.set()

        results = await together(handler(way, greedy), handler(way, modest), release)
        assert results[:2] == [[1, 2], [3, 4]]


@pytest.mark.anyio
async def test_a_waiting_holder_of_another_lane_is_no_reason_to_refuse(mysql: MySQL) -> None:
    """A caller is not refused where a holder waits, too, but for something that somebody else will give back."""
    with pool_of(3, mysql.settings(), lanes=[Lane("a", 1)]) as pool:
        outsider = in_thread(lambda: pool.connection(lane="a")).result(PATIENCE)
        meeting = Meeting(2)

        def waits_for_lane() -> str:
            with pool.connection():
                meeting.wait()
                with pool.connection(lane="a"):
                    return "lane"

        def waits_for_pool() -> str:
            with pool.connection():
                meeting.wait()
                until(lambda: pool.statistics().waiting == 1)
                with pool.connection():
                    return "pool"

        async def release() -> None:
            await settled(lambda: pool.statistics().waiting == 2)
            await outcome(in_thread(outsider.close))

        results = await together(handler("plain", waits_for_lane), handler("plain", waits_for_pool), release)
        assert results[:2] == ["lane", "pool"]


@pytest.mark.anyio
async def test_opened_in_one_thread_closed_in_another(mysql: MySQL) -> None:
    """A framework's worker thread that opened a connection for one request may wait for one for the next request.

    FastAPI enters a `yield` dependency in one thread and leaves it in another: the thread that opened a connection is
    free for other requests while it is still out.
    """
    limiter = anyio.CapacityLimiter(1)
    with pool_of(1, mysql.settings()) as pool:
        first = await anyio.to_thread.run_sync(pool.connection, limiter=limiter)

        def next_request() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 2")

        async def close_when_needed() -> None:
            await settled(lambda: pool.statistics().waiting == 1)
            await outcome(in_thread(first.close))

        async def request() -> Any:
            return await anyio.to_thread.run_sync(next_request, limiter=limiter)

        results = await together(request, close_when_needed)
        assert results[0] == 2


def test_an_executor_thread_serves_another_piece_of_work(mysql: MySQL) -> None:
    """A thread of a plain executor that left a connection open for one job is not refused one for the next job.

    Another thread closes the first connection meanwhile.
    """
    with pool_of(1, mysql.settings()) as pool, ThreadPoolExecutor(1) as executor:
        first = executor.submit(pool.connection).result(PATIENCE)

        def next_job() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 2")

        second: Future[Any] = executor.submit(next_job)
        until(lambda: pool.statistics().waiting == 1 or second.done())
        first.close()
        assert second.result(PATIENCE) == 2


def test_an_executor_thread_that_nests_is_refused(mysql: MySQL) -> None:
    """Within one job, an executor's thread that holds the only connection is refused a second at once."""
    with pool_of(1, mysql.settings(), checkout_timeout=3.0) as pool, ThreadPoolExecutor(1) as executor:

        def job() -> None:
            with pool.connection():
                pool.connection()

        with pytest.raises(CheckoutTimeout):
            executor.submit(job).result(PATIENCE)


@pytest.mark.anyio
async def test_children_of_a_holder_are_served(mysql: MySQL) -> None:
    """A task's children are callers of their own: they get the connections that their parent does not hold."""
    with pool_of(2, mysql.settings()) as pool:

        @offload
        async def child(number: int) -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT %s", number)

        @offload
        async def parent() -> list[Any]:
            with pool.connection():
                return await together(*[partial(child, number) for number in range(5)])

        assert await parent() == list(range(5))


@pytest.mark.anyio
@pytest.mark.parametrize("holder", ["task", "itself"])
async def test_an_unbridged_call_never_freezes_the_loop(holder: str, mysql: MySQL) -> None:
    """On the loop's own thread, a checkout that only tasks of that loop could make possible is refused at once."""
    with pool_of(2, mysql.settings(), on_loop_call="allow", checkout_timeout=3.0) as pool:
        ready, done = anyio.Event(), anyio.Event()

        @offload
        async def holds() -> None:
            with pool.connection(), pool.connection():
                ready.set()
                await done.wait()

        async with anyio.create_task_group() as group:
            if holder == "task":
                group.start_soon(holds)
                await ready.wait()
                kept: list[Any] = []
            else:
                kept = [pool.connection(), pool.connection()]
            with pytest.raises(CheckoutTimeout, match="event loop's thread cannot wait"):
                pool.connection()
            done.set()
            for connection in kept:
                connection.close()
        with pool.connection() as connection:
            assert value(connection, "SELECT 1") == 1


@pytest.mark.anyio
async def test_an_unbridged_call_does_not_wait_behind_tasks_of_its_loop(mysql: MySQL) -> None:
    """On the loop's own thread, a checkout does not freeze the loop behind bridged tasks that wait in the queue.

    A thread holds the connection and gives it back, but to a task that waited before and cannot run while the loop's
    thread waits. The call is served before such tasks or refused at once.
    """
    with pool_of(1, mysql.settings(), on_loop_call="allow", checkout_timeout=PATIENCE) as pool:
        holding, stop = threading.Event(), threading.Event()

        def thread() -> None:
            with pool.connection():
                holding.set()
                # The unbridged call blocks the loop, so only a thread can see it wait.
                while pool.statistics().waiting < 2 and not stop.is_set():
                    time.sleep(0.001)

        @offload
        async def task() -> Any:
            with pool.connection() as connection:
                return value(connection, "SELECT 1")

        future = in_thread(thread)
        holding.wait(PATIENCE)
        results: list[Any] = []

        async def unbridged() -> None:
            await settled(lambda: pool.statistics().waiting == 1)
            began = time.monotonic()
            try:
                with pool.connection() as connection:
                    results.append(value(connection, "SELECT 2"))
            except CheckoutTimeout as error:
                results.append(error)
            finally:
                results.append(time.monotonic() - began)
                stop.set()

        finished = await together(task, unbridged)
        await outcome(future)
        assert finished[0] == 1
        assert results[1] < PATIENCE / 2, f"the loop stood still for {results[1]:.1f} s, and then: {results[0]}"


@pytest.mark.anyio
@pytest.mark.parametrize("helper", ["def", "thread", "blocking"])
async def test_a_holder_gets_a_thread_while_others_wait_in_threads(helper: str, mysql: MySQL) -> None:
    """Who holds a connection can run a decorated helper in a thread, however many threads wait for that connection."""
    with pool_of(1, mysql.settings(), checkout_timeout=3.0) as pool:
        holding, crowded = anyio.Event(), anyio.Event()

        @offload
        def in_def() -> int:
            return threading.get_ident()

        @offload(mode="thread")
        async def in_mode() -> int:
            return threading.get_ident()

        def checkout() -> str:
            with pool.connection():
                return "waited"

        @offload
        async def holds() -> str:
            with pool.connection():
                holding.set()
                await crowded.wait()
                if helper == "blocking":
                    assert blocking(threading.get_ident)() != threading.get_ident()
                else:
                    assert await (in_def() if helper == "def" else in_mode()) != threading.get_ident()
            return "held"

        @offload(mode="thread")
        async def waits() -> str:
            return checkout()

        @offload
        async def waits_in_blocking() -> str:
            return blocking(checkout)()

        async def crowd() -> str:
            await holding.wait()
            await settled(lambda: pool.statistics().waiting == THREADS)
            crowded.set()
            return "crowded"

        async def late() -> str:
            await holding.wait()
            return await (waits_in_blocking() if helper == "blocking" else waits())

        results = await together(holds, crowd, *[late] * THREADS)
        assert not refused(results)
        assert results == ["held", "crowded"] + ["waited"] * THREADS


@pytest.mark.anyio
@pytest.mark.parametrize("bridged", [False, True])
async def test_a_holder_whose_task_is_over(bridged: bool, mysql: MySQL) -> None:
    """Where a task has ended and is forgotten, what it has left open still counts as taken, and says so."""
    with pool_of(2, mysql.settings(), checkout_timeout=0.05) as pool:
        left: list[Any] = []

        @offload
        async def take() -> None:
            left.append(pool.connection())

        for _ in range(1 if bridged else 2):
            async with anyio.create_task_group() as group:
                group.start_soon(take)
        gc.collect()

        async def take_two() -> None:
            with pool.connection():
                pool.connection()

        async def take_one() -> None:
            pool.connection()

        with pytest.raises(CheckoutTimeout, match="2 of 2 in use"):
            await (offload(take_two)() if bridged else take_one())
        for connection in left:
            connection.close()
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_handlers_that_fail_without_closing_leave_the_pool_whole(mysql: MySQL) -> None:
    """Handlers that never close, and fail, still give their connections back: the next ones are not refused."""
    with pool_of(1, mysql.settings()) as pool:

        def careless(number: int) -> None:
            connection = pool.connection()
            cursor = connection.cursor()
            cursor.execute("SELECT %s", (number,))
            raise LookupError(number, cursor.fetchone())

        for way in ("bridge", "thread"):
            for number in range(5):
                with pytest.raises(LookupError) as caught:
                    await handler(way, partial(careless, number))()
                assert caught.value.args == (number, (number,))
                del caught
        await settled(lambda: pool.statistics().in_use == 0)
