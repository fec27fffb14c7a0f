"""Claims about the error that a caller handles: decorated code sees it as undecorated code does."""

# ruff: noqa: PT017  # in this file except clauses are what is tested

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import sys
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pymysql.constants.FIELD_TYPE
import pymysql.converters
import pytest

from offload_db import blocking, offload
from offload_db.contrib.asgi import OffloadMiddleware
from tests.support import pool_of

pytestmark = pytest.mark.anyio

Decorator = Callable[[Any], Any]
modes = pytest.mark.parametrize("mode", ["bridge", "thread"])

_LIBRARIES = ("/offload_db/", "/greenback/", "/outcome/", "/anyio/", "/threading.py")


def undecorated(function: Any) -> Any:
    return function


def told(*exc_info: Any) -> str:
    """Format an error, or what ``sys.exc_info()`` gave, without the frames of libraries."""
    if len(exc_info) == 1:
        exc_info = (type(exc_info[0]), exc_info[0], exc_info[0].__traceback__)
    if exc_info[1] is None:
        return "nothing"
    whole = traceback.TracebackException(*exc_info)
    parts = [whole]
    for part in parts:
        frames = [frame for frame in part.stack if not _of_a_library(frame)]
        part.stack = traceback.StackSummary.from_list(frames)
        parts += [inner for inner in (part.__cause__, part.__context__) if inner is not None]
    return "".join(whole.format())


