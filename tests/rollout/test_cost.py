"""Claims about what the choice costs: counted in Python calls, and in microseconds where nothing is set."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from offload_db import rollout
from tests.benchmarks.rollout_cost import decorated, nothing_looked_at
from tests.benchmarks.test_python_calls import counting
from tests.rollout import inside

NUMBER = 200
MOST_MICROSECONDS = 1.0


async def many(function: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(NUMBER):
        await function()


def calls_of(function: Callable[[], Awaitable[Any]]) -> float:
    """Return the Python calls that one call takes."""

    async def measure() -> float:
        await many(function)
        with counting() as calls:
            await many(function)
        return sum(calls.values()) / NUMBER

    return round(asyncio.run(measure()), 1)


def test_calls_of_python() -> None:
    """Nothing is called to find out that nothing is set; a rule for something else, and a share, cost a few calls."""
    plain = calls_of(nothing_looked_at())
    assert calls_of(decorated) == plain
    rollout.set("app.other", "block")
    rollout.clear()
    assert calls_of(decorated) <= plain + 3
    rollout.set(f"{decorated.__module__}.decorated", "offload", share=0.5)
    assert calls_of(decorated) <= plain + 90


@pytest.mark.alone
@pytest.mark.timing_bound("it measures what takes less than a microsecond")
def test_microseconds() -> None:
    """Where nothing is set, or nothing any more, a call costs less than 1 µs more than if it never looked."""

    async def measure() -> dict[str, float]:
        least: dict[str, float] = {}
        contestants = {"looks": decorated, "looks not": nothing_looked_at(), "cleared": decorated}
        for _ in range(40):
            for name, function in contestants.items():
                inside.forget_everything()
                if name == "cleared":
                    rollout.set("*", "block")
                    rollout.clear()
                began = time.process_time()
                await many(function)
                least[name] = min(least.get(name, 1.0), (time.process_time() - began) / NUMBER)
        return least

    least = asyncio.run(measure())
    assert 1e6 * (least["looks"] - least["looks not"]) < MOST_MICROSECONDS
    assert 1e6 * (least["cleared"] - least["looks not"]) < MOST_MICROSECONDS
