"""Synchronous SQLAlchemy, and its asyncio extension, which is none."""
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, declarative_base, scoped_session, sessionmaker

app = FastAPI()
engine = create_engine("mysql+pymysql://db/fleet")
SessionLocal = sessionmaker(bind=engine)
Scoped = scoped_session(SessionLocal)
Base = declarative_base()
Base.query = Scoped.query_property()
async_engine = create_async_engine("mysql+aiomysql://db/fleet")
AsyncSessions = async_sessionmaker(async_engine)


class Truck(Base):
    __tablename__ = "trucks"


def get_db():
    db = SessionLocal()
    try:
        yield db
    finally:
        db.close()


async def get_async_db():
    async with AsyncSessions() as session:
        yield session


Db = Annotated[Session, Depends(get_db)]


@app.get("/engine")
async def use_engine():
    with engine.connect() as conn:  # expect: ODB105
        conn.execute(text("SELECT 1")).fetchall()  # expect: ODB105
    with engine.begin() as conn:  # expect: ODB105
        conn.execute(text("DELETE FROM log"))  # expect: ODB105
    raw = engine.raw_connection()  # expect: ODB105 ODB303
    raw.cursor()  # expect: ODB105
    Base.metadata.create_all(bind=engine)  # expect: ODB105


@app.get("/session")
async def use_session(db: Session = Depends(get_db)):
    trucks = db.query(Truck).filter(Truck.id == 1).all()  # expect: ODB105
    for truck in db.query(Truck):  # expect: ODB105
        print(truck)
    db.add(Truck())
    db.commit()  # expect: ODB105
    db.refresh(trucks[0])  # expect: ODB105
    return db.execute(select(Truck)).scalars().all()  # expect: ODB105


@app.get("/annotated")
async def use_annotated(db: Db, other: Annotated[Session, Depends(get_db)]):
    db.get(Truck, 1)  # expect: ODB105
    other.rollback()  # expect: ODB105


@app.get("/own")
async def own_session():
    with SessionLocal() as session, SessionLocal.begin() as second:  # expect: ODB105
        session.scalar(select(Truck))  # expect: ODB105
        second.scalars(select(Truck))  # expect: ODB105
    with Session(engine) as session:
        session.execute(text("SELECT 1"))  # expect: ODB105
    Scoped.query(Truck).first()  # expect: ODB105
    Scoped().query(Truck).count()  # expect: ODB105
    Scoped.remove()  # expect: ODB105
    return Truck.query.filter_by(id=1).first()  # expect: ODB105


@app.get("/builds")
async def only_builds(db: Db):
    query = db.query(Truck).filter(Truck.id == 1)
    return str(query), sa.select(Truck).where(Truck.id == 1)


@app.get("/async")
async def asynchronous(db: AsyncSession = Depends(get_async_db)):
    await db.execute(select(Truck))
    await db.commit()
    async with AsyncSessions() as session:
        result = await session.execute(select(Truck))
        result.scalars().all()
    async with async_engine.begin() as conn:
        await conn.execute(text("SELECT 1"))
        await conn.run_sync(Base.metadata.create_all)


@app.get("/def")
def plain(db: Session = Depends(get_db)):
    return db.query(Truck).all()
