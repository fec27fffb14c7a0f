"""Claims about what is told of a wrong argument, whichever public callable got it: its kind, never what is in it."""

from __future__ import annotations

import importlib
import inspect
import logging
import traceback
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
from dbutils.pooled_db import PooledDB

import offload_db
from offload_db import OffloadPool, settings
from tests.inside import core
from tests.support import QUICK

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("sqlalchemy")

pytestmark = pytest.mark.anyio

SECRET = "hunter2-secret"  # that is what it stands for
PACKAGE = Path(offload_db.__file__).parent


class Secretive:
    """An object whose ``repr`` shows a secret."""

    def __repr__(self) -> str:
        return f"<Secretive {SECRET}>"

    def __call__(self) -> None:
        """Stand for a function."""


WRONG: dict[str, Callable[[], Any]] = {
    "dictionary": lambda: {"password": SECRET, SECRET: "password"},
    "list": lambda: [SECRET],
    "text": lambda: SECRET,
    "bytes": SECRET.encode,
    "object": Secretive,
    "partial": lambda: partial(print, SECRET),
}

MODULES = {
    "offload_db": None,
    "offload_db.aio": None,
    "offload_db.queries": "offload_db.queries",
    "offload_db.monitor": None,
    "offload_db.contrib.asgi": "offload_db.contrib.asgi",
    "offload_db.contrib.fastapi": "offload_db.contrib.fastapi",
    "offload_db.contrib.prometheus": "offload_db.contrib.prometheus",
    "offload_db.contrib.sqlalchemy": "offload_db.contrib.sqlalchemy",
    "offload_db.contrib.pytest_plugin": "offload_db.contrib.pytest_plugin",
    "offload_db.contrib.status": "offload_db.contrib.status",
}
"""The modules that users import, and of those that import for themselves the module whose names are public."""

# Where the reason is the same for many.
MADE_BY_THE_LIBRARY = "the library makes its objects, of what was checked before"
NO_ARGUMENTS = "it takes no arguments"

NOT_TRIED = {
    **dict.fromkeys(("offload_db.AsyncConnection", "offload_db.OffloadConnection"), MADE_BY_THE_LIBRARY),
    **dict.fromkeys(("offload_db.AsyncCursor", "offload_db.OffloadCursor"), MADE_BY_THE_LIBRARY),
    **dict.fromkeys(("offload_db.BlockingCall", "offload_db.Histogram"), MADE_BY_THE_LIBRARY),
    **dict.fromkeys(("offload_db.LaneStatistics", "offload_db.PoolStatistics"), MADE_BY_THE_LIBRARY),
    **{
        f"offload_db.aio.{name}": MADE_BY_THE_LIBRARY
        for name in ("AsyncConnection", "AsyncCursor", "Connection", "Cursor", "DictCursor", "Pending")
    },
    **{f"offload_db.aio.{name}": MADE_BY_THE_LIBRARY for name in ("SSCursor", "SSDictCursor")},
    **{f"offload_db.monitor.{name}": MADE_BY_THE_LIBRARY for name in ("LoopLag", "Observation", "Watch")},
    "offload_db.contrib.fastapi.Gap": MADE_BY_THE_LIBRARY,
    "offload_db.contrib.sqlalchemy.EnginePool": MADE_BY_THE_LIBRARY,
    "offload_db.contrib.sqlalchemy.OffloadDialect": "SQLAlchemy makes it, and takes its arguments",
    "offload_db.contrib.fastapi.OffloadRoute": "FastAPI takes its arguments; its attributes go to asgi.bridged",
    "offload_db.monitor.observe_pymysql": NO_ARGUMENTS,
    "offload_db.contrib.prometheus.ProcessCollector": NO_ARGUMENTS,
    "offload_db.queries.get_async_pool": NO_ARGUMENTS,
    "offload_db.queries.get_pool_stats": NO_ARGUMENTS,
    **{f"offload_db.OffloadPool.{name}": NO_ARGUMENTS for name in ("blocking_calls", "close", "statistics")},
    "offload_db.contrib.sqlalchemy.current_call": NO_ARGUMENTS,
    **{
        f"offload_db.contrib.pytest_plugin.{name}": "pytest calls it"
        for name in (
            *("BlockedPlace", "Watch", "no_blocking_db", "pytest_configure"),
            *("pytest_runtest_call", "pytest_runtest_setup", "pytest_runtest_teardown"),
        )
    },
}
"""Public callables that no wrong argument of a user's reaches, and why."""

