"""What the library gives out is known to its own audit: nothing public is there that this page has not judged."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

import offload_db
from offload_db.audit.libraries import MAKERS, METHODS, ROUTE_METHODS, maker

# What makes no connection and blocks on none: errors, counters, decorators, what only a coroutine waits for.
PLAIN: dict[str, set[str]] = {
    "offload_db": {
        *("BlockingCall", "Histogram", "Lane", "LaneStatistics", "PoolStatistics", "blocking", "offload"),
        *(name for name, value in vars(offload_db).items() if inspect.isclass(value) and issubclass(value, Exception)),
    },
    "offload_db.aio": {"DictCursor", "SSCursor", "SSDictCursor", "Pending"},
    "offload_db.queries": {"get_pool_stats"},
    "offload_db.monitor": {
        *("LoopLag", "Observation", "RequestScope", "Watch", "dump", "observe_pymysql", "report", "snapshot", "watch"),
    },
    "offload_db.contrib.asgi": {"OffloadMiddleware", "bridged", "check_retry_after", "lifespan"},
    "offload_db.contrib.fastapi": {"Gap", "OffloadRoute", "add_exception_handlers", "find_gaps", "lifespan"},
    "offload_db.contrib.prometheus": {"PoolCollector", "ProcessCollector"},
    "offload_db.contrib.sqlalchemy": {"EnginePool", "OffloadDialect", "current_call"},
}
POOL_PLAIN = {"blocking_calls", "maxsize", "minsize", "release", "statistics"}


def public(name: str) -> dict[str, Any]:
    """Return the public names of a module that are its own, or that it gives on."""
    module = pytest.importorskip(name) if ".contrib." in name else importlib.import_module(name)
    gives_on = name in ("offload_db", "offload_db.aio", "offload_db.monitor")
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and callable(value)
        and (getattr(value, "__module__", "") == name or (gives_on and value.__module__.startswith("offload_db")))
    }


@pytest.mark.parametrize("module", PLAIN)
def test_public_names(module: str) -> None:
    """Each public name makes something that the audit knows, is a coroutine function, or needs no knowledge."""
    names = public(module)
    assert names
    for name, value in names.items():
        known = maker(f"{module}.{name}") is not None
        assert known or name in PLAIN[module] or inspect.iscoroutinefunction(value), f"{module}.{name}"
        assert not (known and name in PLAIN[module]), name
    assert PLAIN[module] <= set(names)


def test_methods_of_the_pool() -> None:
    """Each public method of a pool is known, is a coroutine function, or blocks on nothing."""
    for name, value in vars(offload_db.OffloadPool).items():
        if name.startswith("_") or inspect.iscoroutinefunction(value):
            continue
        inside = isinstance(inspect.getattr_static(offload_db.OffloadPool, name), classmethod)
        known = f"offload_db.OffloadPool.{name}" in MAKERS if inside else name in METHODS["offload_pool"]
        assert known or name in POOL_PLAIN, name
        assert not (known and name in POOL_PLAIN), name


def test_methods_that_connect() -> None:
    """What a pool hands out to synchronous code is a connection, which the audit follows."""
    annotated = {
        name
        for name, value in vars(offload_db.OffloadPool).items()
        if inspect.isfunction(value) and value.__annotations__.get("return") == "OffloadConnection"
    }
    assert annotated == {name for name, (does, _) in METHODS["offload_pool"].items() if does == "connect"}
    assert not annotated & ROUTE_METHODS
