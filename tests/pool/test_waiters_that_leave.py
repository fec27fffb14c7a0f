"""Claims about those who wait for a connection and go away, and about places given back at the worst moment."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from types import FrameType
from typing import Any

import anyio
import pytest

from offload_db import CheckoutTimeout, Lane, PoolClosed, offload
from offload_db.bridge.signals import TaskEvent
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Permit
from tests.conftest import MySQL
from tests.inside import lock_of
from tests.pool.inside import before_withdrawing, common_queue
from tests.pool.test_lanes import Gauge, acquire, assert_all_free, lanes_of, taken
from tests.support import PATIENCE, in_thread, outcome, pool_of, settled, until


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
