"""Several blocking calls in one thread: while one waits for its server, the others go on.

Owns the switching between the calls, and how a socket is read and written without keeping the thread. Knows neither
event loops nor statements.
"""

from __future__ import annotations

import io
import math
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVar

import greenlet

from ..errors import ThreadUnavailable
from .background import start_thread
from .greenlet_pool import greenlet_for
from .hops import Hop

T = TypeVar("T")

# Windows has no poll().
POSSIBLE = hasattr(select, "poll")

# Bytes that a socket takes at once if it has sent all before; Linux lets no socket have less room.
TAKEN_AT_ONCE = 4096

# Seconds after which those who wait for calls are told of what is over, while there still is something to do. To be
# told wakes them, and each then takes the interpreter from the other in turn.
TOLD_AFTER = 0.001

# Seconds for which the thread stays when all calls are over: to begin anew costs as much as some small queries.
STAYS = 0.01

# Seconds after which a thread gets no further calls, because one of those it has keeps it from looking at the others:
# it may be making dictionaries of a hundred thousand rows.
BUSY = 0.02

# The most milliseconds that poll() takes. Who has to wait for longer does so several times.
_POLL_MAX = 2**31 - 1


class Call(Protocol):
    """What runs in a shared thread."""

    @property
    def context(self) -> Context | None:
        """The context that it runs in."""

    def __call__(self) -> None:
        """Do it; raises nothing."""


_here = threading.local()


def current_reactor() -> Reactor | None:
    """Return the reactor that runs this thread, None where the thread makes one call alone."""
    return getattr(_here, "reactor", None)


class Reactor:
    """Runs several calls in one thread, also those that are added meanwhile.

    A call that never waits by :meth:`wait` keeps the thread until it is done, as it does without a reactor. A lock that
    one of the calls holds while it waits must not be wanted by another one.
    """

    def __init__(self) -> None:
        """Get ready.

        :raises OSError: if there are too many open files
        """
        # Held for a few instructions only.
        self._lock = threading.Lock()
        self._open = True
        self._tell_by = 0.0
        self._seen = math.inf  # nothing keeps a thread that has not begun yet
        self._asleep = False
        self._added: deque[Call] = deque()
        self._waker: tuple[int, ...] = os.pipe()
        for end in self._waker:
            os.set_blocking(end, False)  # the loop's thread writes
        self._waiting: dict[int, tuple[Any, float | None]] = {}

    def add(self, calls: Iterable[Call]) -> bool:
        """Give the thread further calls, from any thread; False if it takes none, because it ends or is too busy."""
        with self._lock:
            if not self._open or (not self._asleep and time.monotonic() > self._seen + BUSY):
                return False
            self._added.extend(calls)
            if self._asleep:
                try:
                    os.write(self._waker[1], b"\0")
                except BlockingIOError:  # it is full: then the thread wakes up as well
                    pass
                self._asleep = False
            return True

    def run(self, progress: Callable[[], None]) -> None:
        """Run the calls that were added, those that are added meanwhile, and those that come soon after.

        :param progress: called now and then when calls may have come to their end, and before each long wait
        """
        self._greenlet = greenlet.getcurrent()
        self._poll = select.poll()
        try:
            self._poll.register(self._waker[0], select.POLLIN)
            _here.reactor = self
            # Where nothing happened, progress() was called after the last that did.
            while self._resume(progress) or self._goes_on():
                while self._added:
                    call = self._added.popleft()
                    greenlet_for(type(call).__call__, call, call.context).switch()
                    del call  # not to keep it for as long as the others take
        except BaseException:  # such as too little memory: nobody will come by any more
            while self._waiting:
                _, (waiting, _) = self._waiting.popitem()
                waiting.switch(False)
            raise
        finally:
            _here.reactor = None
            # When a thread has ended, greenlet looks for whoever keeps the thread's own greenlet, and takes away the
            # one reference that it cannot find. What is just being collected it does not see, and Python crashes.
            del self._greenlet
            self.close()

    def __del__(self) -> None:
        if getattr(self, "_waker", None):  # its thread never came
            self.close()

    def close(self) -> None:
        """Take no more calls."""
        with self._lock:
            self._open = False
            while self._waker:
                os.close(self._waker[0])
                self._waker = self._waker[1:]

    def _goes_on(self) -> bool:
        with self._lock:
            self._open = bool(self._added or self._waiting)
            return self._open

    def wait(self, sock: socket.socket, events: int, seconds: float | None) -> None:
        """Let other calls go on until the socket is ready.

        :param events: of :func:`select.poll`
        :raises TimeoutError: if it is not within *seconds*
        """
        descriptor = sock.fileno()
        if descriptor < 0:
            return  # it is closed: who reads or writes it finds that out
        self._poll.register(descriptor, events)
        self._waiting[descriptor] = (greenlet.getcurrent(), None if seconds is None else time.monotonic() + seconds)
        if not self._greenlet.switch():
            raise TimeoutError("timed out")

    def aside(self, function: Callable[[], T]) -> T:
        """Call what keeps its thread while it waits in another one, and let other calls go on meanwhile.

        Where no other thread can be had, it keeps this one.
        """
        try:
            over, end = socket.socketpair()
        except OSError:  # too many open files
            return function()
        hop = Hop(function)

        def run() -> None:
            with end:
                hop.run()

        with over, end:
            try:
                thread = start_thread(run, "aside")
            except ThreadUnavailable:
                return function()
            try:
                self.wait(over, select.POLLIN, None)
            finally:
                thread.join()  # which is at its end, unless this one has failed
        return hop.outcome()

    def _resume(self, progress: Callable[[], None]) -> bool:
        """Wait until calls can go on or others are added, and let those go on that can; False if nothing happened."""
        self._seen = time.monotonic()
        ends = None
        for _, end in self._waiting.values():
            if end is not None and (ends is None or end < ends):
                ends = end
        ready = self._poll.poll(0)
        if not ready or self._seen > self._tell_by:
            progress()
            self._tell_by = self._seen + TOLD_AFTER
        if not ready:
            ready = self._sleep(ends)
        late: set[int] = set()
        if ends is not None and ends <= (now := time.monotonic()):
            late = {number for number, (_, end) in self._waiting.items() if end is not None and end <= now}
        descriptors = {descriptor for descriptor, _ in ready}
        if self._waker[0] in descriptors:
            descriptors.remove(self._waker[0])
            try:
                os.read(self._waker[0], 64)
            except BlockingIOError:
                pass
        for descriptor in descriptors | late:
            self._poll.unregister(descriptor)
            self._waiting.pop(descriptor)[0].switch(descriptor in descriptors)
        return bool(ready or late)

    def _sleep(self, until: float | None) -> list[tuple[int, int]]:
        """Wait for a call that can go on or is added, or for the time at which the first is late."""
        if not self._waiting:
            until = time.monotonic() + STAYS
        patience = None if until is None else min(max(0.0, until - time.monotonic()) * 1000 + 1, _POLL_MAX)
        with self._lock:
            self._asleep = not self._added
        ready = self._poll.poll(patience if self._asleep else 0)
        self._seen = time.monotonic()  # before who adds calls may ask for it
        self._asleep = False
        return ready


