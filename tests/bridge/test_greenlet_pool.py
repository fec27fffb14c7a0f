"""Claims about the greenlets that are kept for later calls: they carry nothing over from one call to the next."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import anyio.lowlevel
import pytest

from offload_db import offload
from tests.bridge.inside import idle_greenlets
from tests.bridge.reactors import opened, share
from tests.conftest import MySQL
from tests.support import until, value

pytestmark = pytest.mark.anyio

# A greenlet may have been made that much deeper in the stack than it is used; and the frames of the portal itself.
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
    idle_greenlets().clear()


async def test_a_call_deep_in_the_stack_takes_no_frames_from_later_ones() -> None:
    """After calls from any depth a bridged call has as many frames left as code that is not bridged."""
    first = await handler()
    idle_greenlets().clear()
    expected = frames_left()
    assert first == pytest.approx(expected, abs=TOLERANCE)
    for depth in (700, 300, 50, 700):
        deep = await below(depth, handler)
        assert deep > 0
        assert await handler() == pytest.approx(expected, abs=TOLERANCE)


async def test_calls_side_by_side_from_different_depths() -> None:
    """Greenlets that wait meanwhile, made at any depth, are used again only by calls from about as deep, or deeper."""

    @offload
    async def wait() -> None:
        await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for depth in range(0, 800, 50):
            group.start_soon(below, depth, wait)
    for _ in range(20):
        assert await handler() == pytest.approx(frames_left(), abs=TOLERANCE)


async def test_a_greenlet_is_used_again_by_calls_from_as_deep() -> None:
    """Calls from the same depth, and from a little less or more, use one greenlet after the other again."""
    kept: set[int] = set()
    for depth in (10, 10, 5, 20, 300, 10):
        await below(depth, handler)
        kept |= {id(greenlet) for greenlet in idle_greenlets()}
    assert len(kept) == 1


async def test_what_interrupts_leave_behind() -> None:
    """An interrupt at the end of a call ends its greenlet, or leaves an error in it, and no later call sees that."""
    await handler()
    (greenlet,) = idle_greenlets()
    greenlet.errors.append(LookupError())
    assert await handler() > 0
    assert idle_greenlets() == [greenlet]
    greenlet.throw()
    assert await handler() > 0
    assert idle_greenlets() != [greenlet]


async def test_an_error_keeps_the_greenlet() -> None:
    """A call that raises an error leaves its greenlet to the next one, and nothing of the error in it."""

    class Failed(Exception):
        pass

    @offload
    async def fail() -> None:
        raise Failed

    async def failed() -> weakref.ref[BaseException]:
        try:
            await fail()
        except Failed as error:
            return weakref.ref(error)
        raise AssertionError("it raised nothing")

    await handler()
    kept = idle_greenlets()[:]
    gc.collect()
    gc.disable()
    try:
        error = await failed()
        assert idle_greenlets() == kept
        assert error() is None
        assert await handler() > 0
    finally:
        gc.enable()


async def test_endless_recursion_is_an_error_at_any_depth() -> None:
    """A bridged call with hardly a frame left, or that recurses without end, raises RecursionError and no more."""
    await handler()  # a greenlet that was made at the top
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit(), 5):
        try:
            await below(depth, handler)
        except RecursionError:
            pass
    assert await handler() == pytest.approx(frames_left(), abs=TOLERANCE)


def test_greenlets_are_used_again_and_end_with_their_thread(mysql: MySQL) -> None:
    """A thread keeps what it has shared itself out with, and nothing of it is left when it has ended."""
    kept: set[weakref.ref[Any]] = set()
    with ExitStack() as stack:
        connections = [opened(stack, mysql, tls=False) for _ in range(5)]

        def run() -> None:
            for _ in range(5):
                share(*(functools.partial(value, connection, "SELECT 1") for connection in connections))
                kept.update(map(weakref.ref, idle_greenlets()))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(kept) == 5

    def gone() -> bool:
        gc.collect()
        return all(greenlet() is None for greenlet in kept)

    until(gone)


# When a thread has ended, greenlet asks gc.get_referrers() who keeps the thread's own greenlet, and takes the reference
# away if that finds nobody. It does not see what is being collected.
COLLECTED_WHEN_THE_THREAD_ENDS = """
import gc, threading, weakref
from contextvars import copy_context
from offload_db.bridge.reactor import Reactor

gc.disable()
shared_out = threading.Event()
ends = threading.Event()
watched = []


class Piece:
    context = copy_context()

    def __call__(self):
        pass


def run():
    hub = Reactor()
    hub.hub = hub  # for the collector to find
    watched.append(weakref.ref(hub, collected))
    hub.add([Piece()])
    hub.run(lambda: None)
    del hub
    shared_out.set()
    ends.wait()


def collected(_):
    ends.set()
    thread.join()
    for _ in range(1000):  # for greenlet to notice
        pass
    watched.clear()


thread = threading.Thread(target=run)
thread.start()
shared_out.wait()
gc.collect()
assert not watched
gc.collect()
"""


def test_the_collector_meets_a_thread_that_has_just_ended() -> None:
    """Nothing keeps a thread's own greenlet when the thread no longer shares itself out, or Python may crash."""
    subprocess.run([sys.executable, "-X", "faulthandler", "-c", COLLECTED_WHEN_THE_THREAD_ENDS], check=True, timeout=50)
