"""Claims about the error that a caller handles: decorated code sees it as undecorated code does."""

from __future__ import annotations

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
import pymysql
import pytest

import offload_db
from offload_db import OffloadPool, blocking, offload
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
            if (error := sys.exc_info()[1]) is None or error is handled:
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

    logger = logging.Logger("listener")
    logger.addHandler(Listener())

    @decorated
    async def handler() -> None:
        logger.exception("it failed")

    await outcome_of(handler)
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
