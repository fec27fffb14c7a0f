"""Admission: one fair queue for tasks and threads, lanes that do not hold each other up, no waiter lost."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any

import anyio
import pymysql
import pytest
from dbutils.pooled_db import TooManyConnectionsError
from pymysql.connections import Connection

from offload_db import CheckoutTimeout, ConfigurationError, Lane, LaneFull, OffloadPool, PoolClosed, offload
from offload_db.bridge.signals import TaskEvent
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Permit
from tests.conftest import MySQL
from tests.inside import lock_of
from tests.pool.inside import before_withdrawing, common_queue
from tests.support import PATIENCE, in_thread, outcome, pool_of, settled, until


def lanes_of(
    size: int, *lanes: Lane, max_waiting: int | None = None, checkout_timeout: float | None = PATIENCE
) -> Admission:
    return Admission(Lane("the pool", size, max_waiting=max_waiting, checkout_timeout=checkout_timeout), lanes)


@offload
async def acquire(lanes: Admission, lane: str | None = None, timeout: float | None = None) -> Permit:
    return lanes.acquire(lane, timeout=timeout)


def taken(lanes: Admission, lane: str | None = None) -> Permit:
    """Take a free slot as somebody whom no test waits for."""
    return in_thread(lambda: lanes.acquire(lane, timeout=0.01)).result(PATIENCE)


def assert_all_free(lanes: Admission, size: int) -> None:
    """Nothing is held or queued, and as many slots as ever can be taken without waiting."""
    assert (lanes.in_use, lanes.waiting) == (0, 0)

    def take_all() -> list[Permit]:
        return [lanes.acquire(None, timeout=0.01) for _ in range(size)]

    for slot in in_thread(take_all).result(PATIENCE):
        lanes.release(slot)
    assert (lanes.in_use, lanes.waiting) == (0, 0)


@pytest.mark.anyio
async def test_first_come_first_served_across_tasks_and_threads() -> None:
    """Tasks and threads that wait for a slot get it in the order in which they came, whatever they are."""
    lanes = lanes_of(1)
    held = taken(lanes)
    served: list[int] = []

    async def task(number: int) -> None:
        slot = await acquire(lanes)
        served.append(number)
        lanes.release(slot)

    @offload(mode="thread")
    async def in_worker(number: int) -> None:
        thread(number)

    def thread(number: int) -> None:
        slot = lanes.acquire(None)
        served.append(number)
        lanes.release(slot)

    async with anyio.create_task_group() as group:
        for number in range(9):
            if number % 3 == 0:
                group.start_soon(task, number)
            elif number % 3 == 1:
                in_thread(partial(thread, number))
            else:
                group.start_soon(in_worker, number)
            await settled(lambda number=number: lanes.waiting == number + 1)  # type: ignore[misc]
        lanes.release(held)
        await settled(lambda: len(served) == 9)
    assert served == list(range(9))
    assert_all_free(lanes, 1)


@pytest.mark.anyio
async def test_nobody_overtakes_who_waits() -> None:
    """A caller that comes while a slot goes to a waiter queues behind that waiter."""
    lanes = lanes_of(1)
    held = taken(lanes)
    order: list[str] = []

    async def waiter() -> None:
        slot = await acquire(lanes)
        order.append("waiter")
        lanes.release(slot)

    async with anyio.create_task_group() as group:
        group.start_soon(waiter)
        await settled(lambda: lanes.waiting == 1)
        lanes.release(held)  # granted, but the waiter has not run yet
        assert (lanes.in_use, lanes.waiting) == (1, 0)
        slot = await acquire(lanes)
        order.append("newcomer")
        lanes.release(slot)
    assert order == ["waiter", "newcomer"]


@pytest.mark.anyio
async def test_a_full_lane_lets_the_others_pass() -> None:
    """Callers of a full lane wait, and callers of other lanes and of none pass them."""
    lanes = lanes_of(3, Lane("reports", 1), Lane("web", 2))
    report = taken(lanes, "reports")
    waiting = in_thread(lambda: lanes.acquire("reports"))
    await settled(lambda: lanes.waiting == 1)

    passing = [await acquire(lanes, "web", 0.01), await acquire(lanes, None, 0.01)]
    assert lanes.statistics()["reports"].in_use == 1
    assert lanes.statistics()["reports"].waiting == 1
    for slot in passing:
        lanes.release(slot)
    assert not waiting.done()
    lanes.release(report)
    lanes.release(await outcome(waiting))
    assert_all_free(lanes, 3)


@pytest.mark.anyio
async def test_a_full_pool_serves_lanes_in_order_of_arrival() -> None:
    """When the pool as a whole is full, the waiters of all lanes form one queue; a full lane's are skipped."""
    lanes = lanes_of(2, Lane("a", 1), Lane("b", 2))
    first, second = taken(lanes, "a"), taken(lanes)
    served: list[str] = []
    go_on = threading.Event()

    def caller(lane: str | None, name: str) -> None:
        slot = lanes.acquire(lane)
        served.append(name)
        go_on.wait(PATIENCE)
        lanes.release(slot)

    for number, (lane, name) in enumerate([("a", "a1"), ("b", "b1"), (None, "c1"), ("a", "a2")]):
        in_thread(partial(caller, lane, name))
        await settled(lambda number=number: lanes.waiting == number + 1)  # type: ignore[misc]
    lanes.release(second)
    await settled(lambda: served == ["b1"])  # a1 came first, but lane a is full
    lanes.release(first)
    await settled(lambda: served == ["b1", "a1"])
    go_on.set()
    await settled(lambda: len(served) == 4)
    assert set(served[2:]) == {"c1", "a2"}
    await settled(lambda: lanes.in_use == 0)
    assert_all_free(lanes, 2)


