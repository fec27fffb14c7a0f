"""An exception at the worst of moments: of the library's lines each is tried, and nothing but one statement is lost."""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pymysql
import pytest

import offload_db
from offload_db import OffloadPool
from offload_db.bridge import dispatcher, reactor
from tests.conftest import MySQL
from tests.inside import core
from tests.support import PATIENCE, attempt, in_thread, pool_of, settled, together, until, value

from .checks import checked, serve

pytestmark = pytest.mark.timeout(60)

_PACKAGE = str(Path(offload_db.__file__).parent)


class Injection:
    """Raises an error once, before a line of the library."""

    def __init__(self, number: int, error: type[BaseException], files: tuple[str, ...] = (_PACKAGE,)) -> None:
        self.left = number
        self.where = ""
        self.seen = False
        """Whether any line came by."""
        self._error = error
        self._lines: dict[int, int] = {}  # of frames, which must not be kept alive
        self._files = files

    def step(self, frame: FrameType, event: str, _: object) -> Any:
        """Trace one step of a thread."""
        if self.where or not frame.f_code.co_filename.startswith(self._files):
            return None
        if event == "call":
            self._lines.pop(id(frame), None)
        if event == "line":
            self.seen = True
            before, self._lines[id(frame)] = self._lines.get(id(frame), 0), frame.f_lineno
            # Python comes by a `with`, and a `return` in it, again on its way out, where nothing can fail before the
            # manager's exit is called. Nor can anything where a `try` begins.
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip()
            again = text.startswith(("with ", "return ")) and before > frame.f_lineno
            self.left -= not (again or text.startswith("try:"))
            if self.left == 0 and _finalises(frame):
                self.left = 1  # Python would only report it
            elif self.left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self._error
        return self.step

    def strike(self, function: Callable[[], object]) -> None:
        """Call the function, traced, in a thread of its own: Python's count of its depth suffers from such errors."""

        def run() -> None:
            with suppress(self._error, pymysql.MySQLError), self.here():
                function()

        thread = in_thread(run)
        assert thread.exception(PATIENCE) is None, self.where

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


DISPATCHER = (dispatcher.__file__, reactor.__file__)


@pytest.mark.parametrize(("side", "uvloop"), [("loop", False), ("loop", True), ("thread", False)])
def test_the_dispatcher_runs_out_of_memory(
    side: str, *, uvloop: bool, database: dict[str, Any], mysql: MySQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its lines fails, every statement comes back with a result or an error, and later ones are served."""
    monkeypatch.setattr(dispatcher, "LOOK_AFTER", 0.01)
    injection = Injection(0, MemoryError)
    run = reactor.Reactor.run

    def traced(hub: Any, progress: Any) -> None:
        with injection.here():
            run(hub, progress)

    if side == "thread":
        monkeypatch.setattr(reactor.Reactor, "run", traced)

    async def main() -> None:
        nonlocal injection
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is told of what a callback raises
        with pool_of(3, database) as pool:
            await together(*[lambda: pool.fetch_value("SELECT SLEEP(0.01)")] * 3)
            number = missed = 0
            while missed < 3:  # on a busy machine a round may not come as far as the one before
                await asyncio.sleep(2.5 * reactor.STAYS)  # so that each time a new thread begins, and one error is over
                number += not missed
                injection = Injection(number, MemoryError, DISPATCHER)
                results: list[Any] = []
                if side == "loop":
                    sys.settrace(injection.step)
                try:
                    with anyio.move_on_after(5):
                        results = await together(*[lambda: pool.fetch_value("SELECT 1")] * 3)
                finally:
                    sys.settrace(None)
                assert len(results) == 3, injection.where
                injection.left = -1
                for result in results:
                    assert result == 1 or isinstance(result, (MemoryError, pymysql.MySQLError)), injection.where
                with anyio.fail_after(5):
                    assert await together(*[lambda: pool.fetch_value("SELECT 2")] * 3) == [2] * 3, injection.where
                await settled(lambda: pool.statistics().in_use == 0)
                missed = 0 if injection.where else missed + 1
            assert number > 40
            await checked(pool, mysql, database["database"])

    anyio.run(main, backend_options={"use_uvloop": uvloop})


def _work(pool: OffloadPool) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)


def _dropped(pool: OffloadPool) -> None:
    connection = pool.connection()
    connection.begin()
    del connection


def _late(pool: OffloadPool) -> None:
    connection = pool.connection()
    try:
        connection.cursor().execute("SELECT 1")
        connection.commit()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("kind", "work", "error"),
    [
        ("an idle one", _work, KeyboardInterrupt),
        ("an idle one", _dropped, KeyboardInterrupt),
        ("with limits", _work, KeyboardInterrupt),
        ("one in a transaction", _late, KeyboardInterrupt),
        pytest.param("one in a transaction", _late, MemoryError, marks=pytest.mark.slow),
        pytest.param("a new one", _work, KeyboardInterrupt, marks=pytest.mark.slow),
        pytest.param("a new one", _work, MemoryError, marks=pytest.mark.slow),
    ],
)
def test_a_script_is_interrupted(
    work: Callable[[OffloadPool], None],
    error: type[BaseException],
    kind: str,
    database: dict[str, Any],
    mysql: MySQL,
) -> None:
    """At whichever line, the slot comes back, the numbers agree, and the pool serves as many callers as before."""
    options: dict[str, Any] = (
        {"statement_timeout": 1, "lanes": [offload_db.Lane("one", 1)]} if kind == "with limits" else {}
    )
    settings = {"autocommit": kind != "one in a transaction", **options}
    with pool_of(2, database, **settings) as pool:
        serve(pool)
        for number in itertools.count(1):
            if kind == "a new one":
                core(pool).idle.close_all()
            injection = Injection(number, error)
            injection.strike(partial(work, pool))
            if not injection.where:
                break
            now = pool.statistics()
            assert (now.in_use, now.waiting) == (0, 0), injection.where
            # A connection in nobody's hands may be in a cycle of the error's, or the timer's that was to stop it.
            until(lambda: _rests(pool) or (gc.collect() >= 0 and _rests(pool)))
            assert now.idle <= 2, injection.where
            if number % 7 == 0:
                serve(pool)
        assert number > 60
        serve(pool)
        until(lambda: len(mysql.process_list(database["database"])) == pool.statistics().open)


def _rests(pool: OffloadPool) -> bool:
    now = pool.statistics()
    return now.open == now.idle


def test_a_shared_connection_outlives_an_interrupt(database: dict[str, Any]) -> None:
    """A connection in a module global can be used and closed after a call on it was interrupted, at whichever line."""
    with pool_of(1, database) as pool:
        for number in itertools.count(1):
            connection = pool.connection()
            injection = Injection(number, KeyboardInterrupt)
            again: list[Any] = []

            def use(connection: Any = connection, again: list[Any] = again, injection: Injection = injection) -> None:
                with suppress(KeyboardInterrupt), injection.here():
                    value(connection, "SELECT 1")
                again.append(attempt(value, connection, "SELECT 2"))
                connection.close()

            in_thread(use).result(PATIENCE)
            assert again[0] == 2 or again[0][0] in ("ConnectionClosed", "InterfaceError"), (injection.where, again)
            assert pool.statistics().in_use == 0, injection.where
            if not injection.where:
                break
        assert number > 60
