"""Claims about going back by itself: when, once, and with a reason that can be read."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from offload_db import offload, rollout
from tests.rollout import inside
from tests.support import pool_of

pytestmark = pytest.mark.anyio


@offload
async def handler(seconds: float = 0.0, fails: bool = False) -> None:
    # What the guard compares is what the call took, so that its clock can be the test's own.
    Clock.now += seconds
    if fails:
        raise FaultError


HANDLER = f"{__name__}.handler"


class Clock:
    now = 0.0


class FaultError(Exception): ...


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the rollout's clock show what the test says."""
    inside.clocked(monkeypatch, lambda: Clock.now)


async def calls(mode: str, number: int, *, seconds: float = 0.02, failing: int = 0) -> None:
    """Make calls of one arm, of which the first ones fail."""
    inside.choose_next(mode)
    for each in range(number):
        if each < failing:
            with pytest.raises(FaultError):
                await handler(seconds, True)
        else:
            await handler(seconds)


def row(target: str = HANDLER) -> rollout.RouteRollout:
    (found,) = [row for row in rollout.snapshot() if row.target == target]
    return found


def halves() -> None:
    rollout.set(HANDLER, "offload", share=0.5)


async def test_errors(caplog: pytest.LogCaptureFixture) -> None:
    """Where too many more offloaded calls fail than others, all of them run as before; it is said once, and why."""
    halves()
    guard = rollout.guard(HANDLER, min_calls=20)
    await calls("observe", 20, failing=1)
    await calls("offload", 15)
    await calls("offload", 4, failing=4)
    assert (row().mode, row().share, row().reverted, guard.reason) == ("offload", 0.5, None, None)
    with caplog.at_level(logging.WARNING, logger="offload_db.rollout"):
        await calls("offload", 1, failing=1)
    reason = (
        "5 of the last 20 offloaded calls failed, and 1 of the last 20 others; the guard goes back at more than 2 "
        "times as many and one"
    )
    assert (row().mode, row().share, row().reverted, guard.reason) == ("observe", 1.0, reason, reason)
    assert [r.getMessage() for r in caplog.records] == [f"{HANDLER} runs as before, and is offloaded no more: {reason}"]


async def test_durations() -> None:
    """Where offloaded calls take too much longer, too; what takes next to nothing is not compared."""
    halves()
    rollout.guard(HANDLER, min_calls=20)
    await calls("observe", 20, seconds=0.0001)
    await calls("offload", 20, seconds=0.009)
    assert row().reverted is None
    await calls("observe", 20, seconds=0.1)
    await calls("offload", 20, seconds=0.29)
    assert row().reverted is None
    await calls("offload", 2, seconds=0.31)
    assert row().reverted == (
        "p95 of the last 20 offloaded calls is 310 ms, and 100 ms of the last 20 others; the guard goes back at more "
        "than 3 times"
    )


async def test_no_connection_in_time(database: dict[str, Any]) -> None:
    """CheckoutTimeouts count also before there are many calls, and whatever the handler makes of them."""
    with pool_of(1, database, checkout_timeout=0.02, on_loop_call="allow") as pool:

        @offload
        async def asking() -> None:
            try:
                pool.connection()
            except Exception:
                return

        name = f"{__name__}.{asking.__qualname__}"
        rollout.set(name, "offload")
        rollout.guard("*", checkout_timeouts=3)
        held = pool.connection()
        for expected in ("offload", "offload", "observe"):
            await asking()
            assert row(name).mode == expected
        held.close()
    assert row(name).arms["offload"].checkout_timeouts == 3
    assert row(name).reverted == ("3 CheckoutTimeouts in the last 3 offloaded calls; the guard goes back from 3 on")


@pytest.mark.parametrize("setting", ["error_ratio", "p95_ratio"])
async def test_what_is_none_is_not_compared(setting: str) -> None:
    """Each of the comparisons can be left out."""
    halves()
    rollout.guard(HANDLER, min_calls=5, **{setting: None})  # type: ignore[arg-type]  # see the names
    await calls("observe", 5)
    await calls("offload", 5, **({"failing": 5} if setting == "error_ratio" else {"seconds": 1.0}))
    assert row().reverted is None


