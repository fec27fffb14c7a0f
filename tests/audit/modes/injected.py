"""FastAPI: what a dependency gives is the request's own, unless its factory keeps it."""

from functools import lru_cache
from typing import Annotated

import pymysql
from fastapi import Depends, FastAPI, Request
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

app = FastAPI()
engine = create_engine("mysql+pymysql://db")
SessionLocal = sessionmaker(bind=engine)
scoped = scoped_session(SessionLocal)
static_engine = create_engine("mysql+pymysql://db", poolclass=StaticPool)
one_session = SessionLocal()  # shared


def get_session():
    session = SessionLocal()
    try:
        yield session
    finally:
        session.close()


def get_kept():
    yield one_session


def connect():
    return pymysql.connect(host="db")


@lru_cache(maxsize=1)
def connect_once():  # shared
    return pymysql.connect(host="db")


class Service:
    def __init__(self, session: Session = Depends(get_session)):
        self.session = session

    def count(self):
        return self.session.execute("SELECT 1").scalar()


class Kept:
    def __init__(self, session: Session = Depends(get_kept)):
        self.session = session

    def count(self):
        return self.session.execute("SELECT 1").scalar()


@app.on_event("startup")
async def startup():  # mode: neither
    app.state.db = pymysql.connect(host="db")  # shared


@app.get("/session")
async def of_session(session: Session = Depends(get_session)):  # mode: thread
    return session.execute("SELECT 1").scalar()


@app.get("/annotated")
async def of_annotated(session: Annotated[Session, Depends(get_session)]):  # mode: thread
    return session.execute("SELECT 1").scalar()


@app.get("/kept-session")
async def of_kept_session(session: Session = Depends(get_kept)):  # mode: neither
    return session.execute("SELECT 1").scalar()


@app.get("/connection")
async def of_connection(connection=Depends(connect)):  # mode: thread
    connection.ping()


@app.get("/cached")
async def of_cached(connection=Depends(connect_once)):  # mode: neither
    connection.ping()


@app.get("/service")
async def of_service(service: Service = Depends()):  # mode: thread
    return service.count()


@app.get("/kept-service")
async def of_kept_service(service: Kept = Depends()):  # mode: neither
    return service.count()


@app.get("/state")
async def of_state(request: Request):  # mode: neither
    request.app.state.db.ping()


@app.get("/engine")
async def of_engine():  # mode: thread
    with engine.connect() as connection:
        return connection.execute("SELECT 1").scalar()


@app.get("/static")
async def of_static_pool():  # mode: neither
    with static_engine.connect() as connection:
        return connection.execute("SELECT 1").scalar()


@app.get("/scoped")
async def of_scoped():  # mode: neither
    return scoped.execute("SELECT 1").scalar()


@app.get("/with")
async def of_sessionmaker():  # mode: thread
    with SessionLocal() as session:
        return session.query(int).all()


@app.get("/unknown")
async def of_nobody_knows(connection: pymysql.connections.Connection):  # mode: neither
    connection.ping()
