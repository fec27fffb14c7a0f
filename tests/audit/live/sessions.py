"""Sessions for each request, by a dependency; one that is kept; an engine."""
import os

from fastapi import Depends, FastAPI
from sqlalchemy import URL, create_engine, text
from sqlalchemy.orm import Session, sessionmaker

app = FastAPI()
engine = create_engine(
    URL.create(
        "mysql+pymysql", os.environ["MYSQL_USER"], os.environ["MYSQL_PASSWORD"], os.environ["MYSQL_HOST"],
        int(os.environ["MYSQL_PORT"]),
    ),
    connect_args={"ssl_disabled": True},
)
SessionLocal = sessionmaker(bind=engine)
kept_session = SessionLocal()
SLOW = text("SELECT :number + SLEEP(0.002)")


def get_session():
    session = SessionLocal()
    try:
        yield session
    finally:
        session.close()


@app.get("/session/{number}")
async def of_session(number: int, session: Session = Depends(get_session)):
    return int(session.execute(SLOW, {"number": number}).scalar())


@app.get("/kept/{number}")
async def of_kept_session(number: int):
    return int(kept_session.execute(SLOW, {"number": number}).scalar())


@app.get("/engine/{number}")
async def of_engine(number: int):
    with engine.connect() as connection:
        return int(connection.execute(SLOW, {"number": number}).scalar())
