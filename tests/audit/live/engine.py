"""An engine, a session for each request, and pandas on the engine."""
import os

from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

app = FastAPI()
URL = (
    f"mysql+pymysql://{os.environ['MYSQL_USER']}:{os.environ['MYSQL_PASSWORD']}"
    f"@{os.environ['MYSQL_HOST']}:{os.environ['MYSQL_PORT']}"
)
engine = create_engine(
    URL, pool_size=4, max_overflow=2, pool_recycle=3600, pool_pre_ping=True, connect_args={"ssl_disabled": True}
)
SessionLocal = sessionmaker(bind=engine)
SLOW = text("SELECT :number + SLEEP(0.002)")
_lazy = None


def get_engine():
    global _lazy
    if _lazy is None:
        _lazy = create_engine(URL, connect_args={"ssl_disabled": True})
    return _lazy


def get_session():
    session = SessionLocal()
    try:
        yield session
    finally:
        session.close()


@app.get("/session/{number}")
async def of_session(number: int, session: Session = Depends(get_session)):
    return int(session.execute(SLOW, {"number": number}).scalar())


@app.get("/engine/{number}")
async def of_engine(number: int):
    with engine.connect() as connection:
        return int(connection.execute(SLOW, {"number": number}).scalar())


@app.get("/lazy/{number}")
async def of_lazy_engine(number: int):
    with get_engine().connect() as connection:
        return int(connection.execute(SLOW, {"number": number}).scalar())
