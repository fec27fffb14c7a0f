"""Claims about the thread that several functions share: it takes them at any moment, and tells of each one's end."""

from __future__ import annotations

import functools
import random
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import pytest

from offload_db.bridge import reactor
from offload_db.bridge.reactor import BUSY, Reactor, current_reactor
from tests.bridge.reactors import Piece, opened, share
from tests.conftest import MySQL
from tests.support import until, value

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def test_calls_can_be_added_at_any_moment() -> None:
    """A call that is added while the thread falls asleep, wakes up or works is made at once; after the end, never."""
    near, far = socket.socketpair()
    hub, made = Reactor(), threading.Event()

    def hold() -> None:
        hub.wait(near, select.POLLIN, None)

    assert hub.add([Piece(hold)])
    thread = threading.Thread(target=hub.run, args=(lambda: None,))
    thread.start()
    pauses = random.Random(1)
    for _ in range(5000):
        assert hub.add([Piece(made.set)])
        assert made.wait(20)
        made.clear()
        for _ in range(pauses.randrange(200)):
            pass
    far.send(b"x")
    thread.join()
    assert not hub.add([Piece(made.set)])
    assert not made.is_set()
    near.close()
    far.close()


def test_a_call_added_just_as_the_thread_wakes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the thread ends it tells of every call, also where a wake-up came when it was awake already."""
    near, far = socket.socketpair()
    hub = Reactor()
    over: list[str] = []
    told: list[int] = []

    class Poll:
        def __init__(self) -> None:
            self.own = poll()
            self.register, self.unregister = self.own.register, self.own.unregister

        def poll(self, patience: float | None) -> list[tuple[int, int]]:
            ready = self.own.poll(patience)
            if near.fileno() in [descriptor for descriptor, _ in ready]:
                assert hub.add([Piece(functools.partial(over.append, "second"))])
            return ready

    def first() -> None:
        threading.Timer(0.1, far.send, (b"x",)).start()
        hub.wait(near, select.POLLIN, None)
        over.append("first")

    poll = select.poll
    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr(reactor, "TOLD_AFTER", 100)
    hub.add([Piece(first)])
    hub.run(lambda: told.append(len(over)))
    assert over == ["first", "second"]
    assert told[-1] == 2
    near.close()
    far.close()


def test_a_thread_that_breaks_down() -> None:
    """Where a thread cannot go on, the calls that wait in it end as if they were late."""
    near, far = socket.socketpair()
    hub = Reactor()
    late: list[bool] = []

    def wait() -> None:
        try:
            hub.wait(near, select.POLLIN, None)
        except TimeoutError:
            late.append(True)

    def fail() -> None:
        raise MemoryError

    hub.add([Piece(wait), Piece(fail)])
    with pytest.raises(MemoryError):
        hub.run(lambda: None)
    assert late == [True]
    assert not hub.add([])
    near.close()
    far.close()


def test_a_busy_thread_takes_none() -> None:
    """A thread that has not looked at its calls for a while takes no further ones, until it has."""
    near, far = socket.socketpair()
    far.send(b"x")
    hub, entered, leave, looked = Reactor(), threading.Event(), threading.Event(), threading.Event()

    def keep() -> None:
        entered.set()
        leave.wait(30)
        hub.wait(near, select.POLLIN, None)
        looked.set()
        near.recv(1)
        hub.wait(near, select.POLLIN, None)

    assert hub.add([Piece(keep)])
    thread = threading.Thread(target=hub.run, args=(lambda: None,))
    thread.start()
    assert entered.wait(30)
    until(lambda: not hub.add([]))
    leave.set()
    assert looked.wait(30)
    until(lambda: hub.add([]))
    far.send(b"x")
    thread.join()
    near.close()
    far.close()


def test_a_thread_that_has_waited_is_not_busy() -> None:
    """A thread that wakes up from a long wait takes further calls at once."""
    near, far = socket.socketpair()
    hub, took = Reactor(), []

    def wait() -> None:
        threading.Timer(BUSY * 3, far.send, (b"x",)).start()
        hub.wait(near, select.POLLIN, None)
        took.append(hub.add([]))

    hub.add([Piece(wait)])
    hub.run(lambda: None)
    assert took == [True]
    near.close()
    far.close()


def test_patience_for_more_than_poll_takes() -> None:
    """A call that may wait for years, more milliseconds than the system takes, waits until it has something."""
    near, far = socket.socketpair()
    over = []

    def wait() -> None:
        threading.Timer(0.1, far.send, (b"x",)).start()
        current: Any = current_reactor()
        current.wait(near, select.POLLIN, 31536000.0)
        over.append(near.recv(1))

    share(wait)
    assert over == [b"x"]
    near.close()
    far.close()


def test_who_is_over_is_told_while_others_are_busy() -> None:
    """What has come to its end is told soon, also where another call never has to wait."""
    near, far = socket.socketpair()
    far.send(b"x")
    hub, told = Reactor(), threading.Event()
    started = time.monotonic()

    def read() -> None:
        while not told.is_set() and time.monotonic() - started < 10:
            hub.wait(near, select.POLLIN, None)

    hub.add([Piece(read)])
    hub.run(told.set)
    assert told.is_set()
    near.close()
    far.close()


def test_each_call_has_its_own_context(mysql: MySQL) -> None:
    """Context variables of one call are not seen by the others."""
    variable: ContextVar[int] = ContextVar("variable")
    seen: list[int] = []
    with ExitStack() as stack:
        connections = [opened(stack, mysql, tls=False) for _ in range(3)]

        def call(number: int) -> Callable[[], None]:
            def run() -> None:
                variable.set(number)
                value(connections[number], "SELECT SLEEP(%s)", 0.1 * (3 - number))
                seen.append(variable.get())

            return run

        share(*(call(number) for number in range(3)))
        assert seen == [2, 1, 0]
        assert variable.get(None) is None