def _of_a_library(frame: traceback.FrameSummary) -> bool:
    # The wrapper's own frame claims to be in the file of the function that it wraps.
    return frame.name == "offloaded" or any(part in frame.filename for part in _LIBRARIES)


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and its contexts."""
    found: list[BaseException] = []
    while error is not None:
        assert len(found) < 20
        found.append(error)
        error = error.__context__
    return found


async def outcome_of(call: Callable[[], Any]) -> Any:
    """Await a call in an except clause; return what it returns, or how its error is told."""
    try:
        raise LookupError("handled")
    except LookupError as handled:
        before = traceback.extract_tb(handled.__traceback__)
        try:
            return await call()
        except Exception as error:
            return told(error)
        finally:
            assert handled.__context__ is None
            raised = sys.exc_info()[1]
            if raised is None or raised is handled:
                assert traceback.extract_tb(handled.__traceback__)[-len(before) :] == before


# What a function may do with the error that its caller handles.


async def look(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> Any:
        return told(*sys.exc_info())

    return await outcome_of(handler)


async def look_in_a_plain_helper(decorated: Decorator) -> Any:
    def helper() -> str:
        return told(*sys.exc_info())

    @decorated
    async def handler() -> Any:
        async def inner() -> str:
            return helper()

        return await inner()

    return await outcome_of(handler)


async def log(decorated: Decorator) -> Any:
    texts: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert record.exc_info is not None
            texts.append(told(*record.exc_info))

    logger = logging.getLogger("listener")
    logger.propagate = False
    listener = Listener()
    logger.addHandler(listener)

    @decorated
    async def handler() -> None:
        logger.exception("it failed")  # noqa: LOG004  # its caller handles an error

    await outcome_of(handler)
    logger.removeHandler(listener)
    return texts


async def raise_it_again(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> None:
        raise  # noqa: PLE0704  # its caller handles an error

    return await outcome_of(handler)


async def raise_another(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> None:
        raise ValueError("another")

    return await outcome_of(handler)


async def raise_a_chain(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> None:
        try:
            try:
                raise KeyError("first")
            finally:
                raise ValueError("second")
        except ValueError:
            raise TypeError("third")  # noqa: B904  # the implicit context is what it is about

    return await outcome_of(handler)


async def raise_from(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    return await outcome_of(handler)


async def raise_from_none(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> None:
        raise ValueError("alone") from None

    return await outcome_of(handler)


async def deal_with_another_one(decorated: Decorator) -> Any:
    @decorated
    async def handler() -> Any:
        with suppress(KeyError):
            raise KeyError("dealt with")
        return told(*sys.exc_info())

    return await outcome_of(handler)


async def call_further_functions(decorated: Decorator) -> Any:
    @decorated
    async def inner() -> Any:
        texts.append(told(*sys.exc_info()))
        raise ValueError("inner")

    @decorated
    async def handler() -> Any:
        texts.append(told(*sys.exc_info()))
        try:
            raise KeyError("handler's")
        except KeyError:
            await inner()

    texts: list[str] = []
    texts.append(await outcome_of(handler))
    return texts


async def generate(decorated: Decorator) -> Any:
    @decorated
    async def generator() -> AsyncIterator[str]:
        yield told(*sys.exc_info())
        yield told(*sys.exc_info())
        try:
            yield told(*sys.exc_info())
        except KeyError:
            yield told(*sys.exc_info())
        yield told(*sys.exc_info())
        raise ValueError("at the end")

    steps: Any = generator()
    texts = [await steps.__anext__()]
    try:
        raise LookupError("handled")
    except LookupError:
        texts.append(await steps.__anext__())
        texts.append(await steps.asend(None))
    try:
        raise KeyError("thrown")
    except KeyError as error:
        texts.append(await steps.athrow(error))
    texts.append(await steps.__anext__())
    texts.append(await outcome_of(steps.__anext__))
    return texts


async def close_a_generator(decorated: Decorator) -> Any:
    @decorated
    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            texts.append(told(*sys.exc_info()))
            raise ValueError("in its clean-up")

    texts: list[str] = []
    steps: Any = generator()
    await steps.__anext__()
    texts.append(await outcome_of(steps.aclose))
    return texts


async def depend_on_a_generator(decorated: Decorator) -> Any:
    @asynccontextmanager
    @decorated
    async def dependency() -> AsyncIterator[str]:
        try:
            yield told(*sys.exc_info())
        except KeyError as error:
            texts.append(told(error))
            raise ValueError("replaced")  # noqa: B904  # the implicit context is what it is about
        finally:
            texts.append(told(*sys.exc_info()))

    async def use() -> None:
        async with dependency() as seen:
            texts.append(seen)
            raise KeyError("of the body")

    texts: list[str] = []
    texts.append(await outcome_of(use))
    return texts


SCENARIOS = [
    *(look, look_in_a_plain_helper, log, raise_it_again, raise_another, raise_a_chain, raise_from, raise_from_none),
    *(deal_with_another_one, call_further_functions, generate, close_a_generator, depend_on_a_generator),
]


@modes
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_as_without_the_decorator(scenario: Callable[[Decorator], Any], mode: Any) -> None:
    """What decorated code sees of the error that its caller handles, and what it raises, reads as without @offload."""
    assert await scenario(offload(mode=mode)) == await scenario(undecorated)


async def test_plain_functions_and_blocking() -> None:
    """A def with @offload, and what blocking() makes in bridged code, see the error as well."""

    def plain() -> str:
        return told(*sys.exc_info())

    async def undecorated_call() -> str:
        return plain()

    @offload
    async def handler() -> str:
        return blocking(plain)()

    expected = await outcome_of(undecorated_call)
    assert "handled" in expected
    assert await outcome_of(offload(plain)) == expected
    assert await outcome_of(handler) == expected


@modes
async def test_the_error_stays_as_it_was(mode: Any) -> None:
    """A handled error keeps its traceback and its context, whatever its class lets be set, and can be raised again."""

    @dataclasses.dataclass(frozen=True)
    class Frozen(Exception):  # its attributes can't be set
        number: int

    @offload(mode=mode)
    async def look() -> BaseException | None:
        return sys.exc_info()[1]

    @offload(mode=mode)
    async def again() -> None:
        raise  # noqa: PLE0704  # its caller handles an error

    @offload(mode=mode)
    async def fail() -> None:
        try:
            raise KeyError
        finally:
            raise Frozen(2)

    handled = Frozen(1)
    try:
        raise handled
    except Frozen:
        trail = handled.__traceback__
        assert await look() is handled
        assert handled.__traceback__ is trail
        assert handled.__context__ is None
        with pytest.raises(Frozen) as caught:
            await again()
        assert caught.value is handled
        assert handled.__context__ is None
        assert sys.exc_info()[1] is handled
        with pytest.raises(Frozen) as caught:
            await fail()
        assert [type(error) for error in chain(caught.value)] == [Frozen, KeyError, Frozen]
        assert chain(caught.value)[-1] is handled


@modes
async def test_nothing_is_left_behind(mode: Any) -> None:
    """What one call's caller handles is not seen by the next call, and is freed when it is over."""

    @offload(mode=mode)
    async def look() -> BaseException | None:
        return sys.exc_info()[1]

    class Handled(Exception):
        pass

    async def handle(again: bool) -> weakref.ref[BaseException]:
        @offload(mode=mode)
        async def fail() -> None:
            if again:
                raise  # noqa: PLE0704  # its caller handles an error
            raise ValueError

        with suppress(Handled, ValueError):
            try:
                raise Handled
            except Handled as error:
                kept = weakref.ref[BaseException](error)
                assert await look() is error
                await fail()
        return kept

    gc.collect()
    gc.disable()
    try:
        for again in (False, True):
            kept = await handle(again)
            await anyio.lowlevel.checkpoint()
            assert await look() is None
            assert kept() is None
    finally:
        gc.enable()


