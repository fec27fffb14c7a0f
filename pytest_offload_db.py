"""The pytest plugin's entry: the marker and the fixture ``no_blocking_db``.

It stands outside of the package, and imports it only for a test that asks: pytest loads every plugin that is installed,
and the package takes its time.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from offload_db.contrib.pytest_plugin import BlockedPlace

_NAME = "no_blocking_db"


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
        from offload_db.contrib.pytest_plugin import Watch  # noqa: PLC0415  # see above

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
