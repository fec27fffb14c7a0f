"""A server that says what it is told to say, to a connection of PyMySQL's over a real pair of sockets.

Owns packets, the handshake, and a socket whose reads bring as many bytes as a test wants. Knows no results.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any

WHOLE = 0xFFFFFF
PATIENCE = 0.05
"""Seconds for which a connection waits for what never comes; only in a shared thread they pass."""

_CAPABILITIES = 0x81BFF7FF  # of MySQL 8, without TLS
OK = b"\0\0\0\2\0\0\0"


def packets(body: bytes, number: int) -> bytes:
    """Return a body as the packets that carry it; more than one if it is long."""
    told = b""
    while True:
        piece, body = body[:WHOLE], body[WHOLE:]
        told += struct.pack("<I", len(piece))[:3] + bytes((number % 256,)) + piece
        number += 1
        if len(piece) < WHOLE:
            return told


def lenenc(value: bytes) -> bytes:
    """Return a value behind its length."""
    size = len(value)
    if size < 0xFB:
        return bytes((size,)) + value
    if size < 1 << 16:
        return b"\xfc" + struct.pack("<H", size) + value
    if size < 1 << 24:
        return b"\xfd" + struct.pack("<I", size)[:3] + value
    return b"\xfe" + struct.pack("<Q", size) + value


def greeting(more: int = 0) -> bytes:
    """Return what a server says first, with *more* capabilities."""
    able = _CAPABILITIES | more
    return (
        b"\x0a8.0.0-wire\0"
        + struct.pack("<I", 7)
        + b"saltsalt\0"
        + struct.pack("<H", able & 0xFFFF)
        + struct.pack("<BHHB", 45, 2, able >> 16, 21)
        + bytes(10)
        + b"moresaltmore\0"
        + b"mysql_native_password\0"
    )


class Wire(socket.socket):
    """The client's side of a pair of sockets; says the next answer after each command.

    :param answers: what the server says to each command, byte for byte
    :param pieces: how many bytes each read brings at most, over and over
    :param ends: whether the server hangs up where more is waited for than it says, instead of keeping silent
    """

    def __init__(self, answers: Iterable[bytes], pieces: Iterable[int] = (1 << 16,), *, ends: bool = False) -> None:
        here, self._there = socket.socketpair()
        super().__init__(fileno=here.detach())
        self._answers: Iterator[bytes] = iter([packets(OK, 2), packets(OK, 1), *answers])
        self._pieces = cycle(pieces)
        self._ends = ends
        self._left = memoryview(packets(greeting(), 0))
        self._inside = 0
        self._over = False
        self.received = 0
        self.said = len(self._left)
        self.commands: list[bytes] = []
        self.limits: list[float | None] = []
        self._say()

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def end(self) -> None:
        """Close both sides."""
        self._there.close()
        self.close()

    def settimeout(self, value: float | None) -> None:
        """Set the time limit, and keep it in mind."""
        self.limits.append(value)
        super().settimeout(value)

    def _say(self) -> None:
        """Have one piece under way, if there is one."""
        if self._inside or not self._left:
            return
        piece = self._left[: min(next(self._pieces), 1 << 16)]
        self._left = self._left[len(piece) :]
        self._inside = len(piece)
        self._there.sendall(piece)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Take a command, and have the answer begin."""
        self.send(data, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Take a command, and have the answer begin."""
        number = super().send(data, flags)
        self.commands.append(self._there.recv(1 << 20))
        if not self._over:
            answer = next(self._answers, b"")
            self.said += len(answer)
            self._left = memoryview(bytes(self._left) + answer)
            self._say()
        return number

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Read what is under way."""
        if not self._inside and not self._over:
            if self.gettimeout() == 0:
                raise BlockingIOError
            if not self._ends:
                raise TimeoutError("timed out")
            self._over = True
            self._there.shutdown(socket.SHUT_WR)
        number = super().recv_into(buffer, nbytes, flags)
        self._inside -= number
        self.received += number
        self._say()
        return number


def connect(kind: Any, wire: Wire, **settings: Any) -> Any:
    """Connect by *kind*, PyMySQL's connection or a subclass."""
    connection = kind(user="u", password="", ssl_disabled=True, defer_connect=True, autocommit=None, **settings)
    connection.connect(wire)
    return connection
