"""Connections that are opened or taken from a pool."""
import MySQLdb
import mysql.connector.pooling
import offload_db
import pymysql
from DBUtils.PooledDB import PooledDB
from mysql.connector import connect as connect_to
from fastapi import FastAPI
from pymysql import connect

app = FastAPI()
old = PooledDB(pymysql, 5)
wrapped = offload_db.OffloadPool(PooledDB(pymysql, 5))
connector_pool = mysql.connector.pooling.MySQLConnectionPool(pool_size=3)


class Connection(pymysql.connections.Connection):
    pass


@app.get("/all")
async def open_all():
    with pymysql.connect(host="db"):  # expect: ODB102
        pass
    with connect(host="db"), connect_to(host="db"):  # expect: ODB102
        pass
    with old.connection(), old.dedicated_connection():  # expect: ODB102
        pass
    with wrapped.connection():  # expect: ODB102
        pass
    with connector_pool.get_connection():  # expect: ODB102
        pass
    with Connection(host="db"):  # expect: ODB102
        pass
    with offload_db.connect(host="db"):  # expect: ODB102
        pass


@app.on_event("startup")
async def startup():
    app.state.pool = PooledDB(pymysql, 5)  # expect: ODB102


@app.get("/state")
async def from_state(request):
    with request.app.state.pool.connection() as conn:  # expect: ODB102
        conn.ping()  # expect: ODB103


@app.get("/not")
async def not_connecting(client):
    client.connect()
    return pymysql.connect
