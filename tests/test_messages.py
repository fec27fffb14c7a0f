"""Claims about what errors say: which setting, what is accepted, what to do, and in which chapter there is more."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import offload_db
from offload_db.errors import ThreadUnavailable
from tests.evidence import GUIDE
from tests.support import pool_of

LIBRARY = Path(offload_db.__file__).parent
CHAPTER = re.compile(r"\(guide: ([^)]*)\)")

# How an error of a setting names it, and how it says what is accepted. `{…}` at its end is made of such parts.
NAMED = re.compile(r"^@offload stands|^the pool's connections|^{…} |[=:]")
ACCEPTED = re.compile(r"accepted (is|are)|; max_size is$|the lanes of this pool are|[;:] (put @offload|leave it)|{…}$")


def texts(node: ast.AST) -> str:
    """Return what is known of a message from its source alone, with a mark for each part that is not."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(texts(part) for part in node.values)
    return "{…}"


def made(*names: str) -> Iterator[tuple[str, str]]:
    """Find where one of these functions is called with a message: the place, and the message."""
    for file in sorted(LIBRARY.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] in names:
                message = texts(node.args[-1])
                if message != "{…}":
                    yield f"{file.relative_to(LIBRARY)}:{node.lineno}", message


SETTINGS = list(made("ConfigurationError"))
WORK = list(made("because"))


@pytest.mark.parametrize(("place", "message"), SETTINGS, ids=[place for place, _ in SETTINGS])
def test_errors_of_settings(place: str, message: str) -> None:
    """Each error of a setting names it, and says what is accepted."""
    assert NAMED.search(message), message
    assert ACCEPTED.search(message), message


@pytest.mark.parametrize(("place", "message"), WORK, ids=[place for place, _ in WORK])
def test_errors_of_work(place: str, message: str) -> None:
    """Each error of a call says what happened, and after it what to do or what is known of the outcome."""
    known = "{…} was not sent: {…}", "no connection was opened in time: {…}"  # the limit that is over says the rest
    assert ";" in message or message in known, message


def test_the_messages_are_found() -> None:
    """The claims above are about what there is."""
    assert len(SETTINGS) > 35
    assert len(WORK) > 8


def test_chapters_that_messages_name_are_there() -> None:
    """A message that names a chapter of the guide does so by its title."""
    titles = {
        chapter.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for chapter in GUIDE.glob("*.md")
    }
    named = {name for file in LIBRARY.rglob("*.py") for name in CHAPTER.findall(file.read_text(encoding="utf-8"))}
    assert {"Scaling", "How a handler runs"} <= named <= titles


def test_no_thread() -> None:
    """Where no thread can be started the error says so, and which limits there are."""
    error = ThreadUnavailable.after(RuntimeError("can't start new thread"))
    assert str(error).startswith("no thread could be started, so nothing was sent: can't start new thread; allow")
    assert error.args[0] == ThreadUnavailable.code


def helper(pool: offload_db.OffloadPool) -> None:
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_call_that_blocks(database: dict[str, Any]) -> None:
    """The warning names the line that blocks, and the one in the ``async def`` that is to be decorated."""

    async def handler(pool: offload_db.OffloadPool) -> None:
        helper(pool)

    with pool_of(1, database) as pool, pytest.warns(offload_db.BlockingCallWarning) as warned:
        asyncio.run(handler(pool))
    said = [str(warning.message) for warning in warned]
    line = handler.__code__.co_firstlineno + 1
    assert any(
        re.fullmatch(
            rf"{re.escape(__file__)}:\d+: execute\(\) in helper blocks the event loop; put @offload_db.offload on the "
            rf"async def that leads here \(from {re.escape(__file__)}:{line} in handler\), .*",
            text,
        )
        for text in said
    ), said
