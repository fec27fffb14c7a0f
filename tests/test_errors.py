"""Claims about the errors: what they are, what they carry, and that old `except` clauses keep catching them."""

from __future__ import annotations

import copy
import pickle

import pymysql
import pytest
from dbutils.pooled_db import InvalidConnectionError, TooManyConnectionsError
from pymysql.err import InterfaceError, OperationalError

import offload_db
from offload_db import errors
from tests.inside import CodedError

BASES: dict[type[Exception], tuple[type[BaseException], ...]] = {
    errors.OffloadError: (Exception,),
    errors.CheckoutTimeout: (OperationalError, TimeoutError, TooManyConnectionsError),
    errors.LaneFull: (OperationalError, TooManyConnectionsError),
    errors.StatementTimeout: (OperationalError, TimeoutError),
    errors.CallCancelled: (OperationalError,),
    errors.ConnectionLost: (OperationalError,),
    errors.PoolClosed: (OperationalError, RuntimeError),
    errors.ConnectionClosed: (InterfaceError, InvalidConnectionError),
    errors.ThreadUnavailable: (OperationalError, RuntimeError),
    errors.BridgeError: (RuntimeError,),
    errors.BlockingCallError: (RuntimeError,),
    errors.ConfigurationError: (ValueError,),
}
FOREIGN = (
    pymysql.MySQLError,
    OperationalError,
    InterfaceError,
    TimeoutError,
    TooManyConnectionsError,
    InvalidConnectionError,
    RuntimeError,
    ValueError,
)
CODED = [error for error in BASES if hasattr(error, "because")]


def is_any(error: type[BaseException], kinds: tuple[type[BaseException], ...]) -> bool:
    return any(issubclass(kind, error) for kind in kinds)


def test_the_table_is_complete() -> None:
    """Every error and warning of the module is in this file's table and is exported."""
    defined = {
        value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == errors.__name__
        if not name.startswith("_")
    }
    assert defined == {*BASES, errors.BlockingCallWarning}
    for value in defined:
        assert getattr(offload_db, value.__name__) is value


@pytest.mark.parametrize("error", BASES, ids=lambda error: str(error.__name__))
def test_bases(error: type[Exception]) -> None:
    """Each error has the bases of the table, and is not by accident anything else that people catch."""
    assert issubclass(error, errors.OffloadError)
    for foreign in FOREIGN:
        assert issubclass(error, foreign) == is_any(foreign, BASES[error]), foreign


@pytest.mark.parametrize("error", BASES, ids=lambda error: str(error.__name__))
def test_docstrings(error: type[Exception]) -> None:
    """Each docstring says when the error is raised."""
    assert error.__doc__
    assert error.__doc__.startswith(("Raised when", "Base of"))


@pytest.mark.parametrize("error", CODED, ids=lambda error: str(error.__name__))
def test_arguments(error: type[CodedError]) -> None:
    """A coded error has PyMySQL's arguments, a number and a text, and shows as its text."""
    made = error.because("lane 'reports': why, and what to do")
    code, message = made.args
    assert type(made) is error
    assert code == error.code
    assert isinstance(code, int)
    assert message == "lane 'reports': why, and what to do"
    assert str(made) == message
    assert message in repr(made)
    assert str(error()) == ""


def test_codes() -> None:
    """The codes are those of the server's own errors of the same kind."""
    codes = {error.__name__: error.code for error in CODED}  # type: ignore[attr-defined]
    assert codes == {
        "CheckoutTimeout": 1040,
        "LaneFull": 1040,
        "StatementTimeout": 1969,
        "CallCancelled": 1317,
        "ConnectionLost": 2013,
        "PoolClosed": 2006,
        "ConnectionClosed": 0,
        "ThreadUnavailable": 2008,
    }


@pytest.mark.parametrize("error", BASES, ids=lambda error: str(error.__name__))
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(error: type[Exception], protocol: int) -> None:
    """Each error survives pickling and copying with its arguments, as Celery and multiprocessing need it."""
    made = error.because("text") if issubclass(error, CodedError) else error("text")
    for twin in (pickle.loads(pickle.dumps(made, protocol)), copy.copy(made), copy.deepcopy(made)):
        assert type(twin) is error
        assert twin.args == made.args
        assert str(twin) == "text"


@pytest.mark.parametrize("error", [errors.ConnectionLost, errors.StatementTimeout])
def test_the_outcome_survives_pickling(error: type[errors.ConnectionLost | errors.StatementTimeout]) -> None:
    """Whether the statement may have run is True unless it is known better, and is pickled."""
    made = error.because("text")
    assert made.may_have_run is True
    made.may_have_run = False
    assert pickle.loads(pickle.dumps(made)).may_have_run is False
    assert error.because("another").may_have_run is True


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [(error, base) for error, bases in BASES.items() for base in bases],
    ids=lambda value: str(value.__name__),
)
def test_old_handlers_catch_it(error: type[Exception], caught_as: type[Exception]) -> None:
    """An `except` for the old class catches the new one, with arguments that the old handler can take apart."""
    made = error.because("text") if issubclass(error, CodedError) else error("text")
    with pytest.raises(caught_as) as caught:
        raise made
    assert caught.value is made
    if issubclass(caught_as, pymysql.MySQLError):
        number, text = caught.value.args
        assert isinstance(number, int)
        assert text == "text"


def test_an_except_for_the_driver_alone_is_not_too_wide() -> None:
    """Errors of use, which no retry cures, are not the driver's."""
    for error in (errors.BridgeError, errors.BlockingCallError, errors.ConfigurationError):
        assert not issubclass(error, pymysql.MySQLError)


def test_the_warning() -> None:
    """The warning is one that Python shows by default."""
    assert issubclass(errors.BlockingCallWarning, RuntimeWarning)
    assert not issubclass(errors.BlockingCallWarning, errors.OffloadError)