class Gauge:
    """Counts who is inside, and the most there ever were."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now = self.most = self.entries = 0

    def __enter__(self) -> Gauge:
        with self._lock:
            self.now += 1
            self.entries += 1
            self.most = max(self.most, self.now)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.anyio
async def test_limits_hold_while_cancelled_calls_wind_down(mysql: MySQL) -> None:
    """The server never runs more statements than the lane's limit and the pool's size allow.

    Callers are cancelled all the time, and a cancelled statement still runs until its worker is back.
    """
    total, reports = Gauge(), Gauge()

    class Measured(Connection):  # type: ignore[type-arg,unused-ignore]
        def query(self, sql: Any, unbuffered: bool = False) -> int:
            text = sql if isinstance(sql, bytes) else sql.encode()
            with ExitStack() as inside:
                if b"/*" in text:  # a kill goes over a connection outside of the pool
                    inside.enter_context(total)
                if b"/* report */" in text:
                    inside.enter_context(reports)
                return super().query(sql, unbuffered)

    def connect(**settings: Any) -> Measured:
        return Measured(**settings)

    with pool_of(4, mysql.settings(), creator=connect, lanes=[Lane("reports", 2)]) as pool:

        @offload
        async def call(lane: str | None) -> None:
            connection = pool.connection(lane=lane)
            try:
                connection.cursor().execute(f"SELECT SLEEP(0.01) /* {'report' if lane else 'page'} */")
            finally:
                connection.close()

        dice = random.Random(7)

        async def impatient(number: int) -> None:
            with anyio.move_on_after(dice.choice([0.001, 0.005, 0.012, 0.02, 10.0])):
                await call("reports" if number % 2 else None)

        def thread() -> None:
            for number in range(4):
                connection = pool.connection(lane="reports" if number % 2 else None)
                connection.cursor().execute("SELECT SLEEP(0.005) /* report */" if number % 2 else "DO 1 /**/")
                connection.close()

        threads = [in_thread(thread) for _ in range(6)]
        async with anyio.create_task_group() as group:
            for number in range(40):  # each kill among SLEEP()s may be held up by the server for two seconds
                group.start_soon(impatient, number)
        for future in threads:
            await outcome(future)
        assert pool.statistics().in_use == 0
        assert pool.statistics().waiting == 0
        assert total.entries > 20
        assert total.most <= 4
        assert reports.most <= 2
        assert pool.statistics().open <= 4


@pytest.mark.anyio
async def test_lane_full_refuses_at_once() -> None:
    """The caller after max_waiting others is refused at once; the lane's own limit goes before the pool's."""
    lanes = lanes_of(2, Lane("a", 1, max_waiting=1), Lane("b", 1, max_waiting=0), Lane("c", 1), max_waiting=2)
    held = [taken(lanes, "a"), taken(lanes, "b")]
    waiting = [in_thread(partial(lanes.acquire, "a"))]
    await settled(lambda: lanes.waiting == 1)

    with pytest.raises(LaneFull, match=r"lane 'a': 1 callers wait already, max_waiting is 1 \(1 of 1 in use") as caught:
        await acquire(lanes, "a")
    assert isinstance(caught.value, (pymysql.err.OperationalError))
    assert isinstance(caught.value, TooManyConnectionsError)
    with pytest.raises(LaneFull, match="lane 'b': 0 callers wait already"):
        await acquire(lanes, "b")
    for number in range(2):
        waiting.append(in_thread(partial(lanes.acquire, "c")))
        await settled(lambda number=number: lanes.waiting == number + 2)  # type: ignore[misc]
    with pytest.raises(LaneFull, match="lane 'c': 2 callers wait already, max_waiting is 2"):
        await acquire(lanes, "c")
    for slot in held:
        lanes.release(slot)
    for future in waiting:
        lanes.release(await outcome(future))
    assert_all_free(lanes, 2)


@pytest.mark.anyio
async def test_checkout_timeout_of_the_lane() -> None:
    """A lane's checkout_timeout goes before the pool's; the error names lane, seconds and numbers, and is a timeout."""
    lanes = lanes_of(2, Lane("reports", 1, checkout_timeout=0.05), Lane("web", 1), checkout_timeout=0.06)
    held = [taken(lanes, "reports"), taken(lanes, "web")]
    expected = r"lane 'reports': no connection within 0\.05 s \(1 of 1 in use, 0 waiting; 2 of 2 in the whole pool\)"

    for waiter in (partial(acquire, lanes), in_new_thread(lanes)):
        with pytest.raises(CheckoutTimeout, match=r"lane 'web': no connection within 0\.06 s"):
            await waiter("web")
        with pytest.raises(CheckoutTimeout) as caught:
            await waiter("reports")
        assert caught.match(expected)
        for kind in (TimeoutError, pymysql.err.OperationalError, TooManyConnectionsError):
            assert isinstance(caught.value, kind)
    assert lanes.waiting == 0
    for slot in held:
        lanes.release(slot)
    assert_all_free(lanes, 2)


def in_new_thread(lanes: Admission) -> Callable[[str | None], Any]:
    async def waiter(lane: str | None) -> Permit:
        return await outcome(in_thread(lambda: lanes.acquire(lane)))

    return waiter


@pytest.mark.anyio
async def test_a_cancelled_waiter_loses_no_slot() -> None:
    """A waiter whose scope is cancelled leaves the queue, and the next one gets the slot."""
    lanes = lanes_of(1)
    held = taken(lanes)
    got: list[Permit] = []
    scope = anyio.CancelScope()

    async def doomed() -> None:
        with scope:
            got.append(await acquire(lanes))

    async def patient() -> None:
        got.append(await acquire(lanes))

    async with anyio.create_task_group() as group:
        group.start_soon(doomed)
        await settled(lambda: lanes.waiting == 1)
        group.start_soon(patient)
        await settled(lambda: lanes.waiting == 2)
        scope.cancel()
        await settled(lambda: lanes.waiting == 1)
        lanes.release(held)
    assert len(got) == 1
    lanes.release(got[0])
    assert_all_free(lanes, 1)


@pytest.mark.anyio
async def test_who_gives_up_leaves_nothing_behind() -> None:
    """Behind somebody who waits for long, others come and give up without end: the queue holds those who wait."""
    lanes = lanes_of(1)
    held = taken(lanes)
    waiting = in_thread(lambda: lanes.acquire(None))
    await settled(lambda: lanes.waiting == 1)
    for _ in range(20):
        with pytest.raises(CheckoutTimeout):
            await acquire(lanes, timeout=0.0)
    assert common_queue(lanes) == lanes.waiting == 1
    lanes.release(held)
    lanes.release(await outcome(waiting))
    assert_all_free(lanes, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel-grant", "grant-cancel"])
async def test_grant_and_cancel_in_one_tick(cancel_first: bool) -> None:
    """A slot that is granted in the same tick of the loop in which its waiter is cancelled is not lost."""
    lanes = lanes_of(1)
    for _ in range(50):
        held = taken(lanes)
        scope = anyio.CancelScope()

        async def doomed(scope: anyio.CancelScope = scope) -> None:
            with scope:
                lanes.release(await acquire(lanes))

        async with anyio.create_task_group() as group:
            group.start_soon(doomed)
            await settled(lambda: lanes.waiting == 1)
            actions: list[Callable[[], Any]] = [scope.cancel, partial(lanes.release, held)]
            for action in actions if cancel_first else reversed(actions):
                action()
        assert_all_free(lanes, 1)


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancel-grant", "grant-cancel"])
def test_grant_and_native_cancel_in_one_tick(cancel_first: bool, use_uvloop: bool) -> None:
    """The same with asyncio's own task.cancel()."""
    if use_uvloop:
        pytest.importorskip("uvloop")

    async def main() -> None:
        lanes = lanes_of(1)
        for _ in range(50):
            held = taken(lanes)
            task = asyncio.ensure_future(acquire(lanes))
            await settled(lambda: lanes.waiting == 1)
            actions: list[Callable[[], Any]] = [task.cancel, partial(lanes.release, held)]
            for action in actions if cancel_first else reversed(actions):
                action()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_all_free(lanes, 1)

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


