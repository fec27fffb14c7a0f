"""Claims about the hop of a bridged call to a worker thread, and the scope of a bridged call."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pymysql
import pytest

from offload_db import OffloadPool, blocking, offload
from offload_db.bridge import call_scope, caller_identity, hops, signals
from offload_db.bridge.portal import suspend
from offload_db.connection.executor import Executor
from offload_db.statistics import Counters
from tests.bridge.inside import before_waiting, waits_by_a_future
from tests.support import PATIENCE, Gate, RecordingCursor, in_thread, pool_of, settled

pytestmark = pytest.mark.anyio


class Possession:
    """Something that belongs to a bridged call."""

    def __init__(self, ended: list[call_scope.BridgedCall]) -> None:
        self.ended = ended

    def disown(self, scope: call_scope.BridgedCall) -> None:
        self.ended.append(scope)


@offload
async def bridged(function: Callable[[], Any]) -> Any:
    """Call *function* as plain code of a bridged handler."""
    return function()


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


# hop()


async def test_hop_returns_and_raises() -> None:
    """A hop runs the function in another thread and passes on its result or its error, whatever its kind."""
    limiter = anyio.CapacityLimiter(1)
    assert await hops.run_in_thread(threading.get_ident, limiter) != threading.get_ident()
    for error in (ValueError("a", 1), KeyboardInterrupt("b"), SystemExit(3)):

        def fail(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            await hops.run_in_thread(fail, limiter)
        assert caught.value is error
        assert caught.value.__context__ is None
    assert limiter.borrowed_tokens == 0


async def test_context_variables_flow_into_the_worker() -> None:
    """A hop sees the task's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    assert await hops.run_in_thread(variable.get, anyio.CapacityLimiter(1)) == "seen"
    assert await bridged(blocking(variable.get)) == "seen"


