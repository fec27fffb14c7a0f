"""Owns the backend under load: a copy of its files in a directory, served by one uvicorn process on a free port."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from examples.support.ports import LOOPBACK, free_port
from examples.support.processes import end, start

HOST = LOOPBACK
ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT = 30.0


class BackendFailed(RuntimeError):
    """Raised when the backend ends, or stays silent, instead of answering /health."""


class Backend:
    """Serve the backend in *directory* while a `with` block runs.

    :param environment: variables added to this process's own
    :param port: None picks a free one
    :param app: what to serve, as uvicorn takes it
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str], *, port: int | None = None, app: str = "main:app"
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self._environment = environment
        self._app = app
        self._log = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the backend answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """The last of what the server printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def __enter__(self) -> Backend:
        command = [sys.executable, "-m", "uvicorn", self._app, "--app-dir", str(self.directory)]
        # asyncio's own loop: a blocked uvloop leaves some users without any answer. And no log line per request.
        command += ["--host", HOST, "--port", str(self.port), "--loop", "asyncio"]
        command += ["--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **self._environment}
        with self._log.open("wb") as log:
            self._process = start(command, env=environment, cwd=self.directory, output=log)
        try:
            self._wait_until_healthy()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def _end(self) -> None:
        if self._process is not None:
            end(self._process, timeout=4.0)  # a blocked loop answers no signal: what it owes is of no use any more

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if not self.running:
                raise BackendFailed(f"the backend in {self.directory} ended while starting:\n{self.log}")
            connection = http.client.HTTPConnection(HOST, self.port, timeout=START_TIMEOUT)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass  # it does not listen yet
            finally:
                connection.close()
            time.sleep(0.05)
        raise BackendFailed(f"the backend in {self.directory} is not healthy after {START_TIMEOUT:.0f} s:\n{self.log}")
