"""The pool, made on first use."""
from contextlib import contextmanager

import pymysql.cursors
from dbutils.pooled_db import PooledDB

_pool = None


def get_pool():
    global _pool
    if _pool is None:
        _pool = PooledDB(creator=pymysql, maxconnections=4, cursorclass=pymysql.cursors.DictCursor)
    return _pool


def connection():
    return get_pool().connection()


@contextmanager
def transaction():
    conn = connection()
    try:
        yield conn
        conn.commit()
    except Exception:
        conn.rollback()
        raise
    finally:
        conn.close()
