import os, threading
import pymysql
from pymysql.cursors import DictCursor
from dbutils.pooled_db import PooledDB
from contextlib import contextmanager
from typing import Optional, Generator

class Database:
    _instance: Optional["Database"] = None
    _lock = threading.Lock()

    def __new__(cls, *args, **kwargs):
        if cls._instance is None:
            with cls._lock:
                if cls._instance is None:
                    cls._instance = super().__new__(cls)
                    cls._instance._pool = PooledDB(creator=pymysql, maxconnections=10, cursorclass=DictCursor)
        return cls._instance

    def get_connection(self):
        return self._pool.connection()

    @contextmanager
    def cursor(self) -> Generator[DictCursor, None, None]:
        conn = self.get_connection()
        cur = conn.cursor()
        try:
            yield cur
            conn.commit()
        finally:
            cur.close()
            conn.close()

    def fetch_all(self, sql: str, params: tuple = ()):
        with self.cursor() as cur:
            cur.execute(sql, params)
            return cur.fetchall()

    def fetch_one(self, sql, params=None):
        rows = self.fetch_all(sql, params)
        return rows[0] if rows else None

db = Database()

def get_db():
    conn = pymysql.connect(host=os.environ["H"], cursorclass=DictCursor)
    try:
        yield conn
    finally:
        conn.close()

class DB:
    def __init__(self):
        self.conn = None
    def connect(self):
        self.conn = pymysql.connect(host="x")
    def __enter__(self):
        self.connect()
        return self
    def __exit__(self, *a):
        self.conn.close()
    def q(self, s):
        c = self.conn.cursor()
        c.execute(s)
        return c.fetchall()
