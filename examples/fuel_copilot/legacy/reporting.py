"""Reports that read through SQLAlchemy: newer code of the backend, with an engine of its own."""

from datetime import datetime
from typing import Optional

from fastapi import APIRouter, HTTPException, Query
from sqlalchemy import URL, Float, String, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

import database_mysql

router = APIRouter(prefix="/v2/reports", tags=["reports"])

engine = create_engine(
    URL.create(
        "mysql+pymysql",
        username=database_mysql.MYSQL_CONFIG["user"],
        password=database_mysql.MYSQL_CONFIG["password"],
        host=database_mysql.MYSQL_CONFIG["host"],
        port=database_mysql.MYSQL_CONFIG["port"],
        database=database_mysql.MYSQL_CONFIG["database"],
    ),
    pool_recycle=3600,
)

SessionLocal = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Refuel(Base):
    __tablename__ = "refuel_events"

    id: Mapped[int] = mapped_column(primary_key=True)
    truck_id: Mapped[str] = mapped_column(String(20))
    timestamp_utc: Mapped[datetime]
    gallons_added: Mapped[float] = mapped_column(Float)
    location: Mapped[Optional[str]] = mapped_column(String(80))


@router.get("/refuels")
async def get_refuel_report(limit: int = Query(10, ge=1, le=200)):
    """The trucks that took the most fuel."""
    gallons = func.sum(Refuel.gallons_added)
    query = select(Refuel.truck_id, gallons).group_by(Refuel.truck_id)
    with SessionLocal() as session:
        rows = session.execute(query.order_by(gallons.desc(), Refuel.truck_id).limit(limit)).all()
    return [{"truck_id": truck_id, "gallons": round(gallons, 1)} for truck_id, gallons in rows]


@router.get("/truck/{truck_id}/refuels")
async def get_truck_refuels_report(truck_id: str):
    with engine.connect() as connection:
        if not connection.scalar(text("SELECT COUNT(*) FROM trucks WHERE truck_id = :id"), {"id": truck_id}):
            raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    with SessionLocal() as session:
        refuels = session.scalars(select(Refuel).filter_by(truck_id=truck_id).order_by(Refuel.id))
        return [{"at": refuel.timestamp_utc, "gallons": refuel.gallons_added} for refuel in refuels]
