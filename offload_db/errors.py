"""The exception tree of the library.

Owns every error and warning that offload_db raises of its own accord. Errors of the server and of the driver pass
through unchanged, except for a lost link, which becomes :class:`ConnectionLost`.

Pool and statement errors subclass :class:`pymysql.err.OperationalError` and carry ``(code, message)`` as arguments
like it, so that handlers written for PyMySQL keep catching them.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar

from dbutils.pooled_db import InvalidConnectionError, TooManyConnectionsError
from pymysql.constants import CR, ER
from pymysql.err import InterfaceError, OperationalError

E = TypeVar("E", bound="_CodedError")

# The code MariaDB gives a statement that it stopped for its time limit; PyMySQL knows it as ER.STATEMENT_TIMEOUT.
STATEMENT_TIMEOUT = 1969


# The code a server gives a statement that was killed; PyMySQL has no name for it.
QUERY_INTERRUPTED = 1317


class OffloadError(Exception):
    """Base of every error that offload_db raises of its own accord."""


class _CodedError(OffloadError):
    """An error whose arguments are a MySQL error code and a message, as PyMySQL's are."""

    code: ClassVar[int]

    @classmethod
    def because(cls: type[E], message: str) -> E:
        """Make the error from its message, with the code that belongs to its class."""
        return cls(cls.code, message)

    def __str__(self) -> str:
        # TimeoutError is an OSError, whose own text would be "[Errno 1040] …".
        return str(self.args[-1]) if self.args else ""


class CheckoutTimeout(
    _CodedError,
    OperationalError,
    TooManyConnectionsError,  # type: ignore[misc]  # DBUtils ships no types
    TimeoutError,
):
    """Raised when no connection became free within ``checkout_timeout``, or when none ever can.

    The second case is a caller that holds connections itself and waits for one more while every other holder waits
    as well: it is refused at once instead of being left to hang.
    """

    code: ClassVar[int] = ER.CON_COUNT_ERROR


class LaneFull(_CodedError, OperationalError, TooManyConnectionsError):  # type: ignore[misc]  # as above
    """Raised when ``max_waiting`` callers are queued already."""

    code: ClassVar[int] = ER.CON_COUNT_ERROR


class StatementTimeout(_CodedError, OperationalError, TimeoutError):
    """Raised when a statement ran past its timeout; it was killed, or its link was cut."""

    code: ClassVar[int] = STATEMENT_TIMEOUT
    may_have_run: bool = True
    """Whether the statement may have taken effect: True unless it was not sent."""


class CallCancelled(_CodedError, OperationalError):
    """Raised when code in a worker thread goes on with the database though its call's task was cancelled.

    Nothing is sent for such a call any more but what ends its work: rolling back and closing.
    """

    code: ClassVar[int] = QUERY_INTERRUPTED


class ConnectionLost(_CodedError, OperationalError):
    """Raised when the link to the server broke during a statement.

    The arguments are the driver's code and its text, followed by what is known of the outcome.
    """

    code: ClassVar[int] = CR.CR_SERVER_LOST
    may_have_run: bool = True
    """Whether the server may have executed the statement: True unless it certainly was not sent."""


class PoolClosed(_CodedError, OperationalError, RuntimeError):
    """Raised when the pool is closed or draining."""

    code: ClassVar[int] = CR.CR_SERVER_GONE_ERROR


class ConnectionClosed(_CodedError, InterfaceError, InvalidConnectionError):  # type: ignore[misc]  # as above
    """Raised when a connection is used after it was closed, or a cursor after its connection was."""

    code: ClassVar[int] = 0


class ThreadUnavailable(_CodedError, OperationalError, RuntimeError):
    """Raised when a call needs a thread and the process can have no further one; nothing was sent to the server."""

    code: ClassVar[int] = CR.CR_OUT_OF_MEMORY

    @classmethod
    def after(cls, error: BaseException) -> ThreadUnavailable:
        """Make the error from what Python raised when a thread was to start."""
        return cls.because(
            f"no thread could be started, so nothing was sent: {error}; allow the process more threads (ulimit -u, the "
            "pids limit of its container), or fewer calls at once"
        )


class BridgeError(OffloadError, RuntimeError):
    """Raised when a ``mode="thread"`` handler suspended, or a bridge was asked for where there can be none.

    That is where no task runs, and in an event loop that a bridged call runs inside of itself.
    """


class BlockingCallError(OffloadError, RuntimeError):
    """Raised when a driver call would block the event loop's thread and ``on_loop_call`` is ``"raise"``.

    Also raised, whatever the setting, where running inline could only corrupt data: on a shared connection that
    belongs to another call.
    """


class ConfigurationError(OffloadError, ValueError):
    """Raised when a setting is bad; names the setting, what was given and what is accepted."""


class BlockingCallWarning(RuntimeWarning):
    """Issued once per call site when a driver call blocks the event loop's thread."""
