from fastapi import FastAPI, Request
from contextlib import asynccontextmanager
from app.routers import users
from app.core.db import db
@asynccontextmanager
async def lifespan(app):
    db.fetch_one("SELECT 1")  # expect: ODB104
    yield
app = FastAPI(lifespan=lifespan)
app.include_router(users.router, prefix="/api/v1")
@app.middleware("http")
async def mw(request: Request, call_next):
    db.fetch_one("SELECT 1")  # expect: ODB104
    return await call_next(request)
@app.exception_handler(ValueError)
async def eh(request, exc):
    db.fetch_one("INSERT INTO log VALUES (1)")  # expect: ODB104
