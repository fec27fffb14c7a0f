"""Where a migration puts what, what it leaves alone, and that it changes nothing else."""

from __future__ import annotations

import difflib
import textwrap
from pathlib import Path

import pytest

from offload_db.__main__ import main
from offload_db.audit import audit

POOL = """\
import offload_db
import pymysql
from dbutils.pooled_db import PooledDB

pool = offload_db.OffloadPool(PooledDB(pymysql, 5))


def query():
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")
"""


def migrated(directory: Path, source: str | bytes, *arguments: str) -> str | bytes:
    """Return what a migration makes of a file beside a pool."""
    (directory / "database.py").write_text(POOL, encoding="utf-8")
    file = directory / "handlers.py"
    if isinstance(source, bytes):
        file.write_bytes(source)
    else:
        file.write_text(textwrap.dedent(source), encoding="utf-8")
    assert main(["migrate", str(directory), "--write", *arguments]) == 0
    once = file.read_bytes()
    assert main(["migrate", str(directory), "--write", "--quiet"]) == 0 or arguments
    if not arguments:
        assert file.read_bytes() == once, "a second migration changes something"
    return once if isinstance(source, bytes) else once.decode()


def added(before: str, after: str) -> list[str]:
    """Return the added lines; there must be no others that differ."""
    lines = list(difflib.ndiff(textwrap.dedent(before).splitlines(), after.splitlines()))
    assert not [line for line in lines if line.startswith("-")]
    return [line[2:] for line in lines if line.startswith("+")]


def test_innermost(tmp_path: Path) -> None:
    """The decorator stands directly above the def, below every other one, with its indentation."""
    source = '''
        """Handlers."""
        from __future__ import annotations

        import functools

        from fastapi import APIRouter

        from database import query

        router = APIRouter()


        class Views:
            @router.get("/x")  # a route
            # why this is so
            @functools.wraps(print)
            async def view(self):  # the handler

                return query()


        def factory():
            async def inner( ):
                query( )
            return inner
        '''
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert added(source, after) == ["import offload_db", "    @offload_db.offload", "    @offload_db.offload"]
    assert "    @functools.wraps(print)\n    @offload_db.offload\n    async def view(self):  # the handler\n" in after
    assert "def factory():\n    @offload_db.offload\n    async def inner( ):\n        query( )\n" in after
    assert "import functools\n\nimport offload_db\nfrom fastapi import APIRouter\n" in after


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("from database import query\n", "import offload_db\n\nfrom database import query\n"),
        ("import os\n\nfrom database import query\n", "import os\n\nimport offload_db\n\nfrom database import query\n"),
        (
            "import os\n\nimport aiohttp\nimport requests\n\nfrom database import query\n",
            "import os\n\nimport aiohttp\nimport offload_db\nimport requests\n\nfrom database import query\n",
        ),
        (
            "import anyio\nimport httpx\nfrom fastapi import FastAPI\nfrom database import query\n",
            "import anyio\nimport httpx\nimport offload_db\nfrom fastapi import FastAPI\nfrom database import query\n",
        ),
        (
            "# third party\nimport requests\n\nfrom database import query\n",
            "# third party\nimport offload_db\nimport requests\n\nfrom database import query\n",
        ),
        (
            "try:\n    import orjson\nexcept ImportError:\n    orjson = None\n\nfrom database import query\n",
            """\
import offload_db
try:
    import orjson
except ImportError:
    orjson = None

from database import query
""",
        ),
        (
            "# the hash of every answer\nimport xxhash\n\nfrom database import query\n",
            "# the hash of every answer\nimport xxhash\nimport offload_db\n\nfrom database import query\n",
        ),
        (
            "import json\n\n# the hash of every answer\nimport xxhash\n\nfrom database import query\n",
            """\
import json

import offload_db
# the hash of every answer
import xxhash

from database import query
""",
        ),
        (
            "import os\n\n# first of all: it reads the settings\nfrom database import query\n",
            """\
import os

import offload_db

# first of all: it reads the settings
from database import query
""",
        ),
        (
            """\
from typing import TYPE_CHECKING

from database import query

if TYPE_CHECKING:
    import offload_db
""",
            """\
from typing import TYPE_CHECKING

import offload_db

from database import query

if TYPE_CHECKING:
    import offload_db
""",
        ),
        ("import offload_db as odb\nfrom database import query\n", None),
        ("from offload_db import offload\nfrom database import query\n", None),
    ],
)
def test_import(tmp_path: Path, head: str, expected: str | None) -> None:
    """The import goes where a sorted file has it; what is imported already is used."""
    body = "\n\nasync def handler():\n    return query()\n"
    after = migrated(tmp_path, head + body)
    assert isinstance(after, str)
    if expected is not None:
        assert after == expected + body.replace("async", "@offload_db.offload\nasync")
    else:
        name = "@odb.offload" if "as odb" in head else "@offload"
        assert after == head + body.replace("async", f"{name}\nasync")