async def test_the_bridged_code_runs_in_its_tasks_context(anyio_backend_name: str) -> None:
    """Bridged code has its task's context, also another one that the task is given, and keeps one that it enters."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    pause = blocking(threading.get_ident)

    def inside() -> list[str]:
        variable.set("inside")
        pause()
        return [variable.get()]

    @offload
    async def handler() -> list[str]:
        variable.set("handler's")
        pause()
        seen = [variable.get(), *contextvars.copy_context().run(inside), variable.get()]
        if anyio_backend_name == "trio":
            import trio

            task = trio.lowlevel.current_task()
            task.context = contextvars.copy_context()
            task.context.run(variable.set, "another")
            pause()
        return [*seen, variable.get()]

    variable.set("caller's")
    last = "another" if anyio_backend_name == "trio" else "handler's"
    assert await handler() == ["handler's", "inside", "handler's", last]
    assert variable.get() == last


async def test_a_cancelled_scope_waits_for_the_worker() -> None:
    """A cancellation during a hop is raised when the function has come back, not before."""
    gate, limiter = Gate(), anyio.CapacityLimiter(1)
    trail: list[str] = []
    scope = anyio.CancelScope()

    async def victim() -> None:
        with scope:
            try:
                await hops.run_in_thread(gate, limiter)
                trail.append("returned")
            finally:
                trail.append(f"{gate.inside} inside")

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert trail == []
        gate.open()
    assert trail == ["0 inside"]
    assert scope.cancel_called
    assert limiter.borrowed_tokens == 0


async def test_a_cancelled_task_waits_for_the_worker(anyio_backend_name: str) -> None:
    """The native cancel() of asyncio, also again and again while the function winds down, is raised once, after it."""
    only_asyncio(anyio_backend_name)
    gate = Gate()
    trail: list[int] = []

    async def victim() -> None:
        try:
            await hops.run_in_thread(gate, anyio.CapacityLimiter(1))
        finally:
            trail.append(gate.inside)
            await asyncio.sleep(0)  # nothing is pending any more: a finally block can await
            trail.append(-1)

    task = asyncio.create_task(victim())
    await gate.entered()
    for number in range(5):
        task.cancel(f"cancel {number}")
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert trail == [0, -1]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")
async def test_asyncio_timeout_around_a_bridged_call(anyio_backend_name: str) -> None:
    """The timeout of asyncio raises TimeoutError when the function has come back, and leaves no cancellation behind."""
    only_asyncio(anyio_backend_name)
    if sys.version_info >= (3, 11):
        gate, task = Gate(), asyncio.current_task()
        assert task is not None
        timeout = asyncio.timeout(None)

        async def expire() -> None:
            await gate.entered()
            timeout.reschedule(0)
            await settled(task.cancelling)
            gate.open()

        async with anyio.create_task_group() as group:
            group.start_soon(expire)
            with pytest.raises(TimeoutError):
                async with timeout:
                    await bridged(blocking(gate))
        assert gate.inside == 0
        assert task.cancelling() == 0


async def test_a_scope_leaves_no_cancellation_behind() -> None:
    """After a cancelled hop the task goes on as if nothing had been cancelled."""
    gate = Gate()
    scope = anyio.CancelScope()

    async def canceller() -> None:
        await gate.entered()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.open()

    async with anyio.create_task_group() as group:
        group.start_soon(canceller)
        with scope:
            await bridged(blocking(gate))
        await anyio.lowlevel.checkpoint()
        assert await bridged(blocking(threading.get_ident)) != threading.get_ident()
    if sys.version_info >= (3, 11) and asyncio._get_running_loop() is not None:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_cancelled_before_the_start() -> None:
    """A function whose turn has not come when the scope is cancelled never runs."""
    gate, late, limiter = Gate(), Gate(), anyio.CapacityLimiter(1)
    late.open()
    scope = anyio.CancelScope()

    async def victim() -> None:
        with scope:
            await hops.run_in_thread(late, limiter)

    async with anyio.create_task_group() as group:
        group.start_soon(hops.run_in_thread, gate, limiter)
        await gate.entered()
        group.start_soon(victim)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.open()
    assert gate.calls == 1
    assert late.calls == 0
    with anyio.CancelScope() as scope:
        scope.cancel()
        await hops.run_in_thread(late, limiter)
    assert late.calls == 0


async def test_a_task_to_be_cancelled_makes_no_trip(anyio_backend_name: str) -> None:
    """A task that has cancelled itself, its scope or an outer one sends nothing any more, but in a shielded scope."""
    gate, limiter = Gate(), anyio.CapacityLimiter(1)
    gate.open()
    with anyio.CancelScope() as outer, anyio.CancelScope():
        outer.cancel()
        await hops.run_in_thread(gate, limiter)
    if anyio_backend_name != "trio":

        async def cancel_myself() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await hops.run_in_thread(gate, limiter)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.get_running_loop().create_task(cancel_myself())
    assert gate.calls == 0
    with anyio.CancelScope() as outer, anyio.CancelScope(shield=True):
        outer.cancel()
        await hops.run_in_thread(gate, limiter)
    assert gate.calls == 1


async def test_a_trip_is_one_wait_of_the_task(anyio_backend_name: str) -> None:
    """On asyncio's loops a task that makes a hop is suspended once, and not once more to give way before."""
    if anyio_backend_name == "trio":
        pytest.skip("trio decides by itself when a task gives way")
    limiter = anyio.CapacityLimiter(1)
    await hops.run_in_thread(int, limiter)
    hop = hops.run_in_thread(int, limiter)
    waits_for = [hop.send(None)]
    await asyncio.wait(waits_for)
    with pytest.raises(StopIteration):
        hop.send(None)
    assert isinstance(waits_for[0], asyncio.Future)


async def test_an_abandoned_trip_never_starts() -> None:
    """A thread that gets to its function after the cancellation was raised leaves it alone."""
    gate = Gate()
    gate.open()
    hop = hops.Hop(gate)
    await hop.wait_until_over()
    await anyio.to_thread.run_sync(hop.run)
    assert gate.calls == 0


async def test_shielded_calls() -> None:
    """A shielded call runs in a cancelled scope, returns its result, and the cancellation comes afterwards."""
    workers = Executor(1, Counters())
    results: list[int] = []

    @offload
    async def handler() -> None:
        results.append(workers.run("get_ident", threading.get_ident, shield=True))
        await anyio.lowlevel.checkpoint()
        results.append(-1)

    with anyio.CancelScope() as scope:
        scope.cancel()
        await handler()
    assert len(results) == 1
    assert results[0] != threading.get_ident()


async def test_no_more_threads_than_the_limit_while_winding_down() -> None:
    """The thread of a cancelled call counts against the limiter until it has come back."""
    gate, limiter = Gate(), anyio.CapacityLimiter(1)
    scope = anyio.CancelScope()

    async def victim() -> None:
        with scope:
            await hops.run_in_thread(gate, limiter)

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        await gate.entered()
        scope.cancel()
        group.start_soon(hops.run_in_thread, gate, limiter)
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: None)
        gate.open()
    assert gate.calls == 2
    assert gate.most_inside == 1
    assert limiter.borrowed_tokens == 0


