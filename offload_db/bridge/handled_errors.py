"""The error that is being handled, for code that goes on in another greenlet or thread.

Python keeps that for each greenlet and thread. Owns how code that moves sees what its caller handles all the same: in
``sys.exc_info()``, for a bare ``raise``, and as the ``__context__`` of what it raises. Where it moves to is not known
here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import NoReturn, TypeVar

T = TypeVar("T")

# An error's class may refuse to have attributes set, as that of a frozen dataclass does.
_set_context: Callable[[BaseException, BaseException | None], None] = vars(BaseException)["__context__"].__set__


def with_handled(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that calls *function*, once, as if it were called from here: for another greenlet or thread.

    It holds the error that is handled here until it is called, and no longer.
    """
    error = sys.exc_info()[1]
    return function if error is None else partial(_call_handling, [error], function)


def handling() -> Callable[[Callable[[], T]], T]:
    """Return what calls a function, once, as if it were called from here, where an error is being handled."""
    error = sys.exc_info()[1]
    assert error is not None
    return partial(_call_handling, [error])


def _call_handling(errors: list[BaseException], function: Callable[[], T]) -> T:
    """Call *function* in an except clause for the one error in *errors*, which is taken out."""
    trail = errors[0].__traceback__
    # Of a thread that does the same with the same error at this moment.
    while trail is not None and trail.tb_frame.f_code is _call_handling.__code__:
        trail = trail.tb_next
    try:
        raise errors[0]  # noqa: TRY301  # there is no other way into an except clause
    except BaseException:
        errors.pop().with_traceback(trail)
        del trail
        return function()


def reraise(error: BaseException, *, apart: bool = False) -> NoReturn:
    """Raise an error that was raised in another greenlet or thread, and leave it the context that it has from there.

    :param apart: whether what is handled here was not known there: the chain of contexts shall end with it
    """
    handled = sys.exc_info()[1]
    try:
        if handled is None or handled is error:
            raise error
        if apart:
            _chain(error, handled)
        context = error.__context__
        try:
            raise error  # which makes what is handled here its context
        finally:
            _set_context(error, context)
            del context
    finally:
        del error, handled  # or its traceback would make a cycle of it


def _chain(error: BaseException, handled: BaseException) -> None:
    """Let an error's chain of contexts end with what is handled here, unless the two meet already."""
    chain = _contexts(error)
    if chain.keys().isdisjoint(_contexts(handled)):
        *_, first = chain.values()
        _set_context(first, handled)


def _contexts(error: BaseException) -> dict[int, BaseException]:
    """Return an error, its context, and so on, by their ids: errors may be unhashable."""
    chain: dict[int, BaseException] = {}
    current: BaseException | None = error
    while current is not None and id(current) not in chain:
        chain[id(current)] = current
        current = current.__context__
    return chain
