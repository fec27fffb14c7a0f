"""A server that says what a script says, also over TLS: for faults that no real server and no proxy has.

Each connection has a thread of its own, which knows the handshake and nothing of SQL.
"""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fuzz.wire import OK, greeting, lenenc, packets

S = TypeVar("S", bound="Scripted")

Script = Callable[[bytes], bytes | Iterable[bytes]]
"""Gives the bytes that answer a command: what it is, and its text. Of several pieces each is sent by itself."""

_QUIT, _QUERY = 1, 3
_TLS = 0x800


def answer(*rows: tuple[str, ...]) -> bytes:
    """Return a result of texts."""
    width = len(rows[0])
    definition = b"\3def\2db\1t\1t\1c\1c\x0c" + struct.pack("<HIBHB", 45, 40, 253, 0, 0) + b"\0\0"
    told = [bytes((width,)), *[definition] * width, b"\xfe\0\0\2\0"]
    told += [b"".join(lenenc(value.encode()) for value in row) for row in rows]
    return b"".join(packets(body, number) for number, body in enumerate([*told, b"\xfe\0\0\2\0"], 1))


def usual(command: bytes) -> bytes:
    """Answer as a server does that knows one kind of statement: SELECT of a word."""
    text = command[1:].decode()
    if text.startswith("SELECT CONNECTION_ID()"):
        return answer(("7", "8.0.0", "host", "1", "1", "/data"))
    if command[0] == _QUERY and text.startswith("SELECT "):
        return answer((text.split()[1],))
    return packets(OK, 1)


class Scripted:
    """Listens on loopback, and answers as the script says.

    :param folder: where the certificate is written; over TLS if it is given
    """

    def __init__(self, script: Script, folder: Path | None = None) -> None:
        self._script = script
        self._context = None if folder is None else _context(folder)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._clients: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="scripted", daemon=True)]
        self.commands: list[bytes] = []
        """What clients have sent after the handshake."""

    @property
    def address(self) -> dict[str, object]:
        """Where clients connect, as keyword arguments of `pymysql.connect`."""
        host, port = self._listener.getsockname()
        return {"host": host, "port": port, "user": "u", "password": ""}

    def __enter__(self: S) -> S:
        self._threads[0].start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for sock in (self._listener, *self._clients):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._clients.append(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="scripted", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError):
            client.sendall(packets(greeting(0 if self._context is None else _TLS), 0))
            number, _ = _packet(client)
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
                self._clients.append(client)
                number, _ = _packet(client)
            client.sendall(packets(OK, number + 1))
            while True:
                _, command = _packet(client)
                if command[0] == _QUIT:
                    break
                self.commands.append(command)
                told = self._script(command)
                for piece in [told] if isinstance(told, bytes) else told:
                    client.sendall(piece)  # one record
        client.close()


def _packet(client: socket.socket) -> tuple[int, bytes]:
    head = _exactly(client, 4)
    return head[3], _exactly(client, int.from_bytes(head[:3], "little"))


def _exactly(client: socket.socket, number: int) -> bytes:
    told = b""
    while len(told) < number:
        piece = client.recv(number - len(told))
        if not piece:
            raise EOFError
        told += piece
    return told


def _context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + dt.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    file = folder / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
