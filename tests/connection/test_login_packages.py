"""Logins that need a package which is not installed: the error is the driver's, and names the remedy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pymysql
import pytest

import offload_db
from tests.fuzz.wire import greeting, packets
from tests.support import PATIENCE, pool_of

# What caching_sha2_password answers a login whose password it does not remember, without TLS: send it in full.
IN_FULL = b"\1\4"
ASKS_FOR_KEY = b"\2"


@pytest.fixture
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
    yield {"host": "127.0.0.1", "port": listener.getsockname()[1], "user": "u", "password": "a-secret"}
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE)


@pytest.mark.parametrize("kind", ["pool", "a pool that is not fast", "unpooled"])
def test_the_error_names_the_remedy(kind: str, sha2_server: dict[str, Any]) -> None:
    """A login that needs cryptography fails with an OperationalError that names the extra, and the way without it."""
    with ExitStack() as stack:
        opening: Callable[[], Any]
        if kind == "unpooled":
            opening = lambda: offload_db.connect(**sha2_server)  # noqa: E731  # one of three
        else:
            pool = stack.enter_context(pool_of(1, sha2_server, fast=kind == "pool"))
            opening = lambda: pool.connection().cursor()  # noqa: E731  # as above
        with pytest.raises(pymysql.err.OperationalError, match=r"'offload-db\[rsa\]', or connect over TLS") as caught:
            opening()
        assert caught.value.args[0] == 2059
        assert "a-secret" not in str(caught.value)


def test_another_error_of_this_kind_stays_what_it_is() -> None:
    """A RuntimeError of the user's own function that connects is raised as it is."""

    def connect(**kwargs: Any) -> Any:
        raise RuntimeError("the vault is sealed")

    with pool_of(1, {}, creator=connect) as pool, pytest.raises(RuntimeError, match="the vault is sealed"):
        pool.connection().cursor()