def test_bytes(tmp_path: Path) -> None:
    """Line ends, tabs, a byte order mark, other encodings and a missing last line end stay."""
    head = b"\xef\xbb\xbfimport os\r\n"
    body = b"from database import query\r\n\r\n%sasync\tdef  handler( x ) :\r\n\treturn query()"
    after = migrated(tmp_path, head + body % b"")
    assert after == head + b"\r\nimport offload_db\r\n\r\n" + body % b"@offload_db.offload\r\n"
    latin = "# -*- coding: latin-1 -*-\nfrom database import query\nasync def f():\n    query()  # ñ\n".encode(
        "latin-1"
    )
    assert b"# \xf1\n" in migrated(tmp_path, latin)


def test_modes(tmp_path: Path) -> None:
    """mode="thread" only where something else blocks, or a lock is held, and nothing is awaited."""
    source = """
        import asyncio
        import threading
        import time

        import requests

        from database import query

        lock = threading.Lock()

        async def plain():
            query()

        async def sleeps():
            query()
            time.sleep(1)

        async def asks():
            requests.get("http://x")
            query()

        async def asks_and_awaits():
            requests.get("http://x")
            query()
            await asyncio.sleep(0)

        async def locked():
            with lock:
                query()

        async def starts_a_task():
            time.sleep(1)
            query()
            asyncio.get_running_loop().call_soon(print)
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    modes = {}
    lines = after.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("async def"):
            modes[line[10:-3]] = lines[number - 1]
    bridge, thread = "@offload_db.offload", '@offload_db.offload(mode="thread")'
    assert modes == {
        "plain": bridge,
        "sleeps": thread,
        "asks": thread,
        "asks_and_awaits": bridge,
        "locked": thread,
        "starts_a_task": bridge,
    }


def test_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is left alone is explained, and keeps every byte."""
    source = """
        import asyncio
        import threading

        import offload_db
        from fastapi import FastAPI
        from sqlalchemy import create_engine

        from database import query

        app = FastAPI()
        engine = create_engine("mysql+mysqldb://x")
        lock = threading.Lock()


        @app.get("/none")
        async def none():
            return 1


        @app.get("/def")
        def plain():
            return query()


        @app.get("/done")
        @offload_db.offload
        async def done():
            return query()


        @offload_db.offload
        @app.get("/above")
        async def above():
            return query()


        @app.get("/locked")
        async def locked():
            with lock:
                query()
            await asyncio.sleep(0)


        @app.get("/engine")
        async def awaits_and_engine():
            with engine.connect() as conn:
                conn.commit()
            await asyncio.sleep(0)


        @app.get("/ignored")
        async def ignored():
            query()  # offload: ignore[ODB104] it is never called
        """
    after = migrated(tmp_path, source, "--verbose")
    assert after == textwrap.dedent(source)
    said = capsys.readouterr().err
    for name, why in {
        "none": "no blocking database call",
        "plain": "it is a def",
        "done": "offloaded already",
        "above": "stands above the route decorator",
        "locked": "the lock lock is held",
        "awaits_and_engine": "a bridge does not free",
        "ignored": "comments in it",
    }.items():
        assert any(f" {name}: " in line and why in line for line in said.splitlines()), name


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("pool = PooledDB(pymysql, 5)\n", "pool = PooledDB(pymysql, 5)\npool = offload_db.OffloadPool(pool)\n"),
        (
            "pool: PooledDB = PooledDB(\n    pymysql,  # driver\n    5,\n)\n",
            "pool: PooledDB = PooledDB(\n    pymysql,  # driver\n    5,\n)\npool = offload_db.OffloadPool(pool)\n",
        ),
        (
            "def make():\n    return PooledDB(pymysql, 5)\n\npool = make()\n",
            "def make():\n    return offload_db.OffloadPool(PooledDB(pymysql, 5))\n\npool = make()\n",
        ),
        (
            "class H:\n    def __init__(self):\n        self.p = PooledDB(pymysql, 5)  # kept\n\npool = H().p\n",
            """\
class H:
    def __init__(self):
        self.p = PooledDB(pymysql, 5)  # kept
        self.p = offload_db.OffloadPool(self.p)

pool = H().p
""",
        ),
        (
            "pools = {'a': PooledDB(pymysql, 5)}\npool = pools['a']\n",
            "pools = {'a': offload_db.OffloadPool(PooledDB(pymysql, 5))}\npool = pools['a']\n",
        ),
    ],
)
def test_pools(tmp_path: Path, made: str, expected: str) -> None:
    """A pool is wrapped where it is built, once."""
    file = tmp_path / "app.py"
    head = "import pymysql\nfrom dbutils.pooled_db import PooledDB\n\n"
    tail = "\n\nasync def handler():\n    with pool.connection() as conn:\n        conn.ping()\n"
    file.write_text(head + made + tail, encoding="utf-8")
    assert main(["migrate", str(file), "--write", "--quiet"]) == 0
    once = file.read_text(encoding="utf-8")
    assert once == f"import offload_db\n{head}{expected}" + tail.replace("async", "@offload_db.offload\nasync")
    assert main(["migrate", str(file), "--write", "--quiet"]) == 0
    assert file.read_text(encoding="utf-8") == once
    assert audit([file]).open == []


