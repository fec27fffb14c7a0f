"""Connections, pools and engines that a migration makes with this library: where, how, and where it leaves them."""

from __future__ import annotations

import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

import offload_db
from offload_db.__main__ import main
from offload_db.audit import audit

EACH = """
import pymysql{imports}


def get():
    return pymysql.connect(host="db", user="fleet")


async def handler():
    get().ping()
"""


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(textwrap.dedent(text), encoding="utf-8")


def texts(directory: Path) -> dict[str, str]:
    """Return the files of a tree, by their names."""
    return {str(file.relative_to(directory)): file.read_text("utf-8") for file in sorted(directory.rglob("*.py"))}


@pytest.mark.parametrize(
    ("files", "home", "line"),
    [
        ({"main.py": EACH.format(imports="")}, "offload_pools.py", "import offload_pools"),
        (
            {"app/__init__.py": "", "app/services/__init__.py": "", "app/services/a.py": EACH.format(imports="")},
            "app/offload_pools.py",
            "from app import offload_pools",
        ),
        (
            {
                "main.py": "from app import services",
                "app/__init__.py": "",
                "app/services.py": EACH.format(imports="\nfrom .other import thing"),
                "app/other.py": EACH.format(imports=""),
            },
            "offload_pools.py",
            "import offload_pools",
        ),
        (
            {
                "app/__init__.py": "",
                "app/main.py": EACH.format(imports="\nimport other"),
                "app/other.py": EACH.format(imports=""),
            },
            "app/offload_pools.py",
            "import offload_pools",
        ),
        (
            {"main.py": "import services.trips", "services/trips.py": EACH.format(imports="")},
            "offload_pools.py",
            "import offload_pools",
        ),
    ],
    ids=["script", "package", "beside", "siblings", "namespace"],
)
def test_where_the_pools_are(tmp_path: Path, files: dict[str, str], home: str, line: str) -> None:
    """All code that connects anew each time shares one file of pools, and imports it as Python finds it from there."""
    write(tmp_path, files)
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    after = texts(tmp_path)
    assert sorted(after) == sorted([*files, home])
    changed = [name for name, source in files.items() if "pymysql.connect" in source]
    for name in changed:
        assert line in after[name].splitlines()
        assert 'return offload_pools.connect(host="db", user="fleet")' in after[name]
        assert "@offload_db.offload\nasync def handler" in after[name]
    assert audit([tmp_path]).open == []
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    assert texts(tmp_path) == after, "a second migration changes something"