async def test_other_calls_do_not_see_it() -> None:
    """While a bridged call that is made for a handled error waits, calls of other tasks see nothing of that."""
    waits, seen = anyio.Event(), anyio.Event()

    @offload
    async def wait() -> BaseException | None:
        waits.set()
        await seen.wait()
        return sys.exc_info()[1]

    @offload
    async def look() -> BaseException | None:
        return sys.exc_info()[1]

    async def other() -> None:
        await waits.wait()
        assert await look() is None
        seen.set()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        try:
            raise LookupError
        except LookupError as error:
            assert await wait() is error


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_an_eager_task_sees_it_in_its_first_step_alone(anyio_backend_name: str) -> None:
    """What is handled where an eager task is started is over for the task when it goes on, as without the decorator."""
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has this")

    class Handled(Exception):
        pass

    async def function() -> list[str]:
        seen = [told(*sys.exc_info())]
        await anyio.lowlevel.checkpoint()
        seen.append(told(*sys.exc_info()))
        with pytest.raises(KeyError) as caught:
            raise KeyError
        seen.append(repr(caught.value.__context__))
        return seen

    async def start(decorate: Decorator) -> Any:
        try:
            raise Handled
        except Handled as error:
            kept = weakref.ref(error)
            task = asyncio.Task(decorate(function)(), loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg,unused-ignore]  # as above
        seen = await task
        assert kept() is None
        return seen

    assert await start(offload) == await start(undecorated)


def test_one_error_handled_by_many() -> None:
    """Calls at the same time, in many threads, that all see one handled error leave its traceback as it was."""

    @offload
    async def look() -> None:
        for _ in range(20):
            assert blocking(sys.exc_info)()[1] is handled

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(look)

    handled = LookupError()
    try:
        raise handled
    except LookupError:
        trail = handled.__traceback__
        anyio.run(main)  # its tasks see what is handled here, as they do without the decorator
        anyio.run(look)
    assert handled.__traceback__ is trail


# Statements


async def test_a_statement_that_fails(database: dict[str, Any]) -> None:
    """The contexts of a driver's error end with the error that is handled where the statement is executed."""

    def execute() -> None:
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("NO STATEMENT")

    def execute_below_another() -> None:
        try:
            raise KeyError
        except KeyError:
            execute()

    async def transaction() -> None:
        async with pool.transaction() as connection:
            await connection.query("NO STATEMENT")

    async def cursor() -> None:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("NO STATEMENT")

    async def stream() -> None:
        async for _ in pool.stream("SELECT CAST(seq AS DATE) FROM seq_1_to_9", cursor=fail):
            pass

    def fail(**row: Any) -> None:
        raise pymysql.err.ProgrammingError

    async def fetch_made_rows() -> None:
        await pool.fetch_all("SELECT 1 AS one", cursor=fail)

    with pool_of(2, database) as pool:
        calls: list[Callable[[], Any]] = [offload(bridged_call(call)) for call in (execute, execute_below_another)]
        calls += [offload(call) for call in (execute, execute_below_another)]
        calls += [offload(mode="thread")(bridged_call(call)) for call in (execute, execute_below_another)]
        calls += [transaction, cursor, stream, fetch_made_rows, lambda: pool.fetch_all("NO STATEMENT")]
        calls += [offload(call) for call in (transaction, cursor, stream, fetch_made_rows)]
        for call in calls:
            try:
                raise LookupError
            except LookupError as handled:
                with pytest.raises(pymysql.err.ProgrammingError) as caught:
                    await call()
                contexts = chain(caught.value)
                assert contexts[-1] is handled, call
                assert handled not in contexts[:-1]


