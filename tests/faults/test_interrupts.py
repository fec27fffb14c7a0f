"""An exception at the worst of moments: of the library's lines each is tried, and nothing but one statement is lost."""

from __future__ import annotations

import asyncio
import itertools
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pymysql
import pytest

import offload_db
from offload_db import departures, sharing
from tests.conftest import MySQL
from tests.support import pool_of, settled, together

from .checks import checked

pytestmark = pytest.mark.timeout(60)

_PACKAGE = str(Path(offload_db.__file__).parent)


class Injection:
    """Raises an error once, before a line of the library."""

    def __init__(self, number: int, error: type[BaseException], files: tuple[str, ...] = (_PACKAGE,)) -> None:
        self.left = number
        self.where = ""
        self._error = error
        self._lines: dict[FrameType, int] = {}
        self._files = files

    def step(self, frame: FrameType, event: str, _: object) -> Any:
        """Trace one step of a thread."""
        if self.where or not frame.f_code.co_filename.startswith(self._files):
            return None
        if event == "line":
            before, self._lines[frame] = self._lines.get(frame, 0), frame.f_lineno
            # Python comes by a `with` again on its way out, where nothing can fail that calls the manager's exit.
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
            self.left -= not (text.startswith("with ") and before > frame.f_lineno)
            if self.left == 0 and _finalises(frame):
                self.left = 1  # Python would only report it
            elif self.left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self._error
        return self.step

    @contextmanager
    def here(self) -> Iterator[None]:
        """Trace this thread."""
        before = sys.gettrace()
        sys.settrace(self.step)
        try:
            yield
        finally:
            sys.settrace(before)


def _finalises(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


DISPATCHER = (departures.__file__, sharing.__file__)


@pytest.mark.parametrize(("side", "uvloop"), [("loop", False), ("loop", True), ("thread", False)])
def test_the_dispatcher_runs_out_of_memory(
    side: str, *, uvloop: bool, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its lines fails, every statement comes back with a result or an error, and later ones are served."""
    monkeypatch.setattr(departures, "LOOK_AFTER", 0.01)
    injection = Injection(0, MemoryError)
    run = sharing.Hub.run

    def traced(hub: Any, progress: Any) -> None:
        with injection.here():
            run(hub, progress)

    if side == "thread":
        monkeypatch.setattr(sharing.Hub, "run", traced)

    async def main() -> None:
        nonlocal injection
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is told of what a callback raises
        with pool_of(3, database) as pool:
            await together(*[lambda: pool.fetch_value("SELECT SLEEP(0.01)")] * 3)
            for number in itertools.count(1):
                await asyncio.sleep(2.5 * sharing.STAYS)  # so that each time a new thread begins, and one error is over
                injection = Injection(number, MemoryError, DISPATCHER)
                if side == "loop":
                    sys.settrace(injection.step)
                try:
                    with anyio.move_on_after(5) as scope:
                        results = await together(*[lambda: pool.fetch_value("SELECT 1")] * 3)
                finally:
                    sys.settrace(None)
                assert not scope.cancelled_caught, injection.where
                injection.left = -1
                for result in results:
                    assert result == 1 or isinstance(result, (MemoryError, pymysql.MySQLError)), injection.where
                with anyio.fail_after(5):
                    assert await together(*[lambda: pool.fetch_value("SELECT 2")] * 3) == [2] * 3, injection.where
                await settled(lambda: pool.statistics().in_use == 0)
                if not injection.where:
                    break
            assert number > 40
            await checked(pool, mysql, database["database"])

    anyio.run(main, backend_options={"use_uvloop": uvloop})
