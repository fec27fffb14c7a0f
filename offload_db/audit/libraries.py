"""What the audit knows of libraries: which names make a connection, and which methods of it block.

Only tables and look-ups. A method that is not listed does not block, and what it returns is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

from .model import Effect

SYNC_DRIVERS = frozenset(
    {"pymysql", "mysqldb", "mysql", "mariadb", "dbutils", "pymysqlpool", "sqlalchemy", "sqlmodel", "peewee"}
)
OTHER_DRIVERS = frozenset(
    {"aiomysql", "asyncmy", "aiosqlite", "asyncpg", "aiopg", "aioodbc", "databases", "sqlite3", "psycopg", "psycopg2",
     "psycopg_pool", "pyodbc", "pymssql", "cx_oracle", "oracledb", "tortoise", "duckdb"}
)  # fmt: skip
_AWAITABLE = ("sqlalchemy.ext.asyncio.", "mysql.connector.aio.", "sqlmodel.ext.asyncio.")

# dotted name of a class or function -> (kind of what it makes, driver, reach, what the call itself does)
_PYMYSQL = ("connection", "pymysql", "raw", "connect")
_MYSQLCLIENT = ("connection", "mysqlclient", "raw", "connect")
_CONNECTOR = ("connection", "mysql-connector", "raw", "connect")
_MARIADB = ("connection", "mariadb", "raw", "connect")
_OFFLOAD_POOL = ("offload_pool", "pymysql", "offloaded", None)
_AIO_POOL = ("aio_pool", "pymysql", "offloaded", None)
_AWAITED = ("awaitable", "pymysql", "offloaded", None)
_POOL = ("pool", "dbutils", "wrappable", "connect")
_THREAD_POOL = ("pool", "dbutils", "raw", None)
_SESSION = ("session", "sqlalchemy", "raw", None)
_ENGINE = ("engine", "sqlalchemy", "raw", None)
_SA_CONNECTION = ("sa_connection", "sqlalchemy", "raw", None)
_PEEWEE = ("peewee_db", "peewee", "raw", None)
MAKERS: Mapping[str, tuple[str, str, str, str | None]] = {
    "pymysql.connect": _PYMYSQL,
    "pymysql.Connect": _PYMYSQL,
    "pymysql.Connection": _PYMYSQL,
    "pymysql.connections.Connection": _PYMYSQL,
    "pymysqlpool.ConnectionPool": ("pool", "pymysql", "raw", "connect"),
    "MySQLdb.connect": _MYSQLCLIENT,
    "MySQLdb.Connect": _MYSQLCLIENT,
    "MySQLdb.Connection": _MYSQLCLIENT,
    "MySQLdb.connections.Connection": _MYSQLCLIENT,
    "mysql.connector.connect": _CONNECTOR,
    "mysql.connector.Connect": _CONNECTOR,
    "mysql.connector.MySQLConnection": _CONNECTOR,
    "mysql.connector.connection.MySQLConnection": _CONNECTOR,
    "mysql.connector.connection_cext.CMySQLConnection": _CONNECTOR,
    "mysql.connector.abstracts.MySQLConnectionAbstract": _CONNECTOR,
    "mysql.connector.pooling.PooledMySQLConnection": _CONNECTOR,
    "mysql.connector.pooling.MySQLConnectionPool": ("pool", "mysql-connector", "raw", "connect"),
    "mariadb.connect": _MARIADB,
    "mariadb.Connection": _MARIADB,
    "mariadb.connections.Connection": _MARIADB,
    "mariadb.ConnectionPool": ("pool", "mariadb", "raw", "connect"),
    "dbutils.pooled_db.PooledDB": _POOL,
    "DBUtils.PooledDB.PooledDB": _POOL,
    "dbutils.persistent_db.PersistentDB": _THREAD_POOL,
    "DBUtils.PersistentDB.PersistentDB": _THREAD_POOL,
    "dbutils.simple_pooled_db.PooledDB": _THREAD_POOL,
    "dbutils.steady_db.connect": ("connection", "dbutils", "raw", "connect"),
    "offload_db.OffloadPool": _OFFLOAD_POOL,
    "offload_db.OffloadPool.create": _OFFLOAD_POOL,
    "offload_db.OffloadPool.from_env": _OFFLOAD_POOL,
    "offload_db.connect": ("connection", "pymysql", "offloaded", "connect"),
    "offload_db.OffloadConnection": ("connection", "pymysql", "offloaded", None),
    "offload_db.OffloadCursor": ("cursor", "pymysql", "offloaded", None),
    "offload_db.AsyncConnection": _AWAITED,
    "offload_db.AsyncCursor": _AWAITED,
    "offload_db.aio.AsyncConnection": _AWAITED,
    "offload_db.aio.AsyncCursor": _AWAITED,
    "offload_db.aio.Connection": _AWAITED,
    "offload_db.aio.Cursor": _AWAITED,
    "offload_db.aio.connect": _AWAITED,
    "offload_db.aio.Pool": _AIO_POOL,
    "offload_db.aio.create_pool": _AIO_POOL,
    "offload_db.queries.get_async_pool": _OFFLOAD_POOL,
    "offload_db.contrib.sqlalchemy.create_engine": ("engine", "sqlalchemy", "offloaded", None),
    "sqlalchemy.create_engine": _ENGINE,
    "sqlalchemy.engine.create_engine": _ENGINE,
    "sqlalchemy.engine_from_config": _ENGINE,
    "sqlalchemy.Engine": _ENGINE,
    "sqlalchemy.engine.Engine": _ENGINE,
    "sqlalchemy.engine.base.Engine": _ENGINE,
    "sqlalchemy.Connection": _SA_CONNECTION,
    "sqlalchemy.engine.Connection": _SA_CONNECTION,
    "sqlalchemy.engine.base.Connection": _SA_CONNECTION,
    "sqlalchemy.orm.Session": _SESSION,
    "sqlalchemy.orm.session.Session": _SESSION,
    "sqlalchemy.orm.scoped_session": ("scoped_session", "sqlalchemy", "raw", None),
    "sqlalchemy.orm.sessionmaker": ("sessionmaker", "sqlalchemy", "raw", None),
    "sqlalchemy.orm.session.sessionmaker": ("sessionmaker", "sqlalchemy", "raw", None),
    "sqlalchemy.orm.Query": ("query", "sqlalchemy", "raw", None),
    "sqlmodel.Session": _SESSION,
    "sqlmodel.create_engine": _ENGINE,
    "flask_sqlalchemy.SQLAlchemy": ("flask_db", "sqlalchemy", "raw", None),
    "quart_sqlalchemy.SQLAlchemy": ("flask_db", "sqlalchemy", "raw", None),
    "peewee.MySQLDatabase": _PEEWEE,
    "peewee.DatabaseProxy": _PEEWEE,
    "peewee.Database": _PEEWEE,
    "playhouse.pool.PooledMySQLDatabase": _PEEWEE,
    "playhouse.db_url.connect": _PEEWEE,
    "playhouse.mysql_ext.MySQLConnectorDatabase": _PEEWEE,
    "playhouse.mysql_ext.MariaDBConnectorDatabase": _PEEWEE,
    "playhouse.shortcuts.ReconnectMySQLDatabase": _PEEWEE,
    "peewee.Model": ("peewee_model", "peewee", "raw", None),
}
_CURSOR_MODULES = {
    "pymysql.cursors": "pymysql",
    "MySQLdb.cursors": "mysqlclient",
    "mysql.connector.cursor": "mysql-connector",
    "mariadb.cursors": "mariadb",
}

# objects that libraries hold ready
OBJECTS: Mapping[str, tuple[str, str, str]] = {"fastapi_sqlalchemy.db.session": ("session", "sqlalchemy", "raw")}
# kind -> attribute -> kind of what it is
ATTRIBUTES: Mapping[str, Mapping[str, str]] = {
    "flask_db": {"session": "scoped_session", "engine": "engine", "Model": "sa_model"},
    "sa_model": {"query": "query"},
}

_FETCH = dict.fromkeys(("fetchone", "fetchmany", "fetchall", "fetchall_unbuffered", "nextset"), ("fetch", ""))
_RESULT = {
    **dict.fromkeys(
        ("fetchone", "fetchmany", "fetchall", "all", "first", "one", "one_or_none", "scalar", "scalar_one",
         "scalar_one_or_none", "partitions"),
        ("fetch", ""),
    ),
    **dict.fromkeys(("scalars", "mappings", "unique", "tuples", "columns", "yield_per"), ("", "result")),
    "close": ("close", ""),
}  # fmt: skip
_TRANSACTION = dict.fromkeys(("commit", "rollback"), ("transaction", ""))
_SESSION_METHODS = {
    **_TRANSACTION,
    **dict.fromkeys(("execute", "scalars", "exec"), ("statement", "result")),
    **dict.fromkeys(
        ("scalar", "get", "get_one", "refresh", "flush", "merge", "bulk_save_objects", "bulk_insert_mappings",
         "bulk_update_mappings"),
        ("statement", ""),
    ),
    "begin_nested": ("transaction", "sa_transaction"),
    "begin": ("", "sa_transaction"),
    "connection": ("connect", "sa_connection"),
    "query": ("", "query"),
    "close": ("close", ""),
    "reset": ("close", ""),
}  # fmt: skip
_HANDING_OUT = {
    **dict.fromkeys(("acquire", "transaction", "stream"), ("", "awaitable")),
    **dict.fromkeys(("connect", "connection", "dedicated_connection"), ("connect", "connection")),
    "variant": ("", "offload_pool"),
}
# kind -> method -> (what it does, kind of what it returns); "" is neither
METHODS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "connection": {
        **_TRANSACTION,
        **dict.fromkeys(("begin", "start_transaction"), ("transaction", "")),
        **dict.fromkeys(("query", "cmd_query", "cmd_query_iter", "show_warnings", "kill"), ("statement", "")),
        **dict.fromkeys(
            ("ping", "reconnect", "connect", "select_db", "change_user", "cmd_change_user", "reset_session",
             "cmd_reset_connection", "is_connected", "autocommit", "set_charset", "set_character_set"),
            ("ping", ""),
        ),
        "cursor": ("cursor", "cursor"),
        "close": ("close", ""),
    },
    "cursor": {
        **_FETCH,
        **dict.fromkeys(("execute", "executemany", "callproc"), ("statement", "")),
        "close": ("close", ""),
    },
    "pool": {
        **dict.fromkeys(
            ("connection", "dedicated_connection", "steady_connection", "get_connection", "get_conn"),
            ("connect", "connection"),
        ),
        "close": ("close", ""),
    },
    "offload_pool": {**_HANDING_OUT, "close": ("close", "")},
    "aio_pool": _HANDING_OUT,  # its close() waits for nothing
    "engine": {
        **dict.fromkeys(("connect", "begin"), ("connect", "sa_connection")),
        "execute": ("statement", "result"),
        "scalar": ("statement", ""),
        "raw_connection": ("connect", "connection"),
        "dispose": ("close", ""),
        "execution_options": ("", "engine"),
    },
    "sa_connection": {
        **_TRANSACTION,
        **dict.fromkeys(("execute", "exec_driver_sql", "scalars"), ("statement", "result")),
        "scalar": ("statement", ""),
        "begin_nested": ("transaction", "sa_transaction"),
        "begin": ("transaction", "sa_transaction"),
        "execution_options": ("", "sa_connection"),
        "close": ("close", ""),
    },
    "flask_db": dict.fromkeys(("create_all", "drop_all"), ("statement", "")),
    "sa_transaction": {**_TRANSACTION, "close": ("transaction", "")},
    "session": _SESSION_METHODS,
    "scoped_session": {**_SESSION_METHODS, "remove": ("close", ""), "query_property": ("", "query")},
    "sessionmaker": {"begin": ("connect", "session"), "configure": ("", "")},
    "query": dict.fromkeys(
        ("all", "first", "one", "one_or_none", "scalar", "count", "get", "get_or_404", "first_or_404", "delete",
         "update", "paginate"),
        ("statement", ""),
    ),
    "result": _RESULT,
    "peewee_db": {
        **_TRANSACTION,
        **dict.fromkeys(("connect", "connection_context"), ("connect", "")),
        **dict.fromkeys(
            ("create_tables", "drop_tables", "get_tables", "table_exists", "get_columns", "get_indexes"),
            ("statement", ""),
        ),
        **dict.fromkeys(("atomic", "transaction", "savepoint", "manual_commit", "begin"), ("transaction", "")),
        "execute_sql": ("statement", "cursor"),
        "execute": ("statement", "cursor"),
        "connection": ("connect", "connection"),
        "cursor": ("cursor", "cursor"),
        "close": ("close", ""),
    },
    "peewee_model": {
        **dict.fromkeys(
            ("get_or_create", "set_by_id", "delete_by_id", "bulk_create", "bulk_update", "create_table", "drop_table",
             "truncate_table", "table_exists", "save", "delete_instance"),
            ("statement", ""),
        ),
        **dict.fromkeys(("create", "get", "get_or_none", "get_by_id"), ("statement", "peewee_model")),
        **dict.fromkeys(
            ("select", "insert", "insert_many", "insert_from", "replace", "replace_many", "update", "delete", "raw",
             "noop", "filter"),
            ("", "peewee_query"),
        ),
    },
    "peewee_query": {
        **dict.fromkeys(("execute", "count", "scalar", "exists", "iterator"), ("statement", "")),
        **dict.fromkeys(("get", "get_or_none", "first", "peek"), ("statement", "peewee_model")),
    },
}  # fmt: skip
# An unlisted method of these returns another one of the kind: q.filter(…).order_by(…)
BUILDERS = frozenset({"query", "peewee_query"})
# Iterating over these sends the statement, or fetches.
ITERATED = {
    "query": "statement",
    "peewee_query": "statement",
    "cursor": "fetch",
    "result": "fetch",
}
# What `with` gives; the value itself for all others.
ENTERED = {"sessionmaker": "session", "sa_transaction": "sa_connection"}
CALLED = {"sessionmaker": "session", "scoped_session": "session", "peewee_db": ""}
# The kinds that hold a connection: they must be closed, and not be shared.
CONNECTIONS = frozenset({"connection", "sa_connection", "session"})

PANDAS = frozenset(
    {
        "pandas.read_sql", "pandas.read_sql_query", "pandas.read_sql_table", "pandas.io.sql.read_sql",
        "pandas.io.sql.read_sql_query", "pandas.io.sql.read_sql_table", "polars.read_database",
    }
)  # fmt: skip
LOCKS = frozenset(
    f"threading.{name}" for name in ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore")
) | {"_thread.allocate_lock", "multiprocessing.Lock", "multiprocessing.RLock"}  # fmt: skip
THREAD_LOCALS = frozenset({"threading.local", "_thread._local"})
_ELSEWHERE = (
    "requests.", "urllib.request.", "urllib3.", "smtplib.", "subprocess.", "pandas.read_", "openpyxl.", "ftplib.",
)  # fmt: skip
_ELSEWHERE_NAMES = frozenset(
    {"time.sleep", "os.system", "socket.create_connection", "socket.getaddrinfo", "httpx.get", "httpx.post",
     "httpx.put", "httpx.patch", "httpx.delete", "httpx.request", "httpx.Client"}
)  # fmt: skip

APPS: Mapping[str, tuple[str, str]] = {
    "fastapi.FastAPI": ("fastapi", "app"),
    "fastapi.applications.FastAPI": ("fastapi", "app"),
    "fastapi.APIRouter": ("fastapi", "router"),
    "fastapi.routing.APIRouter": ("fastapi", "router"),
    "starlette.applications.Starlette": ("starlette", "app"),
    "starlette.routing.Router": ("starlette", "router"),
    "sanic.Sanic": ("sanic", "app"),
    "sanic.app.Sanic": ("sanic", "app"),
    "sanic.Blueprint": ("sanic", "router"),
    "sanic.blueprints.Blueprint": ("sanic", "router"),
    "sanic.Blueprint.group": ("sanic", "router"),
    "aiohttp.web.Application": ("aiohttp", "app"),
    "aiohttp.web.RouteTableDef": ("aiohttp", "router"),
    "quart.Quart": ("quart", "app"),
    "quart.Blueprint": ("quart", "router"),
    "quart.blueprints.Blueprint": ("quart", "router"),
    "tornado.web.Application": ("tornado", "app"),
    "tornado.routing.RuleRouter": ("tornado", "app"),
    "aiogram.Dispatcher": ("aiogram", "app"),
    "aiogram.Router": ("aiogram", "router"),
}

# Where handlers find what an application is given: aiogram in their parameters, Tornado in self.settings.
INJECTING: Mapping[str, str] = {"aiogram": "aiogram", "tornado": "settings"}
TORNADO_RULES = frozenset({"tornado.web.url", "tornado.web.URLSpec", "tornado.routing.Rule"})
FRAMEWORKS = frozenset(
    {"fastapi", "starlette", "sanic", "aiohttp", "quart", "tornado", "offload_db", "dbutils", "DBUtils"}
)
VERBS = frozenset({"get", "post", "put", "patch", "delete", "head", "options", "trace"})
ROUTE_METHODS = VERBS | {
    "route",
    "api_route",
    "websocket",
    "websocket_route",
    "view",
    "add_api_route",
    "add_route",
    "add_resource",
    "add_get",
    "add_post",
    "add_put",
    "add_patch",
    "add_delete",
    "add_head",
    "add_view",
    "add_url_rule",
    "add_websocket_route",
    "add_api_websocket_route",
    "add_routes",
    "add_handlers",
    "include_router",
    "mount",
    "blueprint",
    "register_blueprint",
    "add_subapp",
    "add_middleware",
}

SPAWNERS = frozenset(
    {"create_task", "ensure_future", "gather", "start_soon", "start", "run_coroutine_threadsafe", "wait",
     "as_completed", "add_task", "spawn", "create_background_task", "wait_for", "shield"}
)  # fmt: skip

# Of the event loop and its futures: what these are given runs on the loop's thread, in no task.
CALLBACKS = frozenset(
    {"call_later", "call_soon", "call_at", "call_soon_threadsafe", "add_done_callback", "add_callback"}
)


def is_foreign(name: str) -> bool:
    """Tell whether a dotted name belongs to a driver that is not looked at."""
    return name.partition(".")[0].lower() in OTHER_DRIVERS or name.startswith(_AWAITABLE)


def is_known(name: str) -> bool:
    """Tell whether a dotted name means something here."""
    return maker(name) is not None or name in PANDAS or name in LOCKS or name.partition(".")[0] in FRAMEWORKS


def is_library(name: str) -> bool:
    """Tell whether a first name is that of a library that is known here."""
    return name in FRAMEWORKS or name.lower() in SYNC_DRIVERS | OTHER_DRIVERS


def maker(name: str) -> tuple[str, str, str, str | None] | None:
    """Return what calling this dotted name makes, if that is a database object."""
    found = MAKERS.get(name)
    if found is None and name.endswith("Cursor") and (driver := _CURSOR_MODULES.get(name.rpartition(".")[0])):
        return ("cursor", driver, "raw", None)
    return found


def blocks_elsewhere(name: str) -> Effect | None:
    """Return the effect of a call that blocks without a database, which a bridge does not free."""
    if name.startswith(_ELSEWHERE) or name in _ELSEWHERE_NAMES:
        return Effect("elsewhere", name.partition(".")[0], "raw")
    return None
