"""Owns a real server for applications of the tests, and a real client for its WebSockets."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support import PATIENCE, in_thread, until


@contextmanager
def served(app: Any, *, loop: Any = "asyncio", lifespan: Any = "off", ws: Any = "none") -> Iterator[str]:
    """Run *app* under uvicorn in a thread, and give its address."""
    import uvicorn

    with warnings.catch_warnings(), socket.socket() as listener:
        warnings.simplefilter("ignore", DeprecationWarning)
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan=lifespan, ws=ws, loop=loop))
        done = in_thread(lambda: server.run(sockets=[listener]))
        until(lambda: server.started or done.done())
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            done.result(PATIENCE)


class Socket:
    """A WebSocket of a client that waits for each answer.

    :param address: of the server
    :param path: of the WebSocket
    """

    def __init__(self, address: str, path: str) -> None:
        import wsproto
        from wsproto.events import Request

        host, _, port = address.removeprefix("http://").partition(":")
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self._send(Request(host=host, target=path))

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def _send(self, event: Any) -> None:
        self._socket.sendall(self._protocol.send(event))

    def event(self) -> Any:
        """Wait for what the server says next, and return wsproto's event for it."""
        while True:
            for event in self._protocol.events():
                return event
            data = self._socket.recv(65536)
            self._protocol.receive_data(data or None)

    def say(self, text: str) -> None:
        """Send a text."""
        from wsproto.events import Message

        self._send(Message(data=text))

    def ask(self, text: str) -> str:
        """Send a text, and wait for the one that answers it."""
        self.say(text)
        answer: str = self.event().data
        return answer
