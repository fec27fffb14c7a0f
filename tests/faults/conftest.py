"""What the tests of injected faults share: a proxy before the server, and the watch for leftover threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import MySQL
from tests.support import value

from .checks import no_strangers, ours
from .proxy import Proxy


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what says nothing new: calls made in threads take the same way under each event loop."""
    left_out = []
    for item in items:
        chosen = getattr(getattr(item, "callspec", None), "params", {})
        backend = chosen.get("anyio_backend")
        ours = Path(__file__).parent in item.path.parents
        if ours and chosen.get("way") in ("thread", "def", "plain") and backend not in (None, ("asyncio", {})):
            left_out.append(item)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def no_thread_left_over() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    no_strangers(before)


@pytest.fixture
def database(database: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of a fresh database, and remember that it is ours."""
    ours.add(database["database"])
    return database


@pytest.fixture
def proxy(mysql: MySQL) -> Iterator[Proxy]:
    """Give a proxy that leads to the test server."""
    with Proxy((mysql.host, mysql.port)) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: Proxy, database: dict[str, Any]) -> dict[str, Any]:
    """Give the settings of a fresh database, reached through the proxy."""
    return {**database, **proxy.address}


@pytest.fixture
def table(mysql: MySQL, database: dict[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Give a table, and a way to ask for one value of it from outside."""
    name = database["database"]
    with mysql.connect() as plain:
        plain.cursor().execute(f"CREATE TABLE {name}.t (id INT PRIMARY KEY, n INT) ENGINE=InnoDB")
        yield lambda what: value(plain, f"SELECT {what} FROM {name}.t")
