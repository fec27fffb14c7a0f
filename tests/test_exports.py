"""Claims about what `import offload_db` gives, and what it costs."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import offload_db

# The contract's public names that are there so far.
PUBLIC = {
    "AsyncConnection",
    "AsyncCursor",
    "BlockingCall",
    "BlockingCallError",
    "BlockingCallWarning",
    "BridgeError",
    "CallCancelled",
    "CheckoutTimeout",
    "ConfigurationError",
    "ConnectionClosed",
    "ConnectionLost",
    "Histogram",
    "Lane",
    "LaneFull",
    "LaneStatistics",
    "OffloadConnection",
    "OffloadCursor",
    "OffloadError",
    "OffloadPool",
    "PoolClosed",
    "PoolStatistics",
    "StatementTimeout",
    "ThreadUnavailable",
    "blocking",
    "connect",
    "offload",
    "queries",
    "rollout",
}
EXTRAS = (
    "MySQLdb",
    "aiohttp",
    "celery",
    "fastapi",
    "flask",
    "httpx",
    "hypercorn",
    "libcst",
    "mysql",
    "opentelemetry",
    "pandas",
    "prometheus_client",
    "pydantic",
    "pytest",
    "quart",
    "sanic",
    "sqlalchemy",
    "starlette",
    "tornado",
    "trio",
    "uvicorn",
    "uvloop",
    "wsproto",
)

SOURCE = Path(offload_db.__file__).read_text(encoding="utf-8")


def reexports() -> list[ast.alias]:
    """Return the names that the package imports from its modules."""
    statements = [node for node in ast.parse(SOURCE).body if isinstance(node, ast.ImportFrom)]
    assert all(statement.level == 1 for statement in statements)
    return [alias for statement in statements for alias in statement.names]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_names(name: str) -> None:
    """Each public name is there, re-exported as itself, with a docstring."""
    assert inspect.getdoc(getattr(offload_db, name))
    assert (name, name) in [(alias.name, alias.asname) for alias in reexports()]


def test_no_name_that_nobody_promised() -> None:
    """All that the package re-exports it re-exports on purpose: `X as X`, and no more than the contract names."""
    for alias in reexports():
        assert alias.asname == alias.name, alias.name
        assert not alias.name.startswith("_")
    assert {alias.name for alias in reexports()} == PUBLIC


def test_the_surface_only_reexports() -> None:
    """The package's own file holds a docstring, imports and the version, and nothing else."""
    first, *rest = ast.parse(SOURCE).body
    assert isinstance(first, ast.Expr)
    for node in rest:
        assert isinstance(node, ast.ImportFrom) or ast.unparse(node).startswith(("__version__ =", "__all__ ="))


def test_typed() -> None:
    """The package tells type checkers that it has types."""
    assert (Path(offload_db.__file__).parent / "py.typed").exists()


def run(code: str) -> str:
    """Run *code* in a fresh interpreter, where every warning is an error; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(offload_db.__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_extra_is_imported() -> None:
    """Importing the package imports no framework, no event loop and no driver but PyMySQL."""
    code = "import sys, offload_db; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = set(run(code).split())
    assert {"offload_db", "pymysql", "greenlet", "anyio"} <= loaded
    assert not loaded & set(EXTRAS)


def test_it_works_without_the_extras() -> None:
    """A handler runs in an interpreter where no extra can be imported."""
    code = f"""
import sys
for name in {EXTRAS!r}:
    sys.modules[name] = None
import asyncio, threading, offload_db

@offload_db.offload
async def handler():
    return offload_db.blocking(threading.get_ident)()

assert asyncio.run(handler()) != threading.get_ident()

@offload_db.offload(mode="thread")
async def other():
    return threading.get_ident()

assert asyncio.run(other()) != threading.get_ident()
print("works")
"""
    assert run(code).strip() == "works"


def test_importing_starts_nothing() -> None:
    """Importing the package starts no thread and sets no handler of the process."""
    code = """
import signal, sys, threading, warnings
import anyio.to_thread, dbutils.pooled_db, greenlet, pymysql
before = signal.getsignal(signal.SIGTERM), sys.excepthook, threading.excepthook, list(warnings.filters)
import offload_db
after = signal.getsignal(signal.SIGTERM), sys.excepthook, threading.excepthook, list(warnings.filters)
print(threading.active_count(), before == after)
"""
    assert run(code).split() == ["1", "True"]