async def test_no_more_busy_threads_than_connections(database: dict[str, Any]) -> None:
    """While a cancelled statement winds down its connection is not given to anybody, nor is a further thread busy."""
    gate = Gate()

    class GatedCursor(RecordingCursor):
        def execute(self, query: Any, args: Any = None) -> int:
            gate()
            return super().execute(query, args)

    with pool_of(1, database) as pool:

        @offload
        async def handler() -> None:
            connection = pool.connection()
            try:
                connection.cursor(GatedCursor).execute("SELECT 1")
            finally:
                connection.close()

        async def victim() -> None:
            with scope:
                await handler()

        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await gate.entered()
            scope.cancel()
            for _ in range(3):
                group.start_soon(handler)
            await anyio.wait_all_tasks_blocked()
            assert pool.statistics().waiting == 3
            gate.open()
        assert gate.calls == 4
        assert gate.most_inside == 1
        assert pool.statistics().in_use == 0
        assert pool.statistics().cancelled == 1


async def test_cancelled_connect_holds_nothing(database: dict[str, Any]) -> None:
    """A handler cancelled while its connection is being opened goes at once; the slot follows when that is done."""
    gate = Gate()

    def connect(**settings: Any) -> Any:
        gate()
        return pymysql.connect(**settings)

    scope = anyio.CancelScope()
    with pool_of(1, database, creator=connect) as pool:

        @offload
        async def handler() -> None:
            pool.connection()
            raise AssertionError("a cancelled checkout returned")

        async def victim() -> None:
            with scope:
                await handler()

        async with anyio.create_task_group() as group:
            group.start_soon(victim)
            await gate.entered()
            scope.cancel()
        assert gate.inside == 1
        assert pool.statistics().in_use == 1
        gate.open()
        await settled(lambda: pool.statistics().in_use == 0)
        assert await bridged(lambda: statement_thread(pool)) != threading.get_ident()
        assert gate.calls == 1  # the connection that nobody wanted was kept
        await anyio.to_thread.run_sync(pool.close)


# The scope of a bridged call


async def test_scopes() -> None:
    """Nested calls share the outermost one's scope, children inherit it, and it ends with that call."""
    seen_scopes: list[call_scope.BridgedCall | None] = []
    ended: list[call_scope.BridgedCall] = []

    async def child() -> None:
        seen_scopes.append(call_scope.current_bridged_call())

    @offload
    async def inner() -> None:
        seen_scopes.append(call_scope.current_bridged_call())

    @offload
    async def outer() -> None:
        scope = call_scope.current_bridged_call()
        seen_scopes.append(scope)
        assert scope is not None
        scope.owned[Possession(ended)] = None
        await inner()
        assert ended == []
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        seen_scopes.append(await anyio.to_thread.run_sync(call_scope.current_bridged_call))

    assert call_scope.current_bridged_call() is None
    await outer()
    assert call_scope.current_bridged_call() is None
    assert len(seen_scopes) == 4
    assert seen_scopes[0] is not None
    assert all(scope is seen_scopes[0] for scope in seen_scopes)
    assert ended == [seen_scopes[0]]


async def test_a_child_that_outlives_its_call_has_no_scope() -> None:
    """What outlives the bridged call, such as a background task, belongs to it no more."""
    release = anyio.Event()
    found: list[call_scope.BridgedCall | None] = []

    async def child() -> None:
        await release.wait()
        found.append(call_scope.current_bridged_call())

        @offload
        async def another() -> None:
            found.append(call_scope.current_bridged_call())

        await another()

    async with anyio.create_task_group() as group:

        @offload
        async def handler() -> call_scope.BridgedCall | None:
            group.start_soon(child)
            return call_scope.current_bridged_call()

        scope = await handler()
        release.set()
    assert found[0] is None
    assert found[1] is not None
    assert found[1] is not scope


async def test_a_scope_ends_when_its_call_fails() -> None:
    """A scope ends also when the call raises or is cancelled."""
    ended: list[call_scope.BridgedCall] = []

    @offload
    async def handler(work: Callable[[], Awaitable[None]]) -> None:
        scope = call_scope.current_bridged_call()
        assert scope is not None
        scope.owned[Possession(ended)] = None
        await work()

    async def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        await handler(fail)
    with anyio.move_on_after(0):
        await handler(anyio.sleep_forever)
    assert len(ended) == 2
    assert call_scope.current_bridged_call() is None


def current_lane() -> str | None:
    setting = call_scope.current_setting()
    return None if setting is None else setting.lane


