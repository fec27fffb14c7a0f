"""Owns the load: a number of users, each of whom sends the next request when the previous one is answered.

Runs as a process of its own, so that it shares nothing with the server it measures but the machine. It speaks HTTP over
asyncio's protocols without a client library: a request costs it a fraction of what it costs the server, and the share
of a processor that it used is part of its result.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

LONGEST_WARM_UP = 60.0
# Seconds over which the users arrive.
ARRIVAL = 0.08
MOST_ERRORS_KEPT = 5


@dataclass(slots=True)
class Load:
    """What was measured between the end of the warm-up and the end of the run; the clock is time.monotonic()."""

    users: int
    started: float = 0.0
    ended: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: int = 0
    error_samples: list[str] = field(default_factory=list)
    client_cpu: float = 0.0
    """The share of one processor that this process used."""
    answers: list[tuple[float, float, bool]] = field(default_factory=list)
    """Where they are asked for: when each answer came, how long it took, and whether it was right."""

    def fail(self, reason: str) -> None:
        """Count an answer that was wrong, or did not come."""
        self.errors += 1
        if len(self.error_samples) < MOST_ERRORS_KEPT:
            self.error_samples.append(reason)


@dataclass(frozen=True, slots=True)
class Target:
    """One request, and what its answer must contain."""

    request: bytes
    expected: bytes


class Answer:
    """Read one HTTP response with a Content-Length from the bytes as they arrive."""

    __slots__ = ("_data", "_end", "_head")

    def __init__(self) -> None:
        self._data = b""
        self._head = -1
        self._end = -1

    def feed(self, data: bytes) -> bool:
        """Take *data*; tell whether the response is complete."""
        self._data += data
        if self._end < 0:
            self._head = self._data.find(b"\r\n\r\n")
            if self._head < 0:
                return False
            for line in self._data[: self._head].split(b"\r\n")[1:]:
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    self._end = self._head + 4 + int(value)
            if self._end < 0:
                raise ValueError("a response without Content-Length")
        return len(self._data) >= self._end

    def wrong(self, expected: bytes) -> str | None:
        """Say what is wrong with the response, if anything is."""
        status = self._data.split(b"\r\n", 1)[0]
        if b" 200 " not in status + b" ":
            return f"{status.decode(errors='replace')}: {self._data[self._head + 4 :][:200].decode(errors='replace')}"
        if expected not in self._data[self._head :]:
            return f"an answer without {expected.decode()}"
        return None


class User(asyncio.Protocol):
    """One user on one connection that is kept alive."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._answer = Answer()
        self._target: Target
        self._sent = 0.0
        self._transport: asyncio.Transport
        self.served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._answer = Answer()
        self._target = next(self._crowd.targets)
        self._sent = time.monotonic()
        self._transport.write(self._target.request)

    def data_received(self, data: bytes) -> None:
        try:
            if not self._answer.feed(data):
                return
        except ValueError as error:
            self._crowd.fail(str(error))
            self._transport.abort()
            return
        self.served = True
        self._crowd.answered(time.monotonic() - self._sent, self._answer.wrong(self._target.expected))
        self._send()

    def leave(self) -> None:
        """Close the connection without waiting for what is under way."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost(self, exc)


class Crowd:
    """All users, and what they measured."""

    def __init__(
        self, host: str, port: int, users: int, targets: Iterator[Target], *, keep_answers: bool = False
    ) -> None:
        self.targets = targets
        self._keep_answers = keep_answers
        self.load = Load(users)
        self._address = host, port
        self._users: set[User] = set()
        self._measuring = False
        self._ending = False
        self._reconnections: set[asyncio.Task[None]] = set()

    def answered(self, latency: float, wrong: str | None) -> None:
        """Count an answer, if the warm-up is over."""
        if self._keep_answers and not self._ending:
            self.load.answers.append((time.monotonic(), latency, wrong is None))
        if wrong is not None:
            self.fail(wrong)
        elif self._measuring:
            self.load.latencies.append(latency)

    def fail(self, reason: str) -> None:
        """Count an error, also during the warm-up: none is ever expected."""
        if not self._ending:
            self.load.fail(reason)

    def lost(self, user: User, error: Exception | None) -> None:
        """Send another user for one whose connection broke."""
        self._users.discard(user)
        if not self._ending:
            self.load.fail(f"the connection broke: {error or 'closed by the server'}")
            task = asyncio.get_running_loop().create_task(self._connect(pause=0.1))
            self._reconnections.add(task)
            task.add_done_callback(self._reconnections.discard)

    async def _connect(self, pause: float = 0.0) -> None:
        await asyncio.sleep(pause)
        try:
            _, user = await asyncio.get_running_loop().create_connection(lambda: User(self), *self._address)
        except OSError as error:
            self.fail(f"no connection: {error}")
        else:
            self._users.add(user)

    async def run(self, settle: float, seconds: float) -> Load:
        """Warm up for *settle* seconds, and until each user was answered once; then measure for *seconds*.

        SIGTERM ends the measurement early.
        """
        began = time.monotonic()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        # Users do not arrive in step; those who do would be served in bursts ever after.
        users = self.load.users
        await asyncio.gather(*(self._connect(pause=number * ARRIVAL / users) for number in range(users)))
        while time.monotonic() < began + LONGEST_WARM_UP:
            await asyncio.sleep(0.02)
            if time.monotonic() > began + settle and all(user.served for user in self._users):
                break
        else:
            self.fail(f"not every user was answered within {LONGEST_WARM_UP:.0f} s")
        cpu = time.process_time()
        self.load.started = time.monotonic()
        self._measuring = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), seconds)
        self._measuring = False
        self.load.ended = time.monotonic()
        self.load.client_cpu = (time.process_time() - cpu) / (self.load.ended - self.load.started)
        self._ending = True
        for user in self._users:
            user.leave()
        return self.load


def requests(host: str, port: int, paths: dict[str, str]) -> Iterator[Target]:
    """Repeat the requests for *paths*, which maps each to a text that its answer must contain."""
    return itertools.cycle(
        [
            Target(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode(), expected.encode())
            for path, expected in paths.items()
        ]
    )


def main() -> None:
    """Run the load that the command line describes, and write what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--settle", type=float, default=1.0, help="seconds of warm-up at least")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds to measure")
    parser.add_argument("--paths", type=Path, required=True, help="JSON: paths, and what each answer must contain")
    parser.add_argument("--output", type=Path, required=True, help="where to write the result as JSON")
    parser.add_argument("--keep-answers", action="store_true", help="write when each answer came, from the first on")
    arguments = parser.parse_args()
    targets = requests(arguments.host, arguments.port, json.loads(arguments.paths.read_text(encoding="utf-8")))
    crowd = Crowd(arguments.host, arguments.port, arguments.users, targets, keep_answers=arguments.keep_answers)
    load = asyncio.run(crowd.run(arguments.settle, arguments.seconds))
    arguments.output.write_text(json.dumps(asdict(load)), encoding="utf-8")


if __name__ == "__main__":
    main()
