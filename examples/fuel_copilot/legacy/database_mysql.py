"""MySQL connection pool of the Fuel Copilot backend."""

import os

import pymysql
from dbutils.pooled_db import PooledDB

MYSQL_CONFIG = {
    "host": os.getenv("MYSQL_HOST", "localhost"),
    "port": int(os.getenv("MYSQL_PORT", "3306")),
    "user": os.getenv("MYSQL_USER", "fuel_user"),
    "password": os.getenv("MYSQL_PASSWORD", ""),
    "database": os.getenv("MYSQL_DATABASE", "fuel_monitoring"),
    "charset": "utf8mb4",
    "autocommit": True,
    "connect_timeout": 10,
}

# For load tests on a data set that is smaller than production's: seconds that every SELECT takes longer. The server
# spends them, so a client sees one slow query. 0 leaves PyMySQL as it is.
QUERY_DELAY = float(os.getenv("FUEL_QUERY_DELAY", "0"))


class DelayedConnection(pymysql.connections.Connection):
    """A connection whose SELECTs take QUERY_DELAY seconds longer, whatever cursor they come from."""

    def query(self, sql, unbuffered=False):
        if isinstance(sql, str) and sql.lstrip()[:6].upper().startswith(("SELECT", "WITH")):
            if "MariaDB" in self.server_version:
                # The value is computed once, before the statement runs; it is 0, which is the variable's default.
                sql = f"SET STATEMENT low_priority_updates = SLEEP({QUERY_DELAY}) FOR {sql}"
            else:  # MySQL has no such statement
                super().query(f"DO SLEEP({QUERY_DELAY})")
        return super().query(sql, unbuffered)


def connect_delayed(**settings):
    return DelayedConnection(**settings)


# PooledDB asks these of a connect function that is not a DB-API module.
connect_delayed.dbapi = pymysql
connect_delayed.threadsafety = pymysql.threadsafety

pool = PooledDB(
    creator=connect_delayed if QUERY_DELAY else pymysql,
    maxconnections=20,
    mincached=2,
    maxcached=10,
    blocking=True,
    **MYSQL_CONFIG,
)


def get_db_connection():
    """Get a connection from the pool. The caller closes it."""
    return pool.connection()


def get_db():
    """FastAPI dependency: a connection for the time of the request."""
    conn = get_db_connection()
    try:
        yield conn
    finally:
        conn.close()
