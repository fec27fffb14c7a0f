"""Claims about how a call runs that is not offloaded: exactly as before it was decorated."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from offload_db import (
    BlockingCallWarning,
    CheckoutTimeout,
    Lane,
    OffloadPool,
    blocking,
    offload,
    rollout,
)
from tests.rollout import inside
from tests.support import Gate, pool_of, settled, value, watched_wire

pytestmark = pytest.mark.anyio

MODES = ("observe", "block")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool that refuses to block an event loop, but where that was chosen."""
    with pool_of(2, database, on_loop_call="raise", lanes=[Lane("one", 1)]) as pool:
        yield pool


def one(pool: OffloadPool) -> int:
    with pool.connection() as connection:
        return int(value(connection, "SELECT 1"))


async def of_function(decorate: Callable[[Any], Any], body: Callable[[], Any]) -> Any:
    @decorate
    async def handler() -> Any:
        return body()

    return await handler()


async def of_generator(decorate: Callable[[Any], Any], body: Callable[[], Any]) -> Any:
    @decorate
    async def dependency() -> AsyncIterator[Any]:
        body()
        yield body()
        body()

    async with asynccontextmanager(dependency)() as result:
        return result


async def of_method(decorate: Callable[[Any], Any], body: Callable[[], Any]) -> Any:
    class Handlers:
        @decorate
        async def handler(self) -> Any:
            return body()

    return await Handlers().handler()


async def of_inner(decorate: Callable[[Any], Any], body: Callable[[], Any]) -> Any:
    @decorate
    async def inner() -> Any:
        return body()

    @decorate
    async def outer() -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(inner)
        return await inner()

    return await outer()


async def of_def(decorate: Callable[[Any], Any], body: Callable[[], Any]) -> Any:
    @decorate
    def handler() -> Any:
        return body()

    result = handler()
    return await result if hasattr(result, "__await__") else result


KINDS = (of_function, of_generator, of_method, of_inner, of_def)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("mode", "decorate"),
    [
        pytest.param("observe", offload, id="observe"),
        pytest.param("block", offload, id="block"),
        pytest.param("block", offload(mode="thread"), id="block-thread"),
        pytest.param("block", offload(lane="one", timeout=5.0), id="block-lane"),
    ],
)
async def test_as_before_it_was_decorated(
    pool: OffloadPool, mode: Any, kind: Callable[..., Any], decorate: Callable[[Any], Any]
) -> None:
    """Each kind of function makes the same calls on the same thread as undecorated, and nobody warns or refuses."""

    def observed(decorator: Callable[[Any], Any]) -> Callable[[], Any]:
        async def run() -> tuple[Any, list[tuple[str, int]]]:
            with watched_wire() as wire:
                return await kind(decorator, functools.partial(one, pool)), wire.events

        return run

    rollout.set("*", mode)
    await offload(functools.partial(asyncio_sleepless, pool))()  # opens the connection
    hops = pool.statistics().hops
    expected = await in_old_days(observed(lambda function: function))
    assert await observed(decorate)() == expected
    assert {thread for _, thread in expected[1]} == {threading.get_ident()}
    statistics = pool.statistics()
    assert statistics.hops == hops
    assert statistics.lanes["one"].in_use == 0


async def asyncio_sleepless(pool: OffloadPool) -> None:
    one(pool)


async def in_old_days(run: Callable[[], Any]) -> Any:
    """Run undecorated code where its calls on the loop's thread are nobody's business."""

    @offload
    async def old() -> Any:
        return await run()

    return await old()


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_noted(pool: OffloadPool, mode: Any) -> None:
    """What is observed is counted by its place, as blocking; what blocks is not; how long the loop stood still is."""
    rollout.set("*", mode)

    @offload
    async def handler() -> None:
        with pool.connection() as connection:
            value(connection, "SELECT SLEEP(0.05)")

    await handler()
    places = {(call.function, call.call, call.statement) for call in pool.blocking_calls()}
    assert places == (
        {("handler", "connect", None), ("value", "execute", "SELECT SLEEP(?)")} if mode == "observe" else set()
    )
    assert bool(pool.statistics().blocking_calls) == (mode == "observe")
    arm = rollout.snapshot()[0].arms[mode]
    assert 0.05 <= arm.loop_time <= arm.durations.sum
    assert arm.kept_waiting < 0.05


