"""Engines of other databases, which are not looked at, beside one of MySQL's."""
import os
import sqlite3

import pandas as pd
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session, sessionmaker

app = FastAPI()
DATABASE = "sqlite:///./cache.db"
cache = create_engine(DATABASE, connect_args={"check_same_thread": False})
reports = create_engine(f"postgresql+psycopg2://{os.environ['USER']}@reports/fleet")
made = create_engine(URL.create("sqlite", database="made.db"))
CacheSession = sessionmaker(bind=cache)
trucks = create_engine("mysql+pymysql://db/fleet")
TruckSession = sessionmaker(trucks)
either = create_engine(os.getenv("DATABASE_URL", "sqlite:///./test.db"))
file = sqlite3.connect("file.db")


def get_cache():
    session = CacheSession()
    try:
        yield session
    finally:
        session.close()


@app.get("/cached")
async def cached(session: Session = Depends(get_cache)):
    with cache.connect() as connection:
        connection.execute(text("SELECT 1"))
    with CacheSession() as own:
        own.execute(text("SELECT 1"))
        own.commit()
    with Session(reports) as third:
        third.execute(text("SELECT 1"))
    with made.begin() as connection:
        connection.execute(text("SELECT 1"))
    return pd.read_sql("SELECT 1", cache)


@app.get("/file")
async def of_file():
    pd.read_sql("SELECT 1", file)
    pd.read_sql("SELECT 1", con=sqlite3.connect("other.db"))
    return pd.read_sql_query("SELECT 1", reports)


@app.get("/trucks")
async def of_trucks():
    with trucks.connect() as connection:  # expect: ODB105
        connection.execute(text("SELECT 1"))  # expect: ODB105
    with TruckSession() as session:
        session.execute(text("SELECT 1"))  # expect: ODB105
    with either.connect() as connection:  # expect: ODB105
        return connection.execute(text("SELECT 1")).scalar()  # expect: ODB105
