"""Pools: threads may wait at one, but some raise an error instead."""

import mariadb
import mysql.connector
import mysql.connector.pooling
import pymysql
from dbutils.pooled_db import PooledDB
from fastapi import FastAPI
from playhouse.pool import PooledMySQLDatabase

app = FastAPI()
five = mysql.connector.pooling.MySQLConnectionPool(pool_size=5)
maria = mariadb.ConnectionPool(pool_name="web", pool_size=5)
waits = PooledDB(pymysql, maxconnections=5)
peewee_refuses = PooledMySQLDatabase("fleet", max_connections=8)
peewee_waits = PooledMySQLDatabase("fleet", max_connections=8, timeout=10)
settings = {"host": "db", "pool_name": "web"}


@app.get("/connector")
async def of_connector():  # mode: neither
    connection = five.get_connection()
    connection.cursor().execute("SELECT 1")
    connection.close()


@app.get("/connector-by-name")
async def of_connector_by_name():  # mode: neither
    connection = mysql.connector.connect(pool_name="web", pool_size=5)
    connection.cursor().execute("SELECT 1")
    connection.close()


@app.get("/connector-settings")
async def of_connector_settings():  # mode: neither
    connection = mysql.connector.connect(**settings)
    connection.cursor().execute("SELECT 1")
    connection.close()


@app.get("/connector-plain")
async def of_connector_plain():  # mode: thread
    connection = mysql.connector.connect(host="db")
    connection.cursor().execute("SELECT 1")
    connection.close()


@app.get("/mariadb")
async def of_mariadb():  # mode: neither
    connection = maria.get_connection()
    connection.cursor().execute("SELECT 1")
    connection.close()


@app.get("/dbutils")
async def of_dbutils():  # mode: either
    with waits.connection() as connection:
        connection.ping()


@app.get("/peewee")
async def of_peewee():  # mode: neither
    peewee_refuses.execute_sql("SELECT 1")


@app.get("/peewee-waits")
async def of_peewee_that_waits():  # mode: thread
    peewee_waits.execute_sql("SELECT 1")