def bridged_call(function: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> Any:
        return function()

    return call


@pytest.mark.parametrize("handled_where", ["by the caller", "by the code itself"])
async def test_what_a_worker_calls(database: dict[str, Any], handled_where: str) -> None:
    """A converter and a row factory, which run in a worker thread, see the handled error, too."""
    seen: list[tuple[int, BaseException | None]] = []

    def convert(text: Any) -> Any:
        seen.append((threading.get_ident(), sys.exc_info()[1]))
        return text

    def make(**row: Any) -> Any:
        return convert(row)

    @offload
    async def handler() -> None:
        try:
            if handled_where == "by the code itself":
                raise KeyError
        except KeyError:
            await use()
        else:
            await use()

    async def use() -> None:
        handled.append(sys.exc_info()[1])
        with pool.connection() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        await pool.fetch_all("SELECT 'one' AS one", cursor=make)

    handled: list[BaseException | None] = []
    conversions = {**pymysql.converters.conversions, pymysql.constants.FIELD_TYPE.LONG: convert}
    conversions[pymysql.constants.FIELD_TYPE.LONGLONG] = convert
    with pool_of(1, database, conv=conversions) as pool:
        try:
            raise LookupError
        except LookupError:
            await handler()
        await pool.fetch_all("SELECT 'one' AS one", cursor=make)
    *during, after = seen
    assert len(during) == 2
    assert {thread for thread, _ in during}.isdisjoint({threading.get_ident()})
    assert handled[0] is not None
    assert all(error is handled[0] for _, error in during)
    assert after[1] is None


# Frameworks


async def test_a_decorated_exception_handler_of_fastapi() -> None:
    """An error handler of FastAPI's sees what it handles: decorated, below OffloadRoute and below the middleware."""
    fastapi, httpx = pytest.importorskip("fastapi"), pytest.importorskip("httpx")
    from offload_db.contrib.fastapi import OffloadRoute

    @offload
    async def tell(request: Any, error: Exception) -> Any:
        return fastapi.responses.PlainTextResponse(repr(sys.exc_info()[1]))

    @offload
    async def dependency() -> AsyncIterator[str]:
        try:
            yield repr(sys.exc_info()[1])
        except LookupError:
            noted.append(sys.exc_info()[1])
            raise

    @offload
    async def note() -> None:
        noted.append(sys.exc_info()[1])

    async def fail(given: str = fastapi.Depends(dependency)) -> None:
        try:
            raise LookupError(given)
        finally:
            await note()

    noted: list[BaseException | None] = []
    for decorate in (undecorated, offload):
        for route in (fastapi.routing.APIRoute, OffloadRoute):
            for bridges in (False, True):
                app = fastapi.FastAPI()
                app.router.route_class = route
                app.add_exception_handler(LookupError, tell)
                if bridges:
                    app.add_middleware(OffloadMiddleware)
                app.get("/")(decorate(fail))
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    assert (await client.get("/")).text == "LookupError('None')"
                assert {repr(error) for error in noted} == {"LookupError('None')"}
                assert len(noted) == 2
                noted.clear()


async def test_the_start_of_an_application_in_an_except_clause() -> None:
    """OffloadMiddleware passes a handled error on with whatever kind of call."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(sys.exc_info()[1])

    async def nothing(*args: Any) -> Any: ...

    seen: list[BaseException | None] = []
    for kind in ("lifespan", "http", "websocket"):
        try:
            raise LookupError
        except LookupError as handled:
            await OffloadMiddleware(app)({"type": kind, "path": "/"}, nothing, nothing)
            assert seen.pop() is handled


async def test_sqlalchemys_errors(database: dict[str, Any]) -> None:
    """SQLAlchemy, which wraps the driver's error in one of its own, leaves the chain as it is elsewhere."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from offload_db.contrib.sqlalchemy import create_engine

    def execute() -> None:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("NO STATEMENT"))

    with pool_of(1, database) as pool:
        engine = create_engine(pool)
        decorators: tuple[Decorator, ...] = (offload, offload(mode="thread"))
        for decorate in decorators:
            try:
                raise LookupError
            except LookupError as handled:
                with pytest.raises(sqlalchemy.exc.ProgrammingError) as caught:
                    await decorate(bridged_call(execute))()
                assert chain(caught.value)[1:] == [caught.value.orig, handled]
