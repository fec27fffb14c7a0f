"""Claims about what is seen from outside: OpenTelemetry's spans nest, and logs hold no values."""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pymysql
import pytest

import offload_db
from offload_db import Lane, LaneFull, OffloadPool, StatementTimeout, offload
from offload_db.contrib.asgi import OffloadMiddleware
from tests.conftest import MySQL
from tests.support import PLACES, QUICK, pool_of, run_at, together, until, value


@pytest.fixture
def spans() -> Iterator[Callable[[], dict[str, Any]]]:
    """Instrument PyMySQL with a tracer of the test's own; gives the spans that ended, by their statement or name."""
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("opentelemetry.instrumentation.pymysql")
    from opentelemetry.instrumentation.pymysql import PyMySQLInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("the application")
    instrumentor = PyMySQLInstrumentor()
    instrumentor.instrument(tracer_provider=provider)

    def ended() -> dict[str, Any]:
        found = {}
        for span in exporter.get_finished_spans():
            attributes = span.attributes or {}
            found[str(attributes.get("db.statement") or attributes.get("db.query.text") or span.name)] = span
        return found

    vars(ended)["tracer"] = tracer
    yield ended
    instrumentor.uninstrument()


def parent_of(span: Any) -> Any:
    return None if span.parent is None else span.parent.span_id


@pytest.mark.anyio
@pytest.mark.parametrize("place", PLACES)
async def test_statements_nest_under_the_request(place: str, spans: Any, database: dict[str, Any]) -> None:
    """In bridge and thread mode, and in a plain thread, each statement's span is a child of its caller's."""
    with pool_of(1, database) as pool:

        def request() -> None:
            with spans.tracer.start_as_current_span("request"):
                with pool.connection() as connection, connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    with spans.tracer.start_as_current_span("helper"):
                        cursor.execute("SELECT 2")
                        assert cursor.fetchone() == (2,)
                unpooled = offload_db.connect(**QUICK, **database)
                assert value(unpooled, "SELECT 3") == 3
                unpooled.close()

        await run_at(place, request)
    found = spans()
    assert parent_of(found["request"]) is None
    assert parent_of(found["SELECT 1"]) == found["request"].context.span_id
    assert parent_of(found["SELECT 2"]) == found["helper"].context.span_id
    assert parent_of(found["SELECT 3"]) == found["request"].context.span_id


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["bridge", "thread"])
async def test_requests_at_once_keep_their_spans(mode: Any, spans: Any, database: dict[str, Any]) -> None:
    """Spans of requests that run at once do not mix, though they share connections and threads."""
    with pool_of(2, database) as pool:

        @offload(mode=mode)
        async def request(number: int) -> None:
            with spans.tracer.start_as_current_span(f"request {number}"):
                for _ in range(3):
                    with pool.connection() as connection:
                        value(connection, f"SELECT {number}")

        def of(number: int) -> Callable[[], Any]:
            return lambda: request(number)

        assert await together(*(of(number) for number in range(8))) == [None] * 8
        # The awaitable surface as well.
        with spans.tracer.start_as_current_span("awaiting"):
            assert await pool.fetch_value("SELECT 99") == 99
    found = spans()
    for number in range(8):
        assert parent_of(found[f"SELECT {number}"]) == found[f"request {number}"].context.span_id
    assert parent_of(found["SELECT 99"]) == found["awaiting"].context.span_id


@pytest.mark.anyio
async def test_spans_below_the_middleware(spans: Any, database: dict[str, Any]) -> None:
    """A span that stands around the whole application, as a server's instrumentation makes it, is the parent."""
    with pool_of(1, database) as pool:

        async def app(scope: Any, receive: Any, send: Any) -> None:
            with pool.connection() as connection:
                value(connection, "SELECT 1")

        with spans.tracer.start_as_current_span("server"):
            await OffloadMiddleware(app)({"type": "http", "path": "/"}, None, None)  # type: ignore[arg-type]  # unused
    found = spans()
    assert parent_of(found["SELECT 1"]) == found["server"].context.span_id


# Logs

SECRET = "a parameter that nobody may read"


@pytest.mark.anyio
async def test_logs_and_warnings_hold_no_values(
    mysql: MySQL, database: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, neither a parameter nor the text around it, nor a password, is logged or warned of."""
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    options = {"leak_warning": 0.05, "statement_timeout": 0.2, "lanes": [Lane("narrow", 1, max_waiting=0)]}

    def query(pool: OffloadPool, sql: str, lane: str | None = None) -> None:
        with pool.connection(lane=lane) as connection, connection.cursor() as cursor:
            cursor.execute(sql, (SECRET,))

    with pool_of(2, database, **options) as pool:

        async def failure(sql: str) -> BaseException | None:
            try:
                await run_at("bridge", lambda: query(pool, sql))
            except pymysql.MySQLError as error:
                return error
            return None

        errors = [await failure(sql) for sql in ("SELECT %s", "SELECT %s FROM nowhere", "SELECT %s, SLEEP(20)")]
        assert [type(error) for error in errors] == [type(None), pymysql.err.ProgrammingError, StatementTimeout]
        texts += map(str, errors)
        with pytest.warns(offload_db.BlockingCallWarning) as warned:
            query(pool, "SELECT %s")  # on the loop
        texts += [str(warning.message) for warning in warned]

        held = await run_at("plain", lambda: pool.connection(lane="narrow"))
        await run_at("plain", lambda: value(held, "SELECT %s", SECRET))
        with pytest.raises(LaneFull) as full:
            await run_at("plain", lambda: query(pool, "SELECT %s", lane="narrow"))
        texts.append(str(full.value))

        def reported() -> bool:
            return any("has been held" in record.getMessage() for record in caplog.records)

        await anyio.to_thread.run_sync(lambda: until(reported))
        texts += [repr(pool), repr(held), str(pool.statistics()), str(pool.blocking_calls())]
        await run_at("plain", held.close)
    texts += [record.getMessage() + str(record.args) for record in caplog.records]
    assert any("came back" in text for text in texts)
    for text in texts:
        assert SECRET not in text
        assert "SLEEP" not in text
        assert database["password"] not in text


def test_logging_is_lazy() -> None:
    """Each log call has a constant format and leaves the formatting to who reads the record."""
    calls = [
        node
        for path in Path(offload_db.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "logger"
    ]
    assert len(calls) > 2
    for call in calls:
        assert isinstance(call.args[0], ast.Constant), ast.unparse(call)


def test_a_logger_that_nobody_configured_says_nothing() -> None:
    """Without handlers nothing is formatted, and importing the library configures no logging."""
    logger = logging.getLogger("offload_db")
    assert logger.handlers == []
    assert logger.level == logging.NOTSET
