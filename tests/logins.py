"""A server that asks for what only MySQL's own servers ask for on logging in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.fuzz.wire import greeting, packets
from tests.support import PATIENCE

# What caching_sha2_password answers a login whose password it does not remember, without TLS: send it in full.
IN_FULL = b"\1\4"


@contextmanager
def sha2_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Give the settings of a server that wants the password encrypted by its key, where nothing here can do that."""
    monkeypatch.setattr("pymysql._auth._have_cryptography", False)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client, client.makefile("rb") as reader, suppress(OSError, IndexError):
                    client.sendall(packets(greeting().replace(b"mysql_native_password", b"caching_sha2_password"), 0))
                    for told in (IN_FULL, b"\1-----BEGIN PUBLIC KEY-----"):
                        head = reader.read(4)
                        reader.read(int.from_bytes(head[:3], "little"))
                        client.sendall(packets(told, head[3] + 1))
                    reader.read()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield {"host": "127.0.0.1", "port": listener.getsockname()[1], "user": "u", "password": "a-secret"}
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(PATIENCE)