async def test_lanes_of_nested_calls() -> None:
    """The outermost lane stays; an inner call names one only where there is none yet."""
    lanes: list[str | None] = []

    @offload(lane="inner")
    async def inner() -> None:
        lanes.append(current_lane())

    @offload(lane="outer")
    async def outer() -> None:
        await inner()
        lanes.append(current_lane())

    @offload
    async def without() -> None:
        await inner()
        lanes.append(current_lane())

    await outer()
    await without()
    await inner()
    assert lanes == ["outer", "outer", "inner", None, "inner"]
    assert current_lane() is None


async def test_an_error_that_was_dealt_with() -> None:
    """An error that a handler has awaited and dealt with is over, for the code that follows as well."""

    @offload
    async def handler() -> None:
        try:
            with anyio.fail_after(0.01):
                await anyio.sleep_forever()
        except TimeoutError:
            pass
        assert sys.exc_info() == (None, None, None)
        with suppress(KeyError):
            await failing()
        assert sys.exc_info() == (None, None, None)
        raise LookupError

    async def failing() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyError

    with pytest.raises(LookupError) as caught:
        await handler()
    assert caught.value.__context__ is None


async def test_callers() -> None:
    """Tasks are different callers, the same task is always the same one, and none is kept alive by it."""
    first, second = caller_identity.caller(), caller_identity.caller()
    assert first == second
    others: list[caller_identity.Caller] = []

    async def child() -> None:
        others.append(caller_identity.caller())

    async with anyio.create_task_group() as group:
        group.start_soon(child)
    assert others[0] != first
    thread, again = await anyio.to_thread.run_sync(lambda: (caller_identity.caller(), caller_identity.caller()))
    assert thread == again != first
    assert await bridged(caller_identity.caller) == first


@pytest.mark.parametrize("seconds", [None, 30.0])
async def test_a_signal_that_is_set_as_the_wait_begins(seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finaliser may set a signal while what the task is to wait for is being made; the wait ends all the same."""
    signal = signals.task_event()

    def collected(waited_for: signals.TaskEvent) -> None:
        assert waited_for.set()

    before_waiting(monkeypatch, collected)
    if not waits_by_a_future(signal):
        pytest.skip("for trio's tasks it is anyio's event, whose wait has no such moment")
    with anyio.fail_after(5):
        await (signal.wait() if seconds is None else signal.wait_for(seconds))


async def test_signals_from_threads() -> None:
    """A signal wakes its task from any thread, also when it was set before anybody waited."""
    for early in (True, False):
        signal = signals.task_event()
        if early:
            assert await anyio.to_thread.run_sync(signal.set)
            await signal.wait()
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(signal.wait)
                await anyio.wait_all_tasks_blocked()
                assert await anyio.to_thread.run_sync(signal.set)


def test_a_signal_of_a_closed_loop() -> None:
    """Who signals a task whose loop is closed learns that nobody is there."""

    async def make() -> signals.TaskEvent:
        return signals.task_event()

    signal = in_thread(lambda: asyncio.run(make())).result(PATIENCE)
    assert signal.set() is False


def test_a_signal_to_a_task_that_its_own_thread_has_left_behind() -> None:
    """Whoever closed a loop with a task that waits learns from its signal that nobody is there."""

    async def make() -> signals.TaskEvent:
        return signals.task_event()

    loop = asyncio.new_event_loop()
    signal = loop.run_until_complete(make())
    task = loop.create_task(signal.wait())
    loop.run_until_complete(asyncio.sleep(0))
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this test does
    loop.close()
    assert signal.set() is False


def test_a_call_that_is_collected_in_another_thread() -> None:
    """What a closed loop leaves unfinished is thrown away without a word, in whatever thread the collector finds it."""
    events: list[signals.TaskEvent] = []

    @offload
    async def suspended() -> None:
        events.append(signals.task_event())
        suspend(events[0].wait_for(None))

    def leave() -> weakref.ref[asyncio.Task[None]]:
        loop = asyncio.new_event_loop()
        task: asyncio.Task[None] = loop.create_task(suspended())
        loop.run_until_complete(asyncio.sleep(0))
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # that is what this test does
        loop.close()
        assert not events.pop().set()  # which would keep the task
        return weakref.ref(task)

    gc.collect()
    gc.disable()  # or it might be found here
    try:
        left = leave()
        in_thread(gc.collect).result(PATIENCE)
        assert left() is None
    finally:
        gc.enable()
    gc.collect()