async def test_what_is_not_chosen_warns_as_always(database: dict[str, Any]) -> None:
    """An undecorated caller is warned beside calls that run as before, and after them."""
    rollout.set("*", "block")
    with pool_of(2, database) as pool:
        await offload(functools.partial(asyncio_sleepless, pool))()
        with pytest.warns(BlockingCallWarning):
            one(pool)


async def test_offloaded_calls_are_told_apart(pool: OffloadPool) -> None:
    """An offloaded call keeps no loop; waiting for the loop is no part of how long it took."""
    rollout.set("*", "offload")
    began = anyio.Event()

    @offload
    async def handler() -> None:
        began.set()
        with pool.connection() as connection:
            value(connection, "SELECT SLEEP(0.05)")

    async with anyio.create_task_group() as group:
        group.start_soon(handler)
        await began.wait()
        await anyio.sleep(0.01)
        threading.Event().wait(0.5)  # keeps the loop
    arm = rollout.snapshot()[0].arms["offload"]
    assert arm.loop_time == 0.0
    assert 0.05 <= arm.durations.sum < 0.4
    assert arm.kept_waiting > 0.3


async def test_tasks_that_a_call_starts_go_its_way_until_it_ends(pool: OffloadPool) -> None:
    """A child is part of its parent's request; what outlives the request is a call of its own."""
    ways: list[str] = []
    over = anyio.Event()

    @offload
    async def child() -> None:
        ways.append("inline" if blocking(threading.get_ident)() == threading.get_ident() else "offloaded")

    async def children() -> None:
        await child()
        rollout.set("*", "offload")
        await child()
        await over.wait()
        await child()

    @offload
    async def parent(group: Any) -> None:
        group.start_soon(children)
        await settled(lambda: len(ways) == 2)

    rollout.set("*", "block")
    async with anyio.create_task_group() as group:
        await parent(group)
        over.set()
    assert ways == ["inline", "inline", "offloaded"]


async def test_what_has_begun_goes_on_as_it_began(pool: OffloadPool) -> None:
    """A call that runs when something is set, its inner calls, and a generator's last steps change nothing."""

    @offload
    async def inner() -> bool:
        return blocking(threading.get_ident)() == threading.get_ident()

    @offload
    async def outer() -> bool:
        rollout.set("*", "block")
        return await inner()

    @offload
    async def dependency() -> AsyncIterator[bool]:
        yield blocking(threading.get_ident)() == threading.get_ident()
        rollout.set("*", "block")
        yield blocking(threading.get_ident)() == threading.get_ident()

    assert await outer() is False
    rollout.clear()
    assert [inline async for inline in dependency()] == [False, False]
    assert await inner() is True


async def test_a_generator_is_one_call(pool: OffloadPool) -> None:
    """Its steps are chosen for and counted as one, and what its user does between them is no part of it."""

    @offload
    async def dependency() -> AsyncIterator[None]:
        one(pool)
        yield
        one(pool)

    rollout.set("*", "observe")
    async with asynccontextmanager(dependency)():
        await anyio.sleep(0.3)
    with pytest.raises(KeyError):
        async with asynccontextmanager(dependency)():
            raise KeyError
    arm = rollout.snapshot()[0].arms["observe"]
    assert (arm.calls, arm.errors) == (2, {"KeyError": 1})
    assert arm.durations.sum < 0.3
    assert pool.statistics().in_use == 0


async def test_a_call_that_could_never_get_a_connection_is_refused(pool: OffloadPool) -> None:
    """The loop's own thread does not wait for what its own task holds: as ever, that is refused at once."""

    @offload
    async def handler() -> None:
        held = [pool.connection() for _ in range(3)]
        held.clear()

    rollout.set("*", "block")
    with pytest.raises(CheckoutTimeout, match="2 of 2 in use"):
        await handler()


@pytest.mark.parametrize("size", [1, 2, 3])
async def test_it_begins_when_a_connection_is_there(database: dict[str, Any], size: int) -> None:
    """While offloaded calls have all connections, one that runs as before waits before it begins."""
    gate = Gate()
    trail: list[str] = []
    with pool_of(size, database, on_loop_call="raise") as pool:

        @offload
        async def holding() -> None:
            with pool.connection():
                blocking(gate)()
            trail.append("held")

        @offload
        async def handler() -> None:
            trail.append("begun")
            one(pool)

        async with anyio.create_task_group() as group:
            for _ in range(2 * size):
                group.start_soon(holding)
            await settled(lambda: gate.inside == size)
            rollout.set("*", "block")
            for _ in range(3):
                group.start_soon(handler)
            await anyio.sleep(0.05)
            assert trail == []
            gate.open()
        assert sorted(trail) == ["begun"] * 3 + ["held"] * 2 * size
        assert trail[0] == "held"
        assert pool.statistics().in_use == 0
    arm = {row.target: row for row in rollout.snapshot()}["*"].arms["block"]
    assert (arm.calls, arm.errors) == (3, {})
    assert arm.kept_waiting > 0.1 > arm.durations.sum


