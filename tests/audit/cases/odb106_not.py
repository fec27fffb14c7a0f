"""What pandas reads from the database of another driver is not looked at; it blocks, which only modes ask."""
import sqlite3

import pandas as pd
from fastapi import FastAPI

app = FastAPI()


@app.get("/sqlite")
async def from_sqlite():
    conn = sqlite3.connect("trucks.db")
    frame = pd.read_sql("SELECT id FROM trucks", conn)
    frame.to_sql("copy", conn)
    return pd.read_sql_query("SELECT id FROM trucks", con=sqlite3.connect("other.db"))
