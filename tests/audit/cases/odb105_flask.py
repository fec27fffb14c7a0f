"""SQLAlchemy as extensions hand it out, and session makers that are told to be asynchronous."""
from fastapi_sqlalchemy import db as fastapi_db
from flask_sqlalchemy import SQLAlchemy
from quart import Quart
from sqlalchemy import *
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import *

app = Quart(__name__)
db = SQLAlchemy(app)
engine = create_engine("mysql+pymysql://db/fleet")
Sessions = sessionmaker(bind=engine)
AsyncSessions = sessionmaker(create_async_engine("mysql+aiomysql://db/fleet"), class_=AsyncSession)


class Truck(db.Model):
    id = db.Column(db.Integer, primary_key=True)


@app.get("/extension")
async def extension():
    db.session.add(Truck())
    db.session.commit()  # expect: ODB105
    fastapi_db.session.query(Truck).all()  # expect: ODB105
    return Truck.query.filter_by(id=1).first_or_404()  # expect: ODB105


@app.get("/star")
async def star():
    with Sessions() as session:
        session.execute(text("SELECT 1"))  # expect: ODB105


@app.get("/asynchronous")
async def asynchronous():
    session = AsyncSessions()
    result = await session.execute(select(Truck))
    found = result.scalars().all()
    session.expire_all()
    return found


@app.get("/either")
async def either(session: Session | AsyncSession):
    if isinstance(session, AsyncSession):
        return (await session.execute(select(Truck))).scalars().all()
    return session.execute(select(Truck)).all()  # expect: ODB105