@pytest.mark.anyio
async def test_grants_from_threads_race_with_cancellations_and_timeouts() -> None:
    """In thousands of grants by threads that race with cancellations and timeouts no slot is lost or given twice."""
    lanes = lanes_of(2, Lane("a", 1))
    inside = Gauge()
    stop = threading.Event()
    dice = random.Random(3)

    def thread(lane: str | None) -> None:
        while not stop.is_set():
            try:
                slot = lanes.acquire(lane, timeout=dice.choice([0.0001, 0.001, 0.1]))
            except CheckoutTimeout:
                continue
            with inside:
                pass
            lanes.release(slot)

    async def task(lane: str | None) -> None:
        for _ in range(120):
            with anyio.move_on_after(dice.choice([0.0, 0.0002, 0.001, 0.1])):
                try:
                    slot = await acquire(lanes, lane, dice.choice([0.0002, 0.1]))
                except CheckoutTimeout:
                    continue
                with inside:
                    pass
                lanes.release(slot)

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [in_thread(partial(thread, lane)) for lane in (None, "a", None)]
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(task, "a" if number % 2 else None)
        stop.set()
        for future in threads:
            await outcome(future)
    finally:
        sys.setswitchinterval(switch)
    assert inside.most <= 2
    assert inside.entries > 100
    assert_all_free(lanes, 2)
    lanes.release(await acquire(lanes, "a", 0.01))