async def test_the_connection_that_is_kept_is_given_to_others_when_it_is_not_needed(database: dict[str, Any]) -> None:
    """While calls may run as before, offloaded ones leave them one connection; then whoever waits gets it at once."""
    gates = Gate(), Gate()
    rollout.set("some.other", "block")
    with pool_of(2, database, on_loop_call="raise") as pool:

        @offload
        async def holding(gate: Gate) -> None:
            with pool.connection():
                blocking(gate)()

        async with anyio.create_task_group() as group:
            group.start_soon(holding, gates[0])
            await gates[0].entered()
            group.start_soon(holding, gates[1])
            await settled(lambda: pool.statistics().waiting == 1)
            rollout.clear()
            await gates[1].entered()
            for gate in gates:
                gate.open()


async def test_one_that_needs_no_connection_waits_for_none(database: dict[str, Any]) -> None:
    """Once it is known that a function uses no pool, it begins at once, whatever others hold."""
    gate = Gate()
    with pool_of(1, database, on_loop_call="raise") as pool:

        @offload
        async def holding() -> None:
            with pool.connection():
                blocking(gate)()

        @offload
        async def health() -> str:
            return "fine"

        rollout.set("*", "block")
        await health()
        rollout.set("*", "offload")
        async with anyio.create_task_group() as group:
            group.start_soon(holding)
            await gate.entered()
            rollout.set("*", "block")
            assert await health() == "fine"
            gate.open()


async def test_it_begins_when_a_shared_connection_is_free(pool: OffloadPool) -> None:
    """A connection in a global belongs to the offloaded call that uses it; who runs as before waits for its end."""
    shared = await offload(functools.partial(shared_of, pool))()
    trail: list[str] = []
    gate = Gate()

    @offload
    async def holding(name: str) -> None:
        assert value(shared, "SELECT 1") == 1
        blocking(gate)()
        assert value(shared, "SELECT 2") == 2
        trail.append(name)

    @offload
    async def handler() -> None:
        trail.append("begun")
        assert value(shared, "SELECT 3") == 3
        await anyio.sleep(0.01)  # others would have the connection now, if it were not its turn
        assert value(shared, "SELECT 4") == 4
        trail.append("over")

    async with anyio.create_task_group() as group:
        group.start_soon(holding, "first")
        await gate.entered()
        group.start_soon(holding, "second")
        await anyio.sleep(0.01)
        rollout.set("*", "block")
        group.start_soon(handler)
        await anyio.sleep(0.05)
        assert trail == []
        gate.open()
    assert trail == ["first", "begun", "over", "second"]
    shared.close()


async def shared_of(pool: OffloadPool) -> Any:
    return pool.connection()


async def test_who_gives_up_waiting_leaves_nothing_behind(database: dict[str, Any]) -> None:
    """A call that is cancelled before it has begun is counted as cancelled, and keeps no connection from others."""
    gate = Gate()
    with pool_of(1, database, on_loop_call="raise") as pool:

        @offload
        async def holding() -> None:
            with pool.connection():
                blocking(gate)()

        @offload
        async def handler() -> None:
            one(pool)

        async with anyio.create_task_group() as group:
            group.start_soon(holding)
            await gate.entered()
            rollout.set("*", "block")
            with anyio.move_on_after(0.02) as scope:
                await handler()
            assert scope.cancel_called
            gate.open()
        rollout.set("*", "offload")
        await handler()
    arms = rollout.snapshot()[0].arms
    assert sum(arms["block"].errors.values()) == arms["block"].calls == 1
    assert arms["offload"].errors == {}


def test_a_call_that_is_thrown_away_counts_for_nothing() -> None:
    """A coroutine that is dropped unfinished takes no lock, which its finaliser might wait for, and is not counted."""

    @offload
    async def handler() -> None:
        await asyncio.sleep(60)

    async def begin() -> None:
        steps = handler()
        asyncio.get_running_loop().call_soon(steps.send, None)
        await asyncio.sleep(0.01)
        with inside.rules_of().lock:
            steps.close()

    rollout.set("*", "observe")
    asyncio.run(begin())
    assert rollout.snapshot()[0].arms == {}
