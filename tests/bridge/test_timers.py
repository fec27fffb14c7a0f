"""Claims about timers: what they cost while nothing is over, and what happens when it is."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest

from offload_db.bridge import background
from offload_db.bridge.background import Timer
from offload_db.errors import ThreadUnavailable
from tests.inside import end_timer_thread, fail_at_timers, looks_at_timers, timers, timers_are_waited_for
from tests.support import PATIENCE, Gate, in_thread, paused_before_step, until


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Begin and end each test without the timers' thread, and fail one that leaves a timer behind."""
    end_timer_thread()
    yield
    assert timers() == 0
    end_timer_thread()


@contextmanager
def no_threads() -> Iterator[None]:
    """Let no further thread be started in the block."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield


def started(seconds: float, function: Callable[[], object], name: str = "limit") -> Timer:
    timer = Timer(seconds, function, name)
    timer.start()
    return timer


def never() -> None:
    raise AssertionError("this timer was ended")


def test_those_that_are_ended_cost_one_thread_and_wake_it_hardly_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of limits, one after the other or many at once, take one thread, which sleeps; none is kept."""
    looks = looks_at_timers(monkeypatch)
    threads = set(threading.enumerate())
    for _ in range(2000):
        started(30.0, never).end()
    many = [started(30.0 + number, never) for number in range(200)]
    assert {thread.name for thread in set(threading.enumerate()) - threads} == {"offload_db timer"}
    assert timers() == 200
    for timer in many:
        timer.end()
    assert len(looks) < 10, "one when it begins, and one more for each that came in the middle of a look"
    assert timers() == 0


def test_a_function_is_called_in_a_thread_of_its_own() -> None:
    """What takes long keeps no other timer from being over; the thread has the name that was given."""
    gate, names = Gate(), list[str]()
    slow = [started(0.01, gate) for _ in range(3)]
    until(lambda: gate.inside == 3)
    started(0.01, lambda: names.append(threading.current_thread().name), "keep")
    until(lambda: names)
    assert names == ["offload_db keep"]
    gate.open()
    for timer in slow:
        timer.end()
    assert gate.inside == 0


def test_they_are_over_in_their_order() -> None:
    """One that is over sooner than those before it is not kept waiting by them, nor one that comes in between."""
    over: list[int] = []
    pending = [started(seconds, partial(over.append, number)) for number, seconds in enumerate((60.0, 0.4, 0.2, 0.3))]
    until(lambda: len(over) == 3)
    assert over == [2, 3, 1]
    pending[0].end()


def test_ending_waits_for_what_is_being_called() -> None:
    """Who has ended a timer knows that its function does not run any more, and that it will not."""
    gate = Gate()
    timer = started(0.0, gate)
    until(lambda: gate.inside == 1)
    ending = in_thread(timer.end)
    time.sleep(0.05)
    assert not ending.done()
    gate.open()
    ending.result(PATIENCE)
    timer.end()
    Timer(1.0, never, "limit").end()


def test_ending_at_every_moment_of_its_being_over() -> None:
    """Whatever step the calling has come to, it is over or never begins once the timer is ended."""
    for number in itertools.count(1):
        calls, seen = list[str](), list[list[str]]()

        def function(calls: list[str] = calls) -> None:
            calls.append("in")
            time.sleep(0.002)
            calls.append("out")

        timer = started(60.0, function)

        def end(timer: Timer = timer, calls: list[str] = calls, seen: list[list[str]] = seen) -> None:
            timer.end()
            seen.append(calls[:])

        reached = paused_before_step(number, timer.expire, end)
        timer.end()
        for each in (*seen, calls):
            assert each in ([], ["in", "out"])
        assert not seen or seen[0] == calls
        if not reached:
            break
    assert number > 5


def test_a_finaliser_may_start_and_end_one_at_every_step() -> None:
    """Timers that are used in the middle of another one's start, waking or end, in the same thread, change nothing."""
    file = background.__file__

    def use(number: int) -> int:
        """Use a timer, and use another one before each of the lines from *number* on; return how many there are."""
        lines = 0

        def step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != file:
                return None
            if event == "line":
                lines += 1
                if lines == number:
                    started(40.0, never).end()
            return step

        before = sys.gettrace()
        sys.settrace(step)
        try:
            started(50.0, never).end()
        finally:
            sys.settrace(before)
        return lines

    lines = use(0)
    assert lines > 10
    for number in range(1, lines + 1):
        end_timer_thread()
        in_thread(partial(use, number)).result(PATIENCE)
        assert timers() == 0
    over = threading.Event()
    started(0.01, over.set)
    assert over.wait(PATIENCE)


