"""Owns the watch on /health: the endpoint that touches no database, and is late only when the event loop is blocked."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from dataclasses import dataclass

INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Poll:
    """One request to /health: when it was sent, by time.monotonic(), and how long its answer took."""

    sent: float
    latency: float


class HealthPoller:
    """Ask for /health every 20 ms on a connection of its own, from a thread of a process that does nothing else.

    While an answer is outstanding no other request is sent, so a blocked loop counts once and not for every 20 ms: what
    this reports about it is too friendly, never too strict.
    """

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=60)
        self._polls: list[Poll] = []
        self._errors: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health poller", daemon=True)

    def __enter__(self) -> HealthPoller:
        self._connection.connect()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the polling; a request that is still unanswered counts with the time it has waited."""
        self._stop.set()
        self._thread.join(2 * INTERVAL)
        if self._thread.is_alive() and (sock := self._connection.sock) is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread up
            except OSError:
                pass  # the server closed it first
        self._thread.join(5)
        self._connection.close()

    def between(self, started: float, ended: float) -> list[Poll]:
        """Return the requests that were outstanding at any moment between *started* and *ended*."""
        return [poll for poll in self._polls if poll.sent <= ended and poll.sent + poll.latency >= started]

    @property
    def errors(self) -> list[str]:
        """Return what went wrong."""
        return list(self._errors)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            sent = time.monotonic()
            try:
                self._connection.request("GET", "/health")
                response = self._connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                if not self._stop.is_set():
                    self._errors.append(f"/health: {error!r}")
                    return
            else:
                if response.status != 200:
                    self._errors.append(f"/health: status {response.status}")
            self._polls.append(Poll(sent, time.monotonic() - sent))
            due = max(due + INTERVAL, time.monotonic())
            self._stop.wait(due - time.monotonic())
