"""Admission: one fair queue for tasks and threads, lanes that do not hold each other up, no waiter lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import anyio
import pymysql
import pytest
from dbutils.pooled_db import TooManyConnectionsError
from pymysql.connections import Connection

from offload_db import CheckoutTimeout, ConfigurationError, Lane, LaneFull, OffloadPool, offload
from offload_db.pool.admission_queue import Admission
from offload_db.pool.lanes import Permit
from tests.conftest import MySQL
from tests.support import PATIENCE, in_thread, outcome, pool_of, settled


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
                if b"/*" in text and b"/*!" not in text:  # else it is a kill, or asks for the connection's identity
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