def test_unknown_route(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A route that is not there is an error that names similar ones."""
    (tmp_path / "app.py").write_text(
        "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/trucks')\nasync def trucks(): ...\n", encoding="utf-8"
    )
    assert main(["migrate", str(tmp_path), "--only", "GET:/truck"]) == 2
    assert "there is no such route; similar ones are GET:/trucks" in capsys.readouterr().err


def test_form_feed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A form feed ends no line, neither where the decorator goes nor in the diff."""
    source = "from database import query\n\x0c\nasync def handler():\n    query()\n\x0c\n"
    after = migrated(tmp_path, source.encode())
    assert (
        after
        == source.replace("async", "@offload_db.offload\nasync").replace("from", "import offload_db\n\nfrom").encode()
    )
    (tmp_path / "handlers.py").write_text(source, encoding="utf-8")
    capsys.readouterr()
    assert main(["migrate", str(tmp_path), "--quiet"]) == 0
    assert "\n+@offload_db.offload\n" in capsys.readouterr().out


def test_shared_connection_stays_out_of_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Handlers that share a connection of its own get no mode="thread": threads would use it at once."""
    source = """
        import mariadb
        from database import query

        connection = mariadb.connect(host="db")

        async def shares():
            connection.ping()

        async def shares_and_asks():
            connection.ping()
            query()

        async def has_its_own():
            mariadb.connect(host="db").ping()
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert "async def shares():" in after.split("@offload_db.offload")[0]
    assert "@offload_db.offload\nasync def shares_and_asks" in after
    assert '@offload_db.offload(mode="thread")\nasync def has_its_own' in after
    assert "connection is kept in " in capsys.readouterr().err
    by_hand = after.replace("async def shares():", '@offload_db.offload(mode="thread")\nasync def shares():')
    (tmp_path / "handlers.py").write_text(by_hand, encoding="utf-8")
    assert "ODB304" in {finding.rule for finding in audit([tmp_path]).open}


def test_only_the_loop_may(tmp_path: Path) -> None:
    """What touches the loop, or answers through Tornado, runs in no thread."""
    source = """
        import time

        from database import query

        async def hands_on(request):
            query()
            time.sleep(1)
            request.app.loop.call_soon(print)

        class Handler:
            async def get(self):
                query()
                time.sleep(1)
                self.finish()

            async def post(self):
                query()
                time.sleep(1)
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert after.count("@offload_db.offload\n") == 2
    assert '    @offload_db.offload(mode="thread")\n    async def post' in after


def test_which_pools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pools of other databases, of a class with methods of its own, and wrapped elsewhere are left alone."""
    (tmp_path / "first.py").write_text(
        "import pymysql\nfrom dbutils.pooled_db import PooledDB\n\nraw = PooledDB(pymysql)\npool = PooledDB(pymysql)\n",
        encoding="utf-8",
    )
    source = """
        import offload_db
        import psycopg2
        import pymysql
        from dbutils.pooled_db import PooledDB
        from first import raw as bare

        class Plain(PooledDB):
            def __init__(self):
                super().__init__(pymysql)

        class Rich(PooledDB):
            def fetch(self):
                return 1

        pool = offload_db.OffloadPool(bare)
        elsewhere = PooledDB(psycopg2)
        plain = Plain()
        rich = Rich(pymysql)

        async def handler():
            pool.connection().close()
            plain.connection().close()
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert added(source, after) == ["plain = offload_db.OffloadPool(plain)", "@offload_db.offload"]
    assert "Rich has methods of its own (fetch)" in capsys.readouterr().err
    first = (tmp_path / "first.py").read_text(encoding="utf-8")
    assert "pool = offload_db.OffloadPool(pool)" in first
    assert "OffloadPool(raw)" not in first


def test_pool_of_a_hook(tmp_path: Path) -> None:
    """A pool is wrapped whose connection a decorated handler has from a hook of the framework's, which is a def."""
    source = """
        import pymysql
        import tornado.web
        from dbutils.pooled_db import PooledDB

        POOL = PooledDB(pymysql, 5)

        class Base(tornado.web.RequestHandler):
            def prepare(self):
                self.connection = POOL.connection()

        class Main(Base):
            async def get(self):
                self.connection.cursor().execute("SELECT 1")
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert added(source, after) == [
        "import offload_db",
        "POOL = offload_db.OffloadPool(POOL)",
        "    @offload_db.offload",
    ]


def test_made_on_demand(tmp_path: Path) -> None:
    """A pool that a helper makes when it is first asked is wrapped, and then nothing is open."""
    source = """
        from typing import Optional

        import pymysql
        from dbutils.pooled_db import PooledDB

        class Database:
            _pool: Optional[PooledDB] = None

            @classmethod
            def connection(cls):
                if cls._pool is None:
                    cls._pool = PooledDB(**{"creator": pymysql})
                return cls._pool.connection()

        async def handler():
            with Database.connection() as conn:
                conn.ping()
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert "            cls._pool = offload_db.OffloadPool(cls._pool)\n" in after
    assert audit([tmp_path]).open == []


def test_pools_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pool that only plain handlers and scripts use is not wrapped."""
    source = """
        import pymysql
        from dbutils.pooled_db import PooledDB
        from fastapi import FastAPI

        app = FastAPI()
        used = PooledDB(pymysql, 5)
        for_threads = PooledDB(pymysql, 5)

        def get():
            return used.connection()

        @app.get("/async")
        async def on_the_loop():
            get().ping()

        @app.get("/plain")
        def in_threads():
            for_threads.connection().ping()

        def nightly():
            for_threads.connection().commit()
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert added(source, after) == [
        "import offload_db",
        "used = offload_db.OffloadPool(used)",
        "@offload_db.offload",
    ]
    assert "the pool is not wrapped: no async function uses it" in capsys.readouterr().err


def test_reasons_are_true(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A handler that queries through others is told what becomes of them."""
    source = """
        import asyncio
        import mariadb
        from fastapi import FastAPI

        from database import query

        app = FastAPI()
        shared = mariadb.connect()

        async def freed():
            query()

        async def stays():
            shared.ping()
            await asyncio.sleep(0)

        async def between():
            await stays()

        @app.get("/freed")
        async def of_freed():
            await freed()

        @app.get("/stays")
        async def of_stays():
            await between()
        """
    migrated(tmp_path, source, "--verbose")
    assert audit([tmp_path]).open
    assert main(["migrate", str(tmp_path), "--verbose"]) == 0
    said = capsys.readouterr().err
    assert "of_freed: it queries only through freed, which is decorated itself" in said
    assert "of_freed: it queries only through freed, which is offloaded already" in said
    assert "of_stays: it queries only through stays, which is left alone" in said


@pytest.mark.parametrize(
    "source",
    [
        """
        import mariadb

        class Store:
            _instance = None

            def __new__(cls):
                if cls._instance is None:
                    cls._instance = super().__new__(cls)
                    cls._instance.connection = mariadb.connect()
                return cls._instance

            def load(self):
                self.connection.ping()

        async def handler():
            Store().load()
        """,
        """
        import mariadb
        from registry import lookup

        async def handler():
            conn = lookup("db")
            with conn.cursor() as cursor:
                cursor.execute("SELECT 1")
        """,
    ],
    ids=["singleton", "unknown"],
)
def test_not_told_as_done(tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no decorator would free the loop there is none, and the audit goes on failing; also for one by hand."""
    file = tmp_path / "app.py"
    file.write_text(textwrap.dedent(source), encoding="utf-8")
    assert main(["migrate", str(file), "--write"]) == 0
    assert file.read_text(encoding="utf-8") == textwrap.dedent(source)
    assert " handler: " in capsys.readouterr().err
    assert main(["audit", str(file)]) == 1
    by_hand = textwrap.dedent(source).replace("async def", "@offload_db.offload\nasync def")
    file.write_text(f"import offload_db\n{by_hand}", encoding="utf-8")
    assert main(["audit", str(file)]) == 1
    assert "ODB202" in capsys.readouterr().out


def test_kept_connections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A connection of PyMySQL that is kept for all callers is made with this library, and then a bridge frees it.

    One that each call makes comes from a pool. One that a call without an end would keep to itself stays.
    """
    source = """
        import asyncio

        from pymysql import connect

        kept = connect(host="db", port=3306)
        polled = connect(host="other")

        async def shares():
            kept.ping()
            await asyncio.sleep(0)

        async def has_its_own():
            connect(host="db").ping()

        async def polls():
            while True:
                polled.ping()
                await asyncio.sleep(1)
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert 'kept = offload_db.connect(host="db", port=3306)\npolled = connect(host="other")\n' in after
    assert "@offload_db.offload\nasync def shares" in after
    assert '@offload_db.offload\nasync def has_its_own():\n    offload_pools.connect(host="db").ping()\n' in after
    said = capsys.readouterr().err
    assert "to be decided: places that open connections: 1, functions: 1" in said
    assert "converted   " in said


def test_unrelated_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not parse is named, and is no reason to fail when all others are written."""
    (tmp_path / "broken.py").write_text("def f(:\n", encoding="utf-8")
    after = migrated(tmp_path, "from database import query\nasync def handler():\n    query()\n")
    assert isinstance(after, str)
    assert "@offload_db.offload\n" in after
    assert "broken.py:1: it does not parse" in capsys.readouterr().err


def test_reconsidered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second migration names the threads whose reason has gone, and touches none: somebody may have chosen them."""
    source = """
        import offload_db
        import time

        from database import query

        @offload_db.offload(mode="thread")
        async def sleeps():
            query()
            time.sleep(1)

        @offload_db.offload(mode="thread")
        async def slept():
            query()
        """
    after = migrated(tmp_path, source)
    assert after == textwrap.dedent(source)
    said = capsys.readouterr().err
    assert 'slept: nothing in it blocks that a bridge does not free: mode="thread" may go' in said
    assert "sleeps" not in said


ENGINE = """
    import os

    from sqlalchemy import create_engine
    {head}

    URL = "mysql+pymysql://fleet:" + os.environ["PASSWORD"] + "@db/fleet"
    engine = {made}

    async def handler():
        with engine.connect() as connection:
            connection.commit()
    """


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("create_engine(URL)", ["max_size=15,", '**sqlalchemy.make_url(URL).translate_connect_args(username="user"),']),
        ("create_engine(URL, pool_size=3, max_overflow=0, echo=True)", ["max_size=3,", "echo=True,"]),
        ("create_engine(URL, pool_size=2, pool_timeout=5)", ["max_size=12,", "checkout_timeout=5,"]),
        ("create_engine(URL, pool_recycle=-1, pool_pre_ping=True)", ["max_size=15,", "pool_pre_ping=True,"]),
        ("create_engine(URL, connect_args=ARGS, pool_recycle=60)", ["max_age=60,", "**ARGS,"]),
        ("create_engine(URL, poolclass=QueuePool, pool_size=1)", ["max_size=11,"]),
        ("create_engine(URL + '?charset=utf8mb4')", ["**sqlalchemy.make_url(URL + '?charset=utf8mb4').query,"]),
    ],
)
def test_engines(tmp_path: Path, made: str, expected: list[str]) -> None:
    """An engine whose URL and options can be read goes on a pool of its size, and its handlers are bridged."""
    source = ENGINE.format(made=made, head="ARGS = {'charset': 'utf8mb4'}")
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert "import offload_db.contrib.sqlalchemy\nimport sqlalchemy\nfrom sqlalchemy" in after
    assert "engine = offload_db.contrib.sqlalchemy.create_engine(\n    offload_db.OffloadPool.create(\n" in after
    assert "@offload_db.offload\nasync def handler" in after
    lines = [line.strip() for line in after.splitlines()]
    assert set(expected) <= set(lines)
    assert not {"max_age=-1,", "pool_recycle=-1,"} & set(lines)
    assert audit([tmp_path]).open == []