def test_from_many_threads() -> None:
    """Timers of many threads are over in time or are ended; each is called once at most, and none is lost."""
    ended = [0] * 4
    calls: list[object] = []

    def use(thread: int) -> None:
        for number in range(300):
            timer = started((number % 5) * 0.0005, partial(calls.append, (thread, number)))
            time.sleep((number % 3) * 0.0005)
            if timer.cancel():
                ended[thread] += 1

    threads = [in_thread(partial(use, thread)) for thread in range(4)]
    for thread in threads:
        thread.result(PATIENCE)
    until(lambda: len(calls) + sum(ended) == 1200)
    assert len(set(calls)) == len(calls)


def test_nothing_is_kept_alive() -> None:
    """What a timer would have called is gone with the timer, without the garbage collector, also if it was called."""

    class Owner:
        def stop(self) -> None:
            called.set()

    called = threading.Event()
    gc.disable()
    try:
        owner = Owner()
        known = weakref.ref(owner)
        started(60.0, owner.stop).end()
        del owner
        assert known() is None
        owner = Owner()
        known = weakref.ref(owner)
        timer = started(0.0, owner.stop)
        del owner
        assert called.wait(PATIENCE)
        timer.end()
        del timer
        until(lambda: known() is None)
    finally:
        gc.enable()


def test_the_thread_ends_when_it_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes after a while without timers, not before, and the next timer has another one."""
    monkeypatch.setattr(background, "STAYS", 0.05)
    timer = started(60.0, never)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "offload_db timer")
    assert thread.daemon
    time.sleep(0.2)
    assert timers_are_waited_for()
    timer.end()
    thread.join(PATIENCE)
    assert not timers_are_waited_for()
    over = threading.Event()
    started(0.01, over.set)
    assert over.wait(PATIENCE)


def test_ending_and_starting_of_the_thread_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step the end of the thread has come to when the next timer is started: that one is over in time."""
    # Not 0.0: while a timer of another test's is pending, the thread would take all of the interpreter's time.
    monkeypatch.setattr(background, "STAYS", 0.0003)
    for pause in range(60):
        over = threading.Event()
        started(0.0, over.set)
        assert over.wait(PATIENCE)
        time.sleep(pause * 0.00002)


def test_without_a_thread() -> None:
    """Who would be the first to need the timers' thread is told; where it is there, it calls what is over by itself."""
    with no_threads():
        timer = Timer(0.01, never, "limit")
        with pytest.raises(ThreadUnavailable):
            timer.start()
        timer.end()
    kept = started(60.0, never)
    with no_threads():
        started(0.01, never)  # an error of one is no other's
        names: list[str] = []
        started(0.02, lambda: names.append(threading.current_thread().name))
        until(lambda: names)
        assert names == ["offload_db timer"]
    kept.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it ends for want of memory, the next timer starts another, which also calls what the first had to."""
    over = threading.Event()
    with monkeypatch.context() as patch:
        fail_at_timers(patch)
        started(0.0, over.set)
        until(lambda: "offload_db timer" not in {thread.name for thread in threading.enumerate()})
    assert not over.is_set()
    started(60.0, never).end()
    assert over.wait(PATIENCE)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_has_a_thread_of_its_own() -> None:
    """The parent's timers are not the child's: it calls none, waits for none, and its own are over in time."""
    gate = Gate()
    kept, running = started(60.0, never), started(0.0, gate)
    until(lambda: gate.inside == 1)
    child = os.fork()
    if child == 0:
        over = threading.Event()
        started(0.01, over.set)
        good = over.wait(PATIENCE) and timers() == 0
        kept.end()
        running.end()  # which is being called in the parent
        os._exit(0 if good else 1)
    gate.open()
    kept.end()
    running.end()
    assert os.waitpid(child, 0)[1] == 0
