"""Small applications on a server, before and after the migration: same answers, no connection in two threads."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import itertools
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest

from offload_db.__main__ import main
from offload_db.audit import audit
from tests.conftest import MySQL, needs
from tests.serving import served
from tests.support import PATIENCE, in_thread

LIVE = Path(__file__).parent / "live"
AT_ONCE = 12
NUMBERS = range(16)
_count = itertools.count()

# What each route is given; routes that are not named are left as they are.
EXPECTED = {
    "cached": {"own": "thread"},
    "connector_pool": {"of_pool": "bridge"},
    "connector": dict.fromkeys(("of_each", "of_named", "of_kept", "of_lazy"), "bridge"),
    "per_request": dict.fromkeys(("of_helper", "of_service", "of_cursor", "of_dependency"), "bridge"),
    "fleet": dict.fromkeys(("of_pandas", "of_connect", "of_trips", "of_pool"), "bridge"),
    "kept": dict.fromkeys(("of_module", "of_lazy", "of_class", "of_state"), "bridge"),
    "aiohttp_state": {"own": "thread"},
    "tornado_settings": {"Own.get": "thread"},
    "engine": dict.fromkeys(("of_session", "of_engine", "of_lazy_engine"), "bridge"),
    "thread_local": {"of_local": "thread", "of_class": "thread"},
    "sessions": {"of_session": "thread", "of_engine": "thread"},
}
# Where nothing is left to do by hand.
DONE = {"connector_pool", "connector", "per_request", "fleet", "kept", "engine"}
NEEDED = {
    "connector_pool": "mysql.connector",
    "connector": "mysql.connector",
    "fleet": "pandas",
    "aiohttp_state": "aiohttp",
    "tornado_settings": "tornado",
}
APPLICATIONS = [
    pytest.param(name, marks=[needs("fastapi"), needs("uvicorn"), needs(NEEDED.get(name, "sqlalchemy"))])
    for name in EXPECTED
]


class Checker:
    """Notes each connection that a thread uses while another one does."""

    def __init__(self) -> None:
        self.calls = 0
        self.overlaps: list[str] = []
        self._users: dict[int, int] = {}
        self._lock = threading.Lock()

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a driver's method that sends a statement."""

        def checking(connection: Any, *args: Any, **kwargs: Any) -> Any:
            me = threading.get_ident()
            with self._lock:
                self.calls += 1
                other = self._users.setdefault(id(connection), me)
                if other != me:
                    self.overlaps.append(function.__qualname__)
            try:
                return function(connection, *args, **kwargs)
            finally:
                with self._lock:
                    if other == me:
                        self._users.pop(id(connection), None)

        return checking


@pytest.fixture
def checker(monkeypatch: pytest.MonkeyPatch, mysql: MySQL) -> Checker:
    """Check PyMySQL's connections, and mysql-connector's, on the server that the environment names."""
    for name, value in (("HOST", mysql.host), ("PORT", mysql.port), ("USER", mysql.user), ("PASSWORD", mysql.password)):
        monkeypatch.setenv(f"MYSQL_{name}", str(value))
    checker = Checker()
    query = pymysql.connections.Connection.query
    monkeypatch.setattr(pymysql.connections.Connection, "query", checker.checked(query))
    if importlib.util.find_spec("mysql") is not None:
        connector = importlib.import_module("mysql.connector")
        for kind in {connector.MySQLConnection, getattr(connector, "CMySQLConnection", connector.MySQLConnection)}:
            monkeypatch.setattr(kind, "cmd_query", checker.checked(kind.cmd_query))
    return checker


def load(file: Path) -> Any:
    """Import a file under a name that no other one has, and return its application."""
    name = f"live_{next(_count)}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.app


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application of whatever framework, and give its address."""
    framework = type(app).__module__.partition(".")[0]
    if framework not in ("aiohttp", "tornado"):
        with served(app) as address:
            yield address
        return
    started: Any = threading.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        state["loop"], state["end"] = asyncio.get_running_loop(), asyncio.Event()
        runner: Any = None
        server: Any = None
        if framework == "aiohttp":
            web = importlib.import_module("aiohttp.web")
            runner = web.AppRunner(app)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            state["port"] = site._server.sockets[0].getsockname()[1]
        else:
            importlib.import_module("tornado.netutil")
            sockets = sys.modules["tornado.netutil"].bind_sockets(0, "127.0.0.1")
            server = importlib.import_module("tornado.httpserver").HTTPServer(app)
            server.add_sockets(sockets)
            state["port"] = sockets[0].getsockname()[1]
        started.set()
        await state["end"].wait()
        if runner is not None:
            await runner.cleanup()
        else:
            server.stop()
            await server.close_all_connections()

    done = in_thread(lambda: asyncio.run(serve()))
    assert started.wait(PATIENCE)
    try:
        yield f"http://127.0.0.1:{state['port']}"
    finally:
        state["loop"].call_soon_threadsafe(state["end"].set)
        done.result(PATIENCE)


def ask(app: Any, paths: list[str]) -> dict[str, tuple[int, str]]:
    """Ask for all paths, many at once; return status and answer of each."""
    with running(app) as address, ThreadPoolExecutor(AT_ONCE) as clients:

        def one(path: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=PATIENCE)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            finally:
                connection.close()

        return dict(zip(paths, clients.map(one, paths), strict=True))


def paths_of(source: str) -> list[str]:
    """Return the paths to ask for, in turn for each number."""
    routes = re.findall(r'"(/[a-z]+/)\{number\}"|"(/[a-z]+/)\(', source)
    return [f"{route or other}{number}" for number in NUMBERS for route, other in routes]


@pytest.mark.filterwarnings("ignore:It is recommended to use web.AppKey")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_before_and_after(
    name: str, tmp_path: Path, checker: Checker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The migration changes no answer, brings no error, and lets no two threads use one connection."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "offload_pools", raising=False)
    file = Path(shutil.copy(LIVE / f"{name}.py", tmp_path / "app.py"))
    source = file.read_text(encoding="utf-8")
    paths = paths_of(source)
    before = ask(load(file), paths)
    assert before == {path: (200, path.rpartition("/")[2]) for path in paths}
    assert main(["migrate", str(tmp_path), "--write"]) == 0
    said = capsys.readouterr().err
    assert ("to be decided" in said) == (name not in DONE), said
    assert audit([tmp_path]).open == [] or name not in DONE
    decorated = re.findall(r'@offload_db\.offload(?:\(mode="(\w+)"\))?\n *async def (\w+)', file.read_text("utf-8"))
    assert [(function.rpartition(".")[2], mode) for function, mode in EXPECTED[name].items()] == [
        (function, mode or "bridge") for mode, function in decorated
    ]
    asked = checker.calls
    assert ask(load(file), paths) == before
    assert checker.calls >= asked + len(paths)
    assert checker.overlaps == []


@pytest.mark.parametrize("name", APPLICATIONS[:2])
def test_threads_by_hand(name: str, tmp_path: Path, checker: Checker) -> None:
    """The same in threads fails: what these tests look for can be found."""
    file = Path(shutil.copy(LIVE / f"{name}.py", tmp_path / "app.py"))
    source = file.read_text(encoding="utf-8")
    by_hand = source.replace("async def ", '@offload_db.offload(mode="thread")\nasync def ')
    slow = by_hand.replace("SLEEP(0.002)", "SLEEP(0.1)")  # so that they certainly meet
    file.write_text(f"import offload_db\n{slow}", encoding="utf-8")
    answers = ask(load(file), paths_of(source))
    assert checker.overlaps or any(status != 200 for status, _ in answers.values())