class PatientIO(socket.SocketIO):
    """What a connection reads from: in a shared thread, other calls go on while it waits."""

    _sock: socket.socket

    def readinto(self, buffer: Any) -> int | None:
        """Read what is there, or wait for it."""
        reactor, sock = getattr(_here, "reactor", None), self._sock
        patience = None if reactor is None else sock.gettimeout()
        if reactor is None or patience == 0:
            return super().readinto(buffer)
        if not isinstance(sock, ssl.SSLSocket):
            reactor.wait(sock, select.POLLIN, patience)
            return sock.recv_into(buffer)
        # Only a part of a record may have arrived, and the rest may never do.
        return _patiently(reactor, sock, patience, partial(sock.recv_into, buffer))


def make_patient(reader: Any) -> bool:
    """Let other calls of a shared thread go on while a socket's reader waits; False if it is of another class."""
    if type(reader) is not io.BufferedReader or type(reader.raw) is not socket.SocketIO:
        return False
    reader.raw.__class__ = PatientIO
    return True


def send_all(reactor: Reactor, sock: socket.socket, data: bytes) -> None:
    """Send all of *data*, as :meth:`socket.socket.sendall` does, without keeping the thread.

    Where the other side has answered all that was sent before, up to :data:`TAKEN_AT_ONCE` bytes need no such care.
    """
    patience = sock.gettimeout()
    left = memoryview(data)
    while left:
        left = left[_patiently(reactor, sock, patience, lambda: sock.send(left)) :]  # noqa: B023  # it is called at once


def _patiently(reactor: Reactor, sock: socket.socket, patience: float | None, attempt: Callable[[], int]) -> int:
    """Make an attempt to read or write again and again until the socket is ready for it."""
    sock.settimeout(0.0)
    try:
        while True:
            try:
                return attempt()
            except ssl.SSLWantReadError:
                reactor.wait(sock, select.POLLIN, patience)
            except (BlockingIOError, ssl.SSLWantWriteError):  # only sending meets the first
                reactor.wait(sock, select.POLLOUT, patience)
    finally:
        with suppress(OSError):  # it was closed meanwhile
            sock.settimeout(patience)
