"""Claims about the greenlets that are kept for later calls: they carry nothing over from one call to the next."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio.lowlevel
import pytest

from offload_db import offload
from offload_db.bridge import greenlet_pool

pytestmark = pytest.mark.anyio

# A strand may have been made that much deeper in the stack than it is used; and the frames of the portal itself.
TOLERANCE = 32


def frames_left(depth: int = 0) -> int:
    """Call itself until the interpreter refuses; return how often that was possible."""
    try:
        return frames_left(depth + 1)
    except RecursionError:
        return depth


@offload
async def handler() -> int:
    """Tell how many frames the code of a bridged call has for itself."""
    return frames_left()


async def below(depth: int, function: Callable[[], Awaitable[Any]]) -> Any:
    """Await a function with *depth* further frames above it."""
    return await (below(depth - 1, function) if depth else function())


@pytest.fixture(autouse=True)
def _none_kept() -> None:
    greenlet_pool._here.idle.clear()


async def test_a_call_deep_in_the_stack_takes_no_frames_from_later_ones() -> None:
    """After calls from any depth a bridged call has as many frames left as code that is not bridged."""
    first = await handler()
    greenlet_pool._here.idle.clear()
    expected = frames_left()
    assert first == pytest.approx(expected, abs=TOLERANCE)
    for depth in (700, 300, 50, 700):
        deep = await below(depth, handler)
        assert deep > 0
        assert await handler() == pytest.approx(expected, abs=TOLERANCE)


async def test_calls_side_by_side_from_different_depths() -> None:
    """Strands that wait meanwhile, made at any depth, are used again only by calls from about as deep, or deeper."""

    @offload
    async def wait() -> None:
        await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for depth in range(0, 800, 50):
            group.start_soon(below, depth, wait)
    for _ in range(20):
        assert await handler() == pytest.approx(frames_left(), abs=TOLERANCE)


async def test_a_strand_is_used_again_by_calls_from_as_deep(anyio_backend_name: str) -> None:
    """Calls from the same depth, and from a little less or more, use one strand after the other again."""
    if anyio_backend_name != "asyncio":
        pytest.skip("trio's calls have no strands")
    kept: set[int] = set()
    for depth in (10, 10, 5, 20, 300, 10):
        await below(depth, handler)
        kept |= {id(strand) for strand in greenlet_pool._here.idle}
    assert len(kept) == 1


async def test_endless_recursion_is_an_error_at_any_depth() -> None:
    """A bridged call with hardly a frame left, or that recurses without end, raises RecursionError and no more."""
    await handler()  # a strand that was made at the top
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit(), 5):
        try:
            await below(depth, handler)
        except RecursionError:
            pass
    assert await handler() == pytest.approx(frames_left(), abs=TOLERANCE)
