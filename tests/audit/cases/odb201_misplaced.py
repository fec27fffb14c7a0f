"""@offload where it has no effect."""
import offload_db
from fastapi import APIRouter, FastAPI
from offload_db import offload

from database import pool

app = FastAPI()
router = APIRouter()
wrapped = offload_db.OffloadPool(pool)


@offload_db.offload  # expect: ODB201
@app.get("/above")
async def above():
    with wrapped.connection() as conn:  # expect: ODB102
        conn.commit()  # expect: ODB103


@offload(mode="thread")  # expect: ODB201
@router.post("/above")
async def above_with_mode():
    wrapped.connection().close()  # expect: ODB102 ODB103


@offload  # expect: ODB201
class Service:
    async def run(self):
        wrapped.connection().close()  # expect: ODB102 ODB103


@offload  # expect: ODB201
def get_db():
    yield wrapped.connection()


@app.get("/right")
@offload
async def right():
    wrapped.connection().close()


@router.get("/right")
@offload_db.offload(lane="reports", timeout=5)
async def right_with_settings():
    wrapped.connection().close()


class Views:
    @router.get("/method")
    @offload
    async def method(self):
        wrapped.connection().close()


@offload
def whole():
    wrapped.connection().close()


@app.get("/whole")
async def awaits_whole():
    await whole()