async def test_calls_of_earlier_count_where_all_are_offloaded() -> None:
    """At 100 % there is no other arm any more; what it was like before is compared with."""
    halves()
    rollout.guard(HANDLER, min_calls=10)
    await calls("observe", 10)
    await calls("offload", 10)
    rollout.set(HANDLER, "offload")
    await calls("offload", 10, seconds=1.0)
    assert row().reverted is not None


async def test_it_goes_back_once_and_nobody_undoes_it() -> None:
    """What was under way then, or is good afterwards, changes nothing; who sets it anew is watched anew."""
    halves()
    rollout.guard(HANDLER, min_calls=5)
    await calls("observe", 5)
    await calls("offload", 5, failing=5)
    first = row()
    assert first.reverted is not None
    await calls("observe", 20)
    await handler(0.02)
    assert (row().mode, row().share, row().reverted) == ("observe", 1.0, first.reverted)
    assert row().arms["offload"].calls == 5
    halves()
    assert row().reverted is None
    await calls("observe", 5)
    await calls("offload", 4, failing=4)
    assert row().reverted is None
    await calls("offload", 1, failing=1)
    assert row().reverted == first.reverted


async def test_where_the_other_mode_is_block() -> None:
    """It goes back to the mode that the others were in."""
    rollout.set(HANDLER, "block", share=0.5)
    rollout.guard(HANDLER, min_calls=5)
    await calls("block", 5)
    await calls("offload", 5, failing=5)
    assert (row().mode, row().share) == ("block", 1.0)


async def test_a_guard_of_less_than_the_rule() -> None:
    """Where a rule is for more than the guard, what the guard is for goes back alone."""
    rollout.set("*", "offload", share=0.5)
    rollout.guard(HANDLER, min_calls=5)
    await calls("observe", 5)
    await calls("offload", 5, failing=5)
    assert (row("*").mode, row("*").share, row("*").reverted) == ("offload", 0.5, None)
    assert (row().mode, row().share) == ("observe", 1.0)
    assert row().reverted is not None


async def test_rules_are_watched_apart() -> None:
    """A guard of everything compares each rule's calls with each other, and takes back that rule alone."""

    @offload
    async def slow() -> None:
        Clock.now += 5.0

    name = f"{__name__}.{slow.__qualname__}"
    halves()
    rollout.set(name, "offload", share=0.5)
    rollout.guard(min_calls=5)
    await calls("observe", 5)
    inside.choose_next("offload")
    for _ in range(5):
        await slow()
    await calls("offload", 5, failing=5)
    assert (row(name).reverted, row().reverted is None) == (None, False)


async def test_cancelled_calls_count_for_nothing() -> None:
    """Who leaves has found no fault."""

    @offload
    async def left() -> None:
        raise KeyboardInterrupt

    name = f"{__name__}.{left.__qualname__}"
    rollout.set(name, "offload", share=0.5)
    rollout.guard(min_calls=1)
    for mode in ("observe", "offload", "offload", "offload"):
        inside.choose_next(mode)
        with pytest.raises(KeyboardInterrupt):
            await left()
    assert row(name).reverted is None


async def test_a_guard_can_be_ended() -> None:
    """From then on it watches no more; ending it twice is fine."""
    halves()
    guard = rollout.guard(HANDLER, min_calls=5)
    assert repr(guard) == f"<Guard of {HANDLER}>"
    guard.end()
    guard.end()
    assert repr(guard) == f"<Guard of {HANDLER}, ended>"
    await calls("observe", 5)
    await calls("offload", 5, failing=5)
    assert row().reverted is None


async def test_it_looks_no_more_often_than_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within an interval after a comparison there is none."""
    halves()
    rollout.guard(HANDLER, min_calls=5, interval=60.0)
    looks: list[int] = []
    inside.on_judging(monkeypatch, looks.append)
    await calls("observe", 5)
    await calls("offload", 5, failing=5)
    assert len(looks) == 1
    assert row().reverted is None


async def test_a_forked_child_compares_anew() -> None:
    """A thread of the parent may have been noting a call: the child waits for none, and judges by its own calls."""
    halves()
    guard = rollout.guard(HANDLER, p95_ratio=None, min_calls=4, interval=1e-9)
    await calls("observe", 4)
    await calls("offload", 3, failing=3)
    inside.hold(guard)
    inside.after_fork()
    assert not inside.held(guard)
    await calls("offload", 4, failing=4)
    assert guard.reason is None
    await calls("observe", 4)
    assert guard.reason is not None
