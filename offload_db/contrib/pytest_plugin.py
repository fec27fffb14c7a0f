"""For pytest: a test during which a driver call blocks an event loop fails, with file and line.

Owns the fixture ``no_blocking_db``, the marker of the same name, and how such calls are seen: those over the library's
connections, and those of PyMySQL's own, bridged or not. pytest finds the plugin by itself where the library is
installed; where it is not, ``-p offload_db.contrib.pytest_plugin`` names it.
"""

from __future__ import annotations

import itertools
import os
import sys
import sysconfig
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import pymysql
import pytest

from ..bridge.place import Place, place
from ..bridge.stack import OWN_FILES, first_outside, frames_from
from ..connection.executor import on_loop_observers

_NAME = "no_blocking_db"
_REMEDY = "put @offload_db.offload on the async def that leads there"
_PYMYSQL = f"{Path(pymysql.__file__).parent}{os.sep}"
_DRIVERS = (OWN_FILES, _PYMYSQL)
# What is not the code under test. Where packages are installed below the standard library, they are of it.
_INSTALLED = {f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_LIBRARIES = (*_DRIVERS, *_INSTALLED)
# Where PyMySQL waits for the server.
_WAITS = ("connect", "_read_packet")


class BlockedPlace(NamedTuple):
    """A line of the source whose driver call blocked an event loop."""

    file: str
    line: int
    function: str
    call: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.call}() in {self.function}"


class Watch:
    """Notes driver calls on the threads of event loops, from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self.places: list[BlockedPlace] = []
        self._reported = 0
        self._originals: dict[str, Callable[..., Any]] = {}

    def begin(self) -> None:
        """Begin to watch."""
        on_loop_observers.append(self._note)
        for name in _WAITS:
            self._originals[name] = original = getattr(pymysql.connections.Connection, name)
            setattr(pymysql.connections.Connection, name, self._watched(original))

    def end(self) -> None:
        """Watch no longer."""
        on_loop_observers.remove(self._note)
        for name, original in self._originals.items():
            setattr(pymysql.connections.Connection, name, original)

    def report(self) -> str:
        """Describe what was noted since the last report; empty if there is nothing."""
        new = self.places[self._reported :]
        self._reported = len(self.places)
        lines = "".join(f"\n  {place}" for place in new)
        return f"driver calls blocked the event loop; {_REMEDY}:{lines}" if new else ""

    def _watched(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if place() is not Place.THREAD:
                self._note(None)
            return original(*args, **kwargs)

        return watched

    def _note(self, call: str | None) -> None:
        """Note the line of the code under test that the call comes from.

        :param call: what is called; None takes the name of the driver's function
        """
        first = sys._getframe(1)
        caller = first_outside(first, *_DRIVERS)
        for frame in itertools.takewhile(lambda each: each is not caller, frames_from(first)):
            if call is None or frame.f_code.co_filename.startswith(_PYMYSQL):
                call = frame.f_code.co_name.replace("__init__", "connect")
        tested = first_outside(caller, *_LIBRARIES)
        frame = caller if tested.f_code.co_filename.startswith(_LIBRARIES) else tested
        found = BlockedPlace(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, str(call))
        if found[:2] not in [place[:2] for place in self.places]:
            self.places.append(found)


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{_NAME}: fail the test if a driver call blocks an event loop during it")


@pytest.fixture
def no_blocking_db(request: pytest.FixtureRequest) -> list[BlockedPlace]:
    """Fail the test if a driver call blocks an event loop during it; gives the list of the places so far."""
    watch: Any = vars(request.node)[_NAME]
    places: list[BlockedPlace] = watch.places
    return places


def _asks(item: pytest.Item) -> bool:
    return _NAME in getattr(item, "fixturenames", ()) or item.get_closest_marker(_NAME) is not None


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, None]:
    """Begin to watch, before any fixture of the test is made."""
    if _asks(item) and _NAME not in vars(item):
        watch = vars(item)[_NAME] = Watch()
        watch.begin()
    yield


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail the test for what has blocked so far."""
    outcome = yield
    _judge(item, "call", outcome)


@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail the end of the test for what has blocked in it, and watch no longer."""
    outcome = yield
    if _NAME in vars(item):
        vars(item)[_NAME].end()
    _judge(item, "teardown", outcome)
    vars(item).pop(_NAME, None)


def _judge(item: pytest.Item, phase: str, outcome: Any) -> None:
    report = vars(item)[_NAME].report() if _NAME in vars(item) else ""
    if not report:
        return
    if outcome.excinfo is None:
        outcome.force_exception(pytest.fail.Exception(report, pytrace=False))
    else:
        item.add_report_section(phase, _NAME, report)