@pytest.mark.parametrize(
    ("files", "places", "threads"),
    [
        ({"one/main.py": EACH.format(imports=""), "two/main.py": EACH.format(imports="")}, 2, True),
        ({"main.py": EACH.format(imports="\noffload_pools = None")}, 1, True),
        ({"main.py": "import pymysql\nconnect = pymysql.connect\nasync def f():\n    connect().ping()\n"}, 1, True),
        (
            {
                "main.py": """
                from functools import partial

                import pymysql

                connect = partial(pymysql.connect, host="db")

                async def handler():
                    connect().ping()
                """
            },
            1,
            True,
        ),
        ({"main.py": EACH.format(imports="").replace("ping()", "query('CREATE TEMPORARY TABLE t (n INT)')")}, 1, True),
        ({"main.py": EACH.format(imports="").replace("ping()", "query('SET SESSION sql_mode = %s')")}, 1, True),
        ({"main.py": EACH.format(imports="").replace("ping()", "cursor().execute('SELECT GET_LOCK(1, 2)')")}, 1, True),
        ({"main.py": "import MySQLdb\nasync def f():\n    MySQLdb.connect('db').ping()\n"}, 1, True),
        ({"main.py": "import pymysql\nasync def f():\n    pymysql.connect(defer_connect=True).ping()\n"}, 1, True),
        (
            {
                "main.py": """
                import threading
                import pymysql

                local = threading.local()

                async def handler():
                    local.connection = pymysql.connect(host="db")
                    local.connection.ping()
                """
            },
            1,
            True,
        ),
        (
            {
                "main.py": """
                import pymysql

                class Single:
                    _instance = None

                    def __new__(cls):
                        if cls._instance is None:
                            cls._instance = super().__new__(cls)
                            cls._instance.connection = pymysql.connect(host="db")
                        return cls._instance

                async def handler():
                    Single().connection.ping()
                """
            },
            1,
            False,
        ),
    ],
    ids=[
        "two applications",
        "name",
        "other name",
        "partial",
        "temporary",
        "session",
        "lock",
        "positions",
        "deferred",
        "local",
        "half made",
    ],
)
def test_what_stays(
    tmp_path: Path, files: dict[str, str], places: int, threads: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is not certain what is right, nothing is converted, and each place is named once."""
    write(tmp_path, files)
    assert main(["migrate", str(tmp_path), "--write"]) == 0
    said = capsys.readouterr().err
    assert "converted   " not in said
    assert not list(tmp_path.rglob("offload_pools.py"))
    assert said.count("change      ") == places
    assert {'mode="thread"' in text for text in texts(tmp_path).values()} == {threads}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "async def polls():\n    while True:\n        pymysql.connect(host='db').ping()\n",
            "offload_pools.connect(host='db').ping()",
        ),
        (
            "get = lambda: pymysql.connect(host='db')\n\n\nasync def handler():\n    get().ping()\n",
            "get = lambda: offload_pools.connect(host='db')",
        ),
        (
            """
            class Access:
                def __init__(self):
                    self.made = pymysql.connect(host='db')


            async def handler():
                Access().made.ping()
            """,
            "self.made = offload_pools.connect(host='db')",
        ),
        (
            "from MySQLdb import connect\n\n\nasync def handler():\n    connect(host='db').ping()\n",
            "offload_pools.connect_by_mysqlclient(host='db').ping()",
        ),
    ],
    ids=["endless", "lambda", "object", "mysqlclient"],
)
def test_who_connects_anew(tmp_path: Path, source: str, expected: str) -> None:
    """What is certainly made for one call comes from a pool, wherever the call stands, and a bridge frees it."""
    write(tmp_path, {"main.py": f"import pymysql\n\n{textwrap.dedent(source)}"})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    after = texts(tmp_path)["main.py"]
    assert expected in after
    assert "@offload_db.offload\nasync def" in after
    assert audit([tmp_path]).open == []


CONNECTOR = """
from mysql.connector.pooling import MySQLConnectionPool

pool = MySQLConnectionPool({arguments})
{more}

async def handler():
    connection = pool.get_connection()
    connection.close()
"""


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ("pool_name='p', pool_size=5, host='db'", "mysql.connector, max_size=5, host='db'"),
        ("host='db', pool_reset_session=False", "mysql.connector, max_size=5, host='db'"),
        ("pool_size=SIZE, **SETTINGS", "mysql.connector, max_size=SIZE, **SETTINGS"),
    ],
)
def test_pools_of_mysql_connector(tmp_path: Path, arguments: str, made: str) -> None:
    """mysql-connector's pool becomes this library's, of the same size, and all who take from it take from that."""
    write(tmp_path, {"main.py": CONNECTOR.format(arguments=arguments, more="")})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    after = texts(tmp_path)["main.py"]
    assert f"pool = offload_db.OffloadPool.create({made})\n" in after
    assert "import mysql.connector\n" in after
    assert "@offload_db.offload\nasync def handler():\n    connection = pool.connection()\n" in after
    assert audit([tmp_path]).open == []


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        ("**SETTINGS", ""),
        ("5, host='db'", ""),
        ("host='db'", "pool.add_connection()"),
        ("host='db'", "def f(other):\n    return other.get_connection()"),
    ],
    ids=["spread", "positions", "other methods", "unknown pool"],
)
def test_pools_of_mysql_connector_that_stay(tmp_path: Path, arguments: str, more: str) -> None:
    """A pool stays whose size does not stand there, or of which something else is asked; so do all who take from it."""
    source = CONNECTOR.format(arguments=arguments, more=more)
    write(tmp_path, {"main.py": source})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    assert texts(tmp_path) == {"main.py": source}


def test_pools_that_reset_sessions(tmp_path: Path) -> None:
    """A pool stays whose users leave something on their sessions: mysql-connector's takes it away between them."""
    source = CONNECTOR.format(arguments="host='db'", more="").replace(
        "    connection.close()",
        "    connection.cursor().execute('SET SESSION x = 1')\n    connection.close()",
    )
    write(tmp_path, {"main.py": source})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    assert texts(tmp_path) == {"main.py": source}


def test_a_second_driver(tmp_path: Path) -> None:
    """A file of pools that is there keeps what somebody has changed in it, and gets what else is needed."""
    write(tmp_path, {"main.py": EACH.format(imports="")})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    pools = tmp_path / "offload_pools.py"
    pools.write_text(pools.read_text("utf-8").replace("MAX_SIZE = 20", "MAX_SIZE = 4"), encoding="utf-8")
    other = EACH.replace("pymysql", "mysql.connector").format(imports="")
    write(tmp_path, {"other.py": other})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    after = texts(tmp_path)
    assert "MAX_SIZE = 4" in after["offload_pools.py"]
    assert "def connect(" in after["offload_pools.py"]
    assert "def connect_by_connector(" in after["offload_pools.py"]
    assert 'offload_pools.connect_by_connector(host="db", user="fleet")' in after["other.py"]
    assert audit([tmp_path]).open == []


def test_pools_for_who_connects_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pool serves all who name the same server, user and database, whatever else they ask for, and no others."""
    write(tmp_path, {"main.py": EACH.format(imports="")})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    made: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []

    class Pool:
        def __init__(self, **settings: Any) -> None:
            made.append(settings)

        def connect(self, **settings: Any) -> None:
            asked.append(settings)

    monkeypatch.setattr(offload_db.OffloadPool, "create", lambda driver, **settings: Pool(**settings))
    module: dict[str, Any] = {}
    exec((tmp_path / "offload_pools.py").read_text("utf-8"), module)  # noqa: S102  # it was generated a moment ago
    one = {"host": "db", "user": "fleet", "database": "trucks"}
    for settings in (one, {**one, "autocommit": True}, {**one, "ssl": {"ca": "x"}}, {**one, "database": "trips"}):
        module["connect"](**settings)
    assert made == [{"max_size": 20, **one}, {"max_size": 20, **one, "database": "trips"}]
    assert len(asked) == 4


LAZY = """
import pymysql

kept = None


def get():
    global kept
    if kept is None:
        kept = pymysql.connect(host="db")
    return kept


async def handler():
    connection = get()
    connection.ping()
    return connection
"""


def test_two_who_are_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that both find no kept connection, one keeps what it has made, and the other closes its own."""
    write(tmp_path, {"main.py": LAZY})
    assert main(["migrate", str(tmp_path), "--write", "--quiet"]) == 0
    together = threading.Barrier(2)
    made: list[Any] = []

    class Connection:
        closed = False

        def ping(self) -> None:
            assert not self.closed

        def close(self) -> None:
            self.closed = True

    def connect(**settings: Any) -> Connection:
        together.wait(10)
        connection = Connection()
        made.append(connection)
        return connection

    monkeypatch.setattr(offload_db, "connect", offload_db.blocking(connect))
    module: dict[str, Any] = {}
    exec((tmp_path / "main.py").read_text("utf-8"), module)  # noqa: S102  # as above
    used: list[Any] = []

    async def ask() -> None:
        used.append(await module["handler"]())

    async def both() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)

    anyio.run(both)
    assert len(made) == 2
    assert used == [module["kept"]] * 2
    assert sorted(connection.closed for connection in made) == [False, True]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("    if kept is None:\n        kept = pymysql.connect()  # once", "of two who are first"),
        ("    if not kept or not kept.open:\n        kept = pymysql.connect()", "of two who are first"),
        ("    if kept is None: kept = pymysql.connect()", "ask before requests come"),
        ("    if kept is None:\n        print(); kept = pymysql.connect()", "ask before requests come"),
        ("    if kept is not None:\n        return kept\n    kept = pymysql.connect()", "ask before requests come"),
    ],
)
def test_made_when_it_is_first_asked_for(
    tmp_path: Path, lines: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kept connection is kept by one caller alone where its condition can be asked again; else that is told."""
    source = LAZY.replace('    if kept is None:\n        kept = pymysql.connect(host="db")', lines)
    assert lines in source
    write(tmp_path, {"main.py": source})
    assert main(["migrate", str(tmp_path), "--write"]) == 0
    assert told in capsys.readouterr().err
    after = texts(tmp_path)["main.py"]
    assert ("made.close()" in after) == told.startswith("of two")
    assert "offload_db.connect()" in after
    assert "pymysql.connect" not in after


def test_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps can be taken one after the other, and lead to the same as all at once; a patch of them does, too."""
    source = {"main.py": EACH.format(imports=""), "other.py": LAZY}
    for name in ("at_once", "stepwise", "patched"):
        write(tmp_path / name, source)
    assert main(["migrate", str(tmp_path / "at_once"), "--write"]) == 0
    said = capsys.readouterr().err
    assert [line.split()[:2] for line in said.splitlines() if line.startswith("step ")] == [
        ["step", "1"],
        ["step", "2"],
    ]
    assert said.index("step 1") < said.index("converted") < said.index("step 2") < said.index("decorated")
    assert main(["migrate", str(tmp_path / "stepwise"), "--write", "--step", "connections"]) == 0
    between = texts(tmp_path / "stepwise")
    assert "decorated" not in capsys.readouterr().err
    assert "offload_pools.connect" in between["main.py"]
    assert not any("@offload_db.offload" in text for text in between.values())
    assert main(["migrate", str(tmp_path / "stepwise"), "--write", "--quiet"]) == 0
    assert texts(tmp_path / "stepwise") == texts(tmp_path / "at_once")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "patched")
        assert main(["migrate", ".", "--quiet"]) == 0
        diff = capsys.readouterr().out
        subprocess.run(["git", "apply", "-"], input=diff.encode(), check=True)
    assert texts(tmp_path / "patched") == texts(tmp_path / "at_once")