# What is text to be shown, in errors of whoever gets it: a statement goes to the server, which quotes it, a path to the
# operating system, and a lane is known by its name.
SHOWN = {"sql", "query", "path", "audit", "dump_to", "name"}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve nothing."""


async def function(connection: Any) -> None:
    """Do nothing."""


def baselines(pool: OffloadPool, database: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Return right arguments for each public callable that is tried; each is then replaced by a wrong one."""
    create = {**QUICK, **database, **dict.fromkeys(("creator",), pymysql), "min_size": 0, "max_size": 2}
    create |= {"setsession": None, "maxusage": None}
    options: dict[str, Any] = {"lanes": (), "checkout_timeout": 5.0, "max_waiting": 5, "statement_timeout": 5.0}
    options |= {"max_age": 5.0, "on_loop_call": "allow", "leak_warning": 5.0, "fast": True}
    dbutils = PooledDB(pymysql, **QUICK, **database)
    query: dict[str, Any] = {"sql": "SELECT 1", "args": None, "lane": None, "timeout": 5.0}
    module_query = {"query": "SELECT 1", "params": None, "timeout": 5.0}
    middleware = {"app": application, "lane": None, "timeout": 5.0}
    environ = dict.fromkeys(("MYSQL_HOST", "MYSQL_PORT", "MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_DATABASE"), "1")
    found: dict[str, dict[str, Any]] = {
        "offload_db.Lane": {
            "name": "reports",
            "limit": 1,
            "max_waiting": 1,
            "checkout_timeout": 1.0,
            "statement_timeout": 1.0,
        },
        "offload_db.OffloadPool": {"pool": dbutils, "size": 2, **options},
        "offload_db.aio.Pool": {"pool": dbutils, "size": 2, **options},
        "offload_db.aio.create_pool": {
            **database,
            "minsize": 0,
            "maxsize": 1,
            "echo": False,
            "pool_recycle": -1,
            "loop": None,
            **options,
        },
        "offload_db.aio.connect": {**database, "echo": False, "autocommit": True},
        "offload_db.blocking": {"function": print},
        "offload_db.connect": {**QUICK, **database},
        "offload_db.offload": {"function": function, "mode": "bridge", "lane": None, "timeout": 5.0},
        "offload_db.queries.close_async_pool": {"drain_timeout": 1.0},
        "offload_db.queries.execute_many": {"query": "SELECT 1", "rows": [], "timeout": 5.0},
        "offload_db.queries.health_check": {"timeout": 5.0},
        "offload_db.monitor.RequestScope": {"app": application},
        "offload_db.monitor.dump": {"path": tmp_path / "dump.json"},
        "offload_db.monitor.report": {"audit": None, "runtime": None, "format": "text"},
        "offload_db.monitor.snapshot": {"pools": pool},
        "offload_db.monitor.watch": {"interval": 0.05, "dump_to": None, "dump_every": 2.0},
        "offload_db.contrib.asgi.OffloadMiddleware": {
            **middleware,
            "paths": None,
            "exclude": (),
            "retry_after": 1,
        },
        "offload_db.contrib.asgi.bridged": middleware,
        "offload_db.contrib.asgi.check_retry_after": {"where": "here", "value": 1},
        "offload_db.contrib.asgi.lifespan": {"pools": pool, "inner": None, "drain_timeout": 1.0},
        "offload_db.contrib.fastapi.add_exception_handlers": {"app": fastapi_app(), "retry_after": 1},
        "offload_db.contrib.fastapi.find_gaps": {"app": fastapi_app()},
        "offload_db.contrib.fastapi.lifespan": {"pools": pool, "inner": None, "drain_timeout": 1.0, "log_gaps": True},
        "offload_db.contrib.prometheus.PoolCollector": {"pool": pool, "name": "default"},
        "offload_db.contrib.status.StatusPage": {
            "pools": pool,
            "audit": None,
            "dumps": None,
            "allow_changes": None,
            "link": None,
        },
        "offload_db.contrib.sqlalchemy.create_engine": {"pool": pool, "lane": None, "echo_pool": None},
        "offload_db.OffloadPool.aclose": {"drain_timeout": 1.0},
        "offload_db.OffloadPool.acquire": {"lane": None},
        "offload_db.OffloadPool.connect": {**QUICK, **database},
        "offload_db.OffloadPool.connection": {"shareable": True, "lane": None},
        "offload_db.OffloadPool.create": {**create, **options},
        "offload_db.OffloadPool.dedicated_connection": {"lane": None},
        "offload_db.OffloadPool.execute": query,
        "offload_db.OffloadPool.insert": query,
        "offload_db.OffloadPool.execute_many": {"sql": "SELECT 1", "rows": [], "lane": None, "timeout": 5.0},
        "offload_db.OffloadPool.from_env": {"environ": environ},
        "offload_db.OffloadPool.release": {"connection": None},
        "offload_db.OffloadPool.run_transaction": {
            "function": function,
            "attempts": 1,
            "lane": None,
            "isolation_level": None,
        },
        "offload_db.OffloadPool.stream": {**query, "chunk_size": 5, "cursor": None},
        "offload_db.OffloadPool.transaction": {"lane": None, "isolation_level": None, "read_only": False},
        "offload_db.OffloadPool.variant": {**QUICK, "charset": "utf8mb4"},
    }
    del found["offload_db.OffloadPool.stream"]["timeout"]
    for name in ("fetch_all", "fetch_one", "fetch_value"):
        found[f"offload_db.OffloadPool.{name}"] = {**query, "cursor": None}
    for name in ("execute_query", "execute_query_one", "execute_insert", "execute_update", "execute_delete"):
        found[f"offload_db.queries.{name}"] = module_query
    return found


