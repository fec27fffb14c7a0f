"""Statements of the drivers, in every kind of asynchronous function."""
import pymysql
import MySQLdb
import mariadb
import mysql.connector
from dbutils.pooled_db import PooledDB
from fastapi import Depends, FastAPI

app = FastAPI()
pool = PooledDB(creator=pymysql, maxconnections=5)


def get_db():
    conn = pool.connection()
    try:
        yield conn
    finally:
        conn.close()


@app.get("/trucks/{truck_id}")
async def by_dependency(truck_id: str, conn=Depends(get_db)):
    cursor = conn.cursor()  # expect: ODB103
    cursor.execute("SELECT * FROM trucks WHERE truck_id = %s", truck_id)  # expect: ODB101
    return cursor.fetchone()  # expect: ODB103


@app.get("/nested")
async def nested(conn=Depends(get_db)):
    async def inner():
        with conn.cursor() as cursor:  # expect: ODB103
            cursor.executemany("INSERT INTO log VALUES (%s)", [(1,)])  # expect: ODB101

    await inner()


class Fleet:
    def __init__(self, connection: pymysql.connections.Connection):
        self.connection = connection
        self.cur = connection.cursor()

    async def report(self):
        self.cur.callproc("report")  # expect: ODB101
        self.connection.commit()  # expect: ODB103


async def mysqlclient_rows():
    with MySQLdb.connect(host="db") as conn:  # expect: ODB102
        conn.query("SELECT 1")  # expect: ODB101
        cur = conn.cursor()  # expect: ODB103
        cur.execute("SELECT 1")  # expect: ODB101
        for row in cur:  # expect: ODB103
            yield row


async def connector_rows():
    cnx = mysql.connector.connect(host="db")  # expect: ODB102
    try:
        cur = cnx.cursor(dictionary=True)  # expect: ODB103
        cur.execute("DELETE FROM trucks")  # expect: ODB101
        cnx.commit()  # expect: ODB103
    finally:
        cnx.close()  # expect: ODB103


async def by_name(cursor, conn):
    cursor.execute("SELECT 1")  # expect: ODB101
    conn.rollback()  # expect: ODB103


async def chained():
    conn, cur = open_both()  # expect: ODB104
    cur.execute("SELECT 1")  # expect: ODB101
    conn.close()  # expect: ODB103


def open_both():
    conn = pool.connection()
    return conn, conn.cursor()


async def in_branches(kind: str):
    with pool.connection() as conn, conn.cursor() as cur:  # expect: ODB102 ODB103
        if kind:
            cur.execute("SELECT 1")  # expect: ODB101
        else:
            try:
                rows = [cur.execute("SELECT %s", n) for n in range(3)]  # expect: ODB101
            except pymysql.Error:
                cur.execute("SELECT 2")  # expect: ODB101
        match kind:
            case "x":
                cur.execute("SELECT 3")  # expect: ODB101
    return cur


def sync_helper():
    with pool.connection() as conn, conn.cursor() as cur:
        cur.execute("SELECT 1")


async def mariadb_rows():
    conn = mariadb.connect(host="db")  # expect: ODB102
    try:
        cur = conn.cursor(dictionary=True)  # expect: ODB103
        cur.execute("SELECT * FROM trucks WHERE truck_id = ?", (1,))  # expect: ODB101
    finally:
        conn.close()  # expect: ODB103
