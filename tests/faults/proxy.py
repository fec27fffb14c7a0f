"""A TCP proxy between the library and a server, which disturbs the traffic on demand.

Each link has two threads, one for each direction. Every disturbance is a method; it holds until it is taken back.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

Way = Literal["to server", "to client"]

# Closing a socket with this option sends a reset instead of an orderly end.
RESET = struct.pack("ii", 1, 0)


class _Link:
    """One client's connection and its counterpart at the server."""

    def __init__(self, client: socket.socket, server: socket.socket | None, target: tuple[str, int]) -> None:
        self.client = client
        self.server = server
        self.target = target
        self.over = threading.Event()
        self.doubling = threading.Event()
        """Set when the server's next answer is to be forwarded twice."""
        self.lying = threading.Event()
        """Set when the server's answers are swallowed: the link ends with the next one."""
        self._lock = threading.Lock()
        self._readers = 0 if server is None else 2

    def end(self, *, reset: bool) -> None:
        """Make both sides' readers come back; the last one closes them."""
        with self._lock:
            if self.over.is_set():
                return
            self.over.set()
            for side in self._sides():
                with suppress(OSError):
                    if reset:
                        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    # To shut down for writing would send an orderly end before the reset.
                    side.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            if not self._readers:
                self._close()

    def left(self) -> None:
        """Note that a reader came back; a socket closed under one could be taken for a newer one."""
        with self._lock:
            self._readers -= 1
            if not self._readers:
                self._close()

    def _sides(self) -> list[socket.socket]:
        return [side for side in (self.client, self.server) if side is not None]

    def _close(self) -> None:
        for side in self._sides():
            side.close()