@pytest.mark.parametrize(
    ("made", "head"),
    [
        ("create_engine(URL + '?ssl_ca=/ca.pem')", ""),
        ("create_engine(URL, poolclass=NullPool)", "from sqlalchemy.pool import NullPool"),
        ("create_engine(URL, pool_size=0)", ""),
        ("create_engine(URL, max_overflow=-1)", ""),
        ("create_engine(URL, **{'echo': True})", ""),
        ("create_engine(os.environ['URL'])", ""),
        ("create_engine('mysql+mysqldb://db')", ""),
        ("create_engine(\n        URL,  # the fleet's\n    )", ""),
        ("create_engine(URL, pool_size=SIZE)", "SIZE = 4"),
        ("create_engine(URL)", "from sqlalchemy.orm import scoped_session; sessions = scoped_session(None)"),
    ],
)
def test_engines_that_stay(tmp_path: Path, made: str, head: str) -> None:
    """An engine with anything that is not certain stays, and so does the thread that its handler needs."""
    source = ENGINE.format(made=made, head=head)
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert added(source, after) == ["import offload_db", '@offload_db.offload(mode="thread")']


def test_engines_of_properties(tmp_path: Path) -> None:
    """An engine that a property makes when it is first asked for is put on a pool, and needs no thread."""
    source = """
        import sqlalchemy

        class Holder:
            _engine = None

            @property
            def engine(self):
                if self._engine is None:
                    self._engine = sqlalchemy.create_engine("mysql+pymysql://db")
                return self._engine

        holder = Holder()

        async def handler():
            with holder.engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert "self._engine = offload_db.contrib.sqlalchemy.create_engine(" in after
    assert "@offload_db.offload\nasync def handler" in after


def test_places_that_are_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A place that the migration changes is not named as one to be changed, beside another that it leaves."""
    source = """
        import mariadb
        import pymysql

        kept = pymysql.connect(host="db")

        async def handler():
            kept.ping()
            mariadb.connect(host="other").ping()
        """
    after = migrated(tmp_path, source)
    assert isinstance(after, str)
    assert 'kept = offload_db.connect(host="db")' in after
    said = capsys.readouterr().err
    assert "converted   " in said
    assert "handlers.py:5 pymysql.connect(), for functions" not in said
    assert "handlers.py:9 mariadb.connect(), for functions" in said


def test_places_of_other_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is not known what an object is, a place is named that gives one of its name the attribute."""
    source = """
        import pymysql

        from elsewhere import local

        class Context:
            def __enter__(self):
                self.connection = pymysql.connect(host="db")
                return self.connection

        async def handler():
            local.connection = pymysql.connect(host="db")
            local.connection.ping()
        """
    assert migrated(tmp_path, source) == textwrap.dedent(source)
    said = capsys.readouterr().err
    assert "handlers.py:12 pymysql.connect(), for functions: 1" in said
    assert "handlers.py:8" not in said


@pytest.mark.parametrize(("count", "told"), [(19, False), (20, True)])
def test_less_to_change(tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, told: bool) -> None:
    """Where there are many decorators, the migration names the middleware that does the same."""
    handlers = "".join(f"@app.get('/{n}')\nasync def handler_{n}():\n    query()\n" for n in range(count))
    head = "from database import query\nfrom fastapi import FastAPI\napp = FastAPI()\n"
    migrated(tmp_path, head + handlers, "--verbose")
    assert ("there OffloadMiddleware does the same" in capsys.readouterr().err) == told