@pytest.mark.anyio
@pytest.mark.parametrize("bridged", [True, False], ids=["task", "thread"])
async def test_a_grant_at_the_last_moment_beats_the_timeout(bridged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that is granted the slot between the end of its wait and its leaving the queue has it."""
    lanes = lanes_of(1)
    held = taken(lanes)
    before_withdrawing(monkeypatch, lanes, lambda: lanes.release(held))
    if bridged:
        slot = await acquire(lanes, None, 0.01)
    else:
        slot = await outcome(in_thread(lambda: lanes.acquire(None, timeout=0.01)))
    assert (lanes.in_use, lanes.waiting) == (1, 0)
    lanes.release(slot)
    assert_all_free(lanes, 1)


def test_release_inside_the_lock() -> None:
    """A finaliser that gives a slot back while its own thread, or another, holds the lock does not wait for it."""
    lanes = lanes_of(1)
    held = lanes.acquire(None)

    def release() -> None:
        with lock_of(lanes):
            lanes.release(held)

    in_thread(release).result(PATIENCE)
    slot = in_thread(lambda: lanes.acquire(None, timeout=PATIENCE)).result(PATIENCE)
    lanes.release(slot)
    assert_all_free(lanes, 1)


def test_release_by_a_finaliser_at_any_line_of_a_waiting_thread() -> None:
    """A slot that a finaliser gives back in the middle of a thread's acquire() reaches that very thread.

    The collector may run between any two lines, also inside of the primitive that the thread waits with: the release
    is made before the first line, the second, and so on, of everything that acquire() runs.
    """
    for line in range(1, 400):
        lanes = lanes_of(1)
        held = lanes.acquire(None)
        fired = threading.Event()

        def waiter(
            lanes: Admission = lanes, held: Permit = held, fired: threading.Event = fired, line: int = line
        ) -> Permit:
            seen = 0

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                nonlocal seen
                if event == "line":
                    seen += 1
                    if seen == line:
                        sys.settrace(None)
                        fired.set()
                        lanes.release(held)
                return trace

            sys.settrace(trace)
            try:
                return lanes.acquire(None)
            finally:
                sys.settrace(None)

        waiting = in_thread(waiter)
        try:
            if not fires(fired, lanes):
                lanes.release(held)
                lanes.release(waiting.result(5.0))
                assert line > 20
                return  # every line has had its turn
            lanes.release(waiting.result(5.0))
        except FutureTimeout:
            pytest.fail(f"the thread never gets the slot that comes back before line {line} of its acquire()")
        assert (lanes.in_use, lanes.waiting) == (0, 0)
    pytest.fail("acquire() runs more lines than the test expects")


def fires(fired: threading.Event, lanes: Admission) -> bool:
    """Tell whether the line was reached; not if the waiter has rested in the queue for long enough to have run all."""
    for _ in range(100):
        if fired.wait(0.3):
            return True
        if lanes.waiting:
            return fired.wait(0.3)
    raise FutureTimeout


@pytest.mark.anyio
async def test_release_by_a_finaliser_just_before_a_task_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot that comes back between a task's queueing and its waiting reaches it."""
    lanes = lanes_of(1)
    held = taken(lanes)
    wait = TaskEvent.wait_for

    async def late(self: TaskEvent, *args: Any) -> None:
        lanes.release(held)
        await wait(self, *args)

    monkeypatch.setattr(TaskEvent, "wait_for", late)
    with anyio.fail_after(PATIENCE):
        slot = await acquire(lanes)
    lanes.release(slot)
    assert_all_free(lanes, 1)


@pytest.mark.anyio
async def test_connections_dropped_in_a_collection_reach_waiters(mysql: MySQL) -> None:
    """Connections that only the collector finds come back to tasks and threads that wait for them."""
    with pool_of(2, mysql.settings()) as pool:

        @offload
        async def leak() -> None:
            connection = pool.connection()
            cycle: list[Any] = [connection]
            cycle.append(cycle)

        @offload
        async def task() -> int:
            connection = pool.connection()
            connection.close()
            return 1

        def thread() -> int:
            connection = pool.connection()
            connection.close()
            return 1

        gc.disable()
        try:
            await leak()
            await leak()
            assert pool.statistics().in_use == 2
            future = in_thread(thread)
            async with anyio.create_task_group() as group:
                group.start_soon(task)
                await settled(lambda: pool.statistics().waiting == 2)
                gc.collect()
            assert await outcome(future) == 1
        finally:
            gc.enable()
        assert pool.statistics().in_use == 0


@pytest.mark.anyio
async def test_closing_wakes_all_waiters() -> None:
    """Closing refuses all that wait, tasks and threads, and all that come; what is held can be given back."""
    lanes = lanes_of(1, Lane("a", 1))
    held = taken(lanes, "a")
    caught: list[BaseException] = []

    async def task(lane: str | None) -> None:
        try:
            await acquire(lanes, lane)
        except PoolClosed as error:
            caught.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(task, None)
        group.start_soon(task, "a")
        future = in_thread(lambda: lanes.acquire("a"))
        await settled(lambda: lanes.waiting == 3)
        lanes.close()
    with pytest.raises(PoolClosed):
        await outcome(future)
    assert len(caught) == 2
    with pytest.raises(PoolClosed):
        await acquire(lanes)
    lanes.release(held)
    lanes.close()
    assert (lanes.in_use, lanes.waiting) == (0, 0)


@pytest.mark.parametrize("same_thread", [True, False])
def test_a_waiter_whose_loop_has_ended_does_not_swallow_the_slot(same_thread: bool) -> None:
    """A slot granted to a task whose event loop was closed under it goes on to the next waiter."""
    lanes = lanes_of(1)
    held = lanes.acquire(None)
    loop = asyncio.new_event_loop()
    task = loop.create_task(acquire(lanes))

    async def turn() -> None:
        await settled(lambda: lanes.waiting == 1)

    loop.run_until_complete(turn())
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this test does
    loop.close()
    future = in_thread(lambda: lanes.acquire(None))
    until(lambda: lanes.waiting == 2)
    if same_thread:
        lanes.release(held)
    else:
        in_thread(lambda: lanes.release(held)).result(PATIENCE)
    lanes.release(future.result(PATIENCE))
    assert_all_free(lanes, 1)


@pytest.mark.anyio
async def test_the_lane_of_the_call_and_of_the_checkout(mysql: MySQL) -> None:
    """`connection(lane=…)` goes before the lane of the bridged call, which an inner decorated call does not change."""
    with pool_of(3, mysql.settings(), lanes=[Lane("outer", 2), Lane("inner", 2)]) as pool:

        def used() -> dict[str, int]:
            return {name: lane.in_use for name, lane in pool.statistics().lanes.items()}

        @offload(lane="inner")
        async def inner() -> dict[str, int]:
            with pool.connection():
                return used()

        @offload(lane="outer")
        async def outer() -> list[dict[str, int]]:
            found = [await inner()]
            with pool.connection(lane="inner"):
                found.append(used())
            return found

        assert await outer() == [{"outer": 1, "inner": 0}, {"outer": 0, "inner": 1}]
        assert await inner() == {"outer": 0, "inner": 1}


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Lane("", 1), ("name", "''", "not empty")),
        (lambda: Lane(3, 1), ("name", "3", "strings")),  # type: ignore[arg-type]
        (lambda: Lane("a", 0), ("Lane 'a'", "limit", "0", "from 1")),
        (lambda: Lane("a", -1), ("limit", "-1")),
        (lambda: Lane("a", True), ("limit", "True")),
        (lambda: Lane("a", 1.5), ("limit", "1.5")),  # type: ignore[arg-type]
        (lambda: Lane("a", 1, max_waiting=-1), ("max_waiting", "-1", "from 0")),
        (lambda: Lane("a", 1, checkout_timeout=0), ("checkout_timeout", "0", "above 0")),
        (lambda: Lane("a", 1, checkout_timeout=float("nan")), ("checkout_timeout", "nan")),
        (lambda: Lane("a", 1, checkout_timeout="5"), ("checkout_timeout", "'5'")),  # type: ignore[arg-type]
        (lambda: lanes_of(1, Lane("a", 1), Lane("a", 2)), ("lanes", "'a'", "twice")),
        (lambda: lanes_of(1, "a"), ("lanes", "<builtins.str object>", "Lane objects")),  # type: ignore[arg-type]
        (lambda: lanes_of(1, Lane("a", 1)).acquire("b"), ("lane=<builtins.str object>", "'a'")),
        (lambda: lanes_of(1).acquire("b"), ("lane=<builtins.str object>", "none")),
        (lambda: lanes_of(1).acquire([]), ("lane=<builtins.list object>",)),  # type: ignore[arg-type]
        (lambda: OffloadPool.create(max_size=0), ("max_size", "0", "from 1")),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], named: tuple[str, ...]) -> None:
    """A bad setting raises an error that names the setting, what was given and what is accepted."""
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert isinstance(caught.value, ValueError)
    for words in named:
        assert words in str(caught.value)


def test_repr_shows_the_state() -> None:
    """The lanes show what is held and who waits."""
    lanes = lanes_of(2, Lane("a", 1))
    slot = lanes.acquire("a")
    assert repr(lanes) == "<Admission 1/2 in use: the pool 0/2 in use, 0 waiting, lane 'a' 1/1 in use, 0 waiting>"
    lanes.release(slot)
    lanes.release(slot)  # giving back twice is harmless
    assert lanes.in_use == 0