def fastapi_app() -> Any:
    import fastapi

    return fastapi.FastAPI()


def public_callables() -> dict[str, Any]:
    """Find everything that users can call, but for errors, whose arguments are what they say."""
    found: dict[str, Any] = {}
    for module_name, home in MODULES.items():
        module = importlib.import_module(module_name)
        for name, value in vars(module).items():
            if name.startswith("_") or not callable(value) or _is_error(value):
                continue
            owner = getattr(value, "__module__", "")
            if owner == home or owner.startswith("offload_db" if home is None else f"{home}."):
                found[f"{module_name}.{name}"] = value
    for name, value in inspect.getmembers(OffloadPool, callable):
        if not name.startswith("_"):
            found[f"offload_db.OffloadPool.{name}"] = value
    return found


def _is_error(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


async def call(function: Any, arguments: dict[str, Any]) -> Any:
    """Call a function, and go on with what it returns as its user would."""
    parameters = inspect.signature(function).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    args = [arguments[name] for name, kind in kinds.items() if kind in positional and name in arguments]
    kwargs = {name: value for name, value in arguments.items() if kinds.get(name) not in positional}
    result = function(*args, **kwargs)
    if hasattr(result, "__aenter__"):
        async with AsyncExitStack() as stack:
            return await stack.enter_async_context(result)
    if inspect.isawaitable(result):
        return await result
    if hasattr(result, "__aiter__"):
        return [row async for row in result]
    if hasattr(result, "__enter__"):
        with ExitStack() as stack:
            return stack.enter_context(result)
    if callable(getattr(result, "close", None)):
        result.close()
    return result


def ours(error: BaseException | None) -> list[str]:
    """Return what an error says, and those that it came of, as far as the library raised them."""
    found: list[str] = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if frames and Path(frames[-1].filename).is_relative_to(PACKAGE):
            found += [str(error), repr(error)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return found


@pytest.fixture
def anyio_backend() -> str:
    """Wrong arguments are told of in the same way everywhere."""
    return "asyncio"


def test_every_public_callable_is_tried() -> None:
    """A new public callable has to be tried with wrong arguments here, or a reason given why that makes no sense."""
    pool = OffloadPool.create(min_size=0)
    tried = baselines(pool, {}, Path()).keys()
    assert public_callables().keys() == tried | NOT_TRIED.keys()
    assert tried.isdisjoint(NOT_TRIED)


@pytest.mark.parametrize("wrong", WRONG)
async def test_wrong_arguments_are_not_shown(
    wrong: str,
    database: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever argument is wrong, no error, warning, log line or ``repr`` of the library's shows what is in it."""
    for variable, setting in (("HOST", "host"), ("PORT", "port"), ("USER", "user"), ("PASSWORD", "password")):
        monkeypatch.setenv(f"MYSQL_{variable}", str(database[setting]))
    monkeypatch.setenv("MYSQL_DATABASE", str(database["database"]))
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    callables = public_callables()
    tried = 0
    make_pool = partial(OffloadPool.create, min_size=0, max_size=2, **{**QUICK, **database})
    pool = make_pool()
    arguments = baselines(pool, database, tmp_path)
    for name in list(arguments):
        for argument in arguments[name].keys() - SHOWN - {"host"}:
            if wrong == "partial" and argument in ("function", "app", "creator", "inner"):
                continue  # it is called, and prints
            if core(pool).closed:  # what was tried has closed it
                pool = make_pool()
                arguments = baselines(pool, database, tmp_path)
            said: list[str] = []
            caplog.clear()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                target = callables[name]
                if name.startswith("offload_db.OffloadPool."):
                    target = getattr(pool, name.rpartition(".")[2])
                try:
                    said.append(repr(await call(target, {**arguments[name], argument: WRONG[wrong]()})))
                except Exception as error:
                    said += ours(error)
            said += [str(warning.message) for warning in caught]
            said += [record.getMessage() for record in caplog.records if record.name.startswith("offload_db")]
            assert not [text for text in said if SECRET in text], f"{name}({argument}=...) shows what it was given"
            tried += 1
    pool.close()
    await offload_db.queries.close_async_pool()
    assert tried > 150


def test_what_is_shown() -> None:
    """Numbers are shown, and words that were meant to be one of those accepted; of everything else the kind."""
    for value, expected in (
        *((0, "0"), (-1.5, "-1.5"), (None, "None"), (True, "True"), ("", "''"), ("70000", "'70000'")),
        *((10**30, "a huge number"), ("wran", "'wran'"), (SECRET, "<text, not shown>")),
        *(({"a": 1}, "<builtins.dict object>"), (b"x", "<builtins.bytes object>"), (print, "print")),
        *(("12345678", "<text, not shown>"), (int, "int"), (pymysql, "pymysql")),
    ):
        assert settings.shown(value, ("warn", "raise")) == expected


@pytest.mark.parametrize("variable", ["MYSQL_PORT", "DB_POOL_MAX_SIZE", "DB_POOL_MIN_SIZE"])
def test_environment_variables(variable: str) -> None:
    """A password that got into the variable of a number is not shown, a number that is out of bounds is."""
    environ = dict.fromkeys(("MYSQL_HOST", "MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_DATABASE"), "x")
    for text, shown in ((SECRET, "<text, not shown>"), ("99999", "'99999'")):
        with pytest.raises(offload_db.ConfigurationError) as caught:
            OffloadPool.from_env({**environ, variable: text})
        assert f"{variable}={shown}" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_gaps_name_functions() -> None:
    """What is logged of an application names its functions, and not what partials and callable objects hold."""
    from fastapi import Depends

    from offload_db.contrib.fastapi import find_gaps

    class Dependency(Secretive):
        async def __call__(self) -> None:  # type: ignore[override]
            """Stand for a dependency."""

    async def endpoint(secret: str = "") -> AsyncIterator[int]:
        yield 1

    app = fastapi_app()
    app.get("/partial", dependencies=[Depends(Dependency())])(partial(endpoint, SECRET))
    told = [str(gap) for gap in find_gaps(app)]
    assert any("Dependency.__call__" in text for text in told)
    assert not [text for text in told if SECRET in text]
