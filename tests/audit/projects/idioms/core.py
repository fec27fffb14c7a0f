from typing import TYPE_CHECKING, Annotated
from fastapi import Depends, Request
import pymysql
from sqlmodel import Session, create_engine, select
if TYPE_CHECKING:
    from pymysql.connections import Connection

engine = create_engine("mysql://")
POOLS: dict = {}

def get_session():
    with Session(engine) as session:
        yield session

SessionDep = Annotated[Session, Depends(get_session)]

class Repo:
    def __init__(self, db: Session = Depends(get_session)):
        self.db = db
    def all(self):
        return self.db.exec(select(1)).all()

class Base:
    def run(self, sql):
        cur = self.conn.cursor()
        cur.execute(sql)
        return cur.fetchall()

class Child(Base):
    def __init__(self, conn: "Connection"):
        self.conn = conn

def tenant_pool(name):
    if name not in POOLS:
        from dbutils.pooled_db import PooledDB
        POOLS[name] = PooledDB(pymysql, 3)
    return POOLS[name]

def connect_with_retry(n=3):
    for _ in range(n):
        try:
            return pymysql.connect(host="x")
        except pymysql.OperationalError:
            continue
    raise RuntimeError

def make_query(conn):
    def q(sql):
        with conn.cursor() as c:
            c.execute(sql)
            return c.fetchall()
    return q

class Attached:
    pass
def init(app):
    app.state.db = tenant_pool("x")
