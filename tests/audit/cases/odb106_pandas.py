"""Tables that pandas reads and writes."""
import pandas as pd
from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pandas import read_sql_query
from sqlalchemy import create_engine

app = FastAPI()
engine = create_engine("mysql+pymysql://db/fleet")


def load(sql):
    return pd.read_sql(sql, engine)


@app.get("/frames")
async def frames():
    frame = pd.read_sql("SELECT * FROM trucks", engine)  # expect: ODB106
    read_sql_query("SELECT 1", con=engine)  # expect: ODB106
    pd.read_sql_table("trucks", engine)  # expect: ODB106
    frame.to_sql("copy", engine)  # expect: ODB106
    load("SELECT 1")  # expect: ODB104
    pd.read_csv("x.csv")
    frame.to_dict()
    return await run_in_threadpool(pd.read_sql, "SELECT 1", engine)
