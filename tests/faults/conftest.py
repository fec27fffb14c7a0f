"""What the tests of injected faults share: a proxy before the server, and the watch for leftover threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import MySQL
from tests.support import value

from .checks import no_strangers, ours
from .proxy import Proxy


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
