"""The helpers of this application are in files that are not read."""
import sqlite_utils
from fastapi import FastAPI

from app.store import get_cursor, settings
from .places import find

app = FastAPI()


@app.get("/rows")
async def rows():
    with get_cursor() as cursor:
        cursor.execute("SELECT id FROM trucks LIMIT 1")  # expect: ODB101
        return cursor.fetchall()  # expect: ODB103


@app.get("/own")
async def own():
    conn = find("db")
    conn.commit()  # expect: ODB103
    async with find("pool") as conn:
        await conn.commit()
    settings.commit()
    cursor = sqlite_utils.cursor()
    return cursor.execute("SELECT 1")
