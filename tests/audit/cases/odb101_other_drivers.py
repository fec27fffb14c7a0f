"""Connections of other databases, in files that use a MySQL driver, too."""
import sqlite3

import psycopg2
import pymysql
from dbutils.pooled_db import PooledDB
from mysql.connector import aio

elsewhere = PooledDB(creator=psycopg2, maxconnections=2)
files = PooledDB(sqlite3, 2, database="x.db")
pool = PooledDB(pymysql, 2)


def open_file():
    return sqlite3.connect("x.db")


async def others():
    with elsewhere.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")
    conn = files.connection()
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    conn.close()
    cursor = open_file().cursor()
    cursor.execute("SELECT 1")
    for row in cursor.fetchall():
        row.commit()
    conn = await aio.connect(host="db")
    cursor = await conn.cursor()
    await cursor.execute("SELECT 1")


async def blocking():
    with pool.connection() as conn, conn.cursor() as cursor:  # expect: ODB102 ODB103
        cursor.execute("SELECT 1")  # expect: ODB101
