"""The awaitable surface: connections and cursors in the shape that aiomysql users know.

Besides it has the names of aiomysql itself, so that ``import aiomysql`` becomes ``from offload_db import aio as
aiomysql`` in code that is to run over this library's pool.
"""

from pymysql.converters import (  # type: ignore[attr-defined]  # types-PyMySQL has forgotten escape_dict
    escape_dict as escape_dict,
    escape_sequence as escape_sequence,
    escape_string as escape_string,
)
from pymysql.err import (
    DatabaseError as DatabaseError,
    DataError as DataError,
    Error as Error,
    IntegrityError as IntegrityError,
    InterfaceError as InterfaceError,
    InternalError as InternalError,
    MySQLError as MySQLError,
    NotSupportedError as NotSupportedError,
    OperationalError as OperationalError,
    ProgrammingError as ProgrammingError,
    Warning as Warning,  # noqa: A004  # DB-API 2 has named it so
)

from ..awaitable.pending import Pending as Pending
from .connection import AsyncConnection as AsyncConnection, Connection as Connection, connect as connect
from .cursors import (
    AsyncCursor as AsyncCursor,
    Cursor as Cursor,
    DictCursor as DictCursor,
    SSCursor as SSCursor,
    SSDictCursor as SSDictCursor,
)
from .pool import Pool as Pool, create_pool as create_pool