class Proxy:
    """Listens on loopback and forwards to *targets*.

    :param least: forward to the target with the fewest connections, as a balancer's `leastconn` does, and not in turn
    """

    def __init__(self, *targets: tuple[str, int], least: bool = False) -> None:
        self.targets = list(targets)
        self.least = least
        self.disguises: list[tuple[bytes, bytes]] = []
        """What servers say, and what clients are told in its place, which is as long."""
        self.accepted = 0
        """Connections that clients opened so far."""
        self.times: list[float] = []
        """When they did, on the monotonic clock."""
        self.delay = 0.0
        """Seconds that each piece of data is held back."""
        self.deaf = False
        """Whether new connections are accepted and then left without a word."""
        self.port = 0
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._budgets: dict[Way, int] = {}
        self._silence: int | None = None
        self._traps: list[tuple[bytes, str]] = []
        self._doubled: list[bytes] = []
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Proxy:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        self._flowing.set()
        for thread in self._threads:
            thread.join(10)

    @property
    def address(self) -> dict[str, object]:
        """Where clients connect, as keyword arguments of `pymysql.connect`."""
        return {"host": "127.0.0.1", "port": self.port}

    @property
    def links(self) -> int:
        """How many connections stand."""
        return len(self._links)

    def start(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._spawn(lambda: self._accept(listener))

    def stop(self, *, reset: bool = False) -> None:
        """Refuse new connections and end those that stand."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.cut(reset=reset)

    def cut(self, *, reset: bool = False) -> None:
        """End all connections, by a reset or in order; new ones are welcome."""
        with self._lock:
            links = list(self._links)
            self._links.clear()
        for link in links:
            link.end(reset=reset)

    @property
    def flows(self) -> bool:
        """Whether anything is forwarded."""
        return self._flowing.is_set()

    def blackhole(self) -> None:
        """Forward nothing any more, on old and on new connections; nobody is told."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again, also what was held back."""
        self._flowing.set()

    def silence_after(self, number: int) -> None:
        """Become a black hole when the server has sent *number* more bytes."""
        with self._lock:
            self._silence = number

    def cut_after(self, number: int, way: Way) -> None:
        """End a connection by reset after *number* more bytes in one direction."""
        with self._lock:
            self._budgets[way] = number

    def trap(self, statement: bytes, when: Literal["before", "after"]) -> None:
        """End the next connection that carries *statement*: before the server gets it, or just before its answer."""
        with self._lock:
            self._traps.append((statement, when))

    def double(self, statement: bytes) -> None:
        """Forward the answer to the next *statement* twice, in one piece; it has to be a short one."""
        with self._lock:
            self._doubled.append(statement)

    def _spawn(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            target = self._next_target()
            self.accepted += 1
            self.times.append(time.monotonic())
            server = None
            if not self.deaf:
                try:
                    server = socket.create_connection(target, timeout=10)
                except OSError:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.close()
                    continue
            for side in (client, server):
                if side is not None:
                    side.settimeout(0.2)
                    side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = _Link(client, server, target)
            with self._lock:
                self._links.add(link)
                stopped = self._listener is not listener
            if server is not None:
                self._spawn(lambda link=link: self._pump(link, "to server"))  # type: ignore[misc]
                self._spawn(lambda link=link: self._pump(link, "to client"))  # type: ignore[misc]
            if stopped:
                self._end(link)

    def _next_target(self) -> tuple[str, int]:
        if not self.least:
            return self.targets[self.accepted % len(self.targets)]
        with self._lock:
            standing = Counter(link.target for link in self._links)
        return min(self.targets, key=standing.__getitem__)

    def _end(self, link: _Link, *, reset: bool = False) -> None:
        with self._lock:
            self._links.discard(link)
        link.end(reset=reset)

    def _pump(self, link: _Link, way: Way) -> None:
        assert link.server is not None
        source, sink = (link.client, link.server) if way == "to server" else (link.server, link.client)
        reset = False
        try:
            while not link.over.is_set():
                try:
                    data = source.recv(65536)
                except TimeoutError:
                    continue
                if not data:
                    break
                if self.delay:
                    time.sleep(self.delay)
                while not self._flowing.wait(0.2):
                    if link.over.is_set():
                        return
                data, reset = self._censored(link, way, data)
                if way == "to client":
                    for said, told in self.disguises:
                        data = data.replace(said, told)
                data, held = self._silenced(way, data)
                _send(link, sink, data)
                if reset:
                    break
                while not self._flowing.wait(0.2):
                    if link.over.is_set():
                        return
                _send(link, sink, held)
        except OSError:
            pass
        finally:
            self._end(link, reset=reset)
            link.left()

    def _silenced(self, way: Way, data: bytes) -> tuple[bytes, bytes]:
        """Divide *data* into what is forwarded now and what only when the traffic flows again."""
        with self._lock:
            if self._silence is None or way == "to server":
                return data, b""
            if len(data) <= self._silence:
                self._silence -= len(data)
                return data, b""
            said, self._silence = self._silence, None
            self._flowing.clear()
            return data[:said], data[said:]

    def _censored(self, link: _Link, way: Way, data: bytes) -> tuple[bytes, bool]:
        """Return what of *data* is forwarded, and whether the link is reset after it."""
        with self._lock:
            if way == "to client" and link.lying.is_set():
                return b"", True
            if way == "to client" and link.doubling.is_set():
                link.doubling.clear()
                return data * 2, False
            if way == "to server":
                for statement in [statement for statement in self._doubled if statement in data]:
                    self._doubled.remove(statement)
                    link.doubling.set()
                for trap in self._traps:
                    if trap[0] in data:
                        self._traps.remove(trap)
                        if trap[1] == "before":
                            return b"", True
                        link.lying.set()
                        break
            budget = self._budgets.get(way)
            if budget is None:
                return data, False
            if len(data) < budget:
                self._budgets[way] = budget - len(data)
                return data, False
            del self._budgets[way]
            return data[:budget], True


def _send(link: _Link, sink: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view and not link.over.is_set():
        try:
            view = view[sink.send(view) :]
        except TimeoutError:
            continue
