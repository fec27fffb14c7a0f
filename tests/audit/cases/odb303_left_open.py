"""Connections that are not closed on every path."""
from contextlib import closing

import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import HTTPException

pool = PooledDB(pymysql, 5)


async def on_the_way_out(truck_id):
    conn = pool.connection()  # expect: ODB102 ODB303
    cursor = conn.cursor()  # expect: ODB103
    if not cursor.execute("SELECT 1 FROM t WHERE id = %s", truck_id):  # expect: ODB101
        raise HTTPException(status_code=404)
    conn.close()  # expect: ODB103


async def by_an_exception():
    conn = pool.connection()  # expect: ODB102 ODB303
    conn.ping()  # expect: ODB103
    conn.close()  # expect: ODB103


async def never():
    conn = pymysql.connect(host="db")  # expect: ODB102 ODB303
    conn.ping()  # expect: ODB103


async def helper_leaks():
    leaking_helper()  # expect: ODB104


def leaking_helper():
    conn = pool.connection()  # expect: ODB303
    conn.ping()


async def with_finally():
    conn = pool.connection()  # expect: ODB102
    try:
        conn.ping()  # expect: ODB103
    finally:
        conn.close()  # expect: ODB103


async def with_with():
    conn = pool.connection()  # expect: ODB102
    with conn:
        conn.ping()  # expect: ODB103
    second = pool.connection()  # expect: ODB102
    with closing(second):
        second.ping()  # expect: ODB103


async def in_both_ways():
    conn = pool.connection()  # expect: ODB102
    try:
        conn.ping()  # expect: ODB103
    except Exception:
        conn.close()  # expect: ODB103
        raise
    conn.close()  # expect: ODB103


async def given_away():
    conn = pool.connection()  # expect: ODB102
    return conn


async def stored(request):
    conn = pool.connection()  # expect: ODB102
    request.state.conn = conn


def a_script():
    conn = pool.connection()
    conn.ping()


async def guarded(truck_id):
    conn = maybe()  # expect: ODB104
    if not conn:
        return None
    try:
        conn.ping()  # expect: ODB103
    finally:
        conn.close()  # expect: ODB103


async def guarded_by_none():
    conn = maybe()  # expect: ODB104 ODB303
    if conn is None:
        raise HTTPException(status_code=503)
    conn.ping()  # expect: ODB103
    conn.close()  # expect: ODB103


async def guarded_with_else():
    conn = maybe()  # expect: ODB104 ODB303
    if conn is not None:
        conn.ping()  # expect: ODB103
        return
    else:
        return
    conn.close()  # expect: ODB103


def maybe():
    return pool.connection() if pool else None
