"""Owns the tables that the tests of SQLAlchemy use, and the engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor

from offload_db import OffloadPool
from tests.support import (
    QUICK,
    pool_of,
    value,
)

sqlalchemy = pytest.importorskip("sqlalchemy")

import sqlalchemy as sa  # noqa: E402  # where it is installed
from sqlalchemy import Engine, orm  # noqa: E402

from offload_db.contrib.sqlalchemy import create_engine  # noqa: E402


class Base(orm.DeclarativeBase):
    pass


class Truck(Base):
    __tablename__ = "trucks"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(40))
    version: orm.Mapped[int] = orm.mapped_column(default=1)
    trips: orm.Mapped[list[Hop]] = orm.relationship(back_populates="truck")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # SQLAlchemy's own way


class Hop(Base):
    __tablename__ = "trips"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    truck_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("trucks.id"))
    truck: orm.Mapped[Truck] = orm.relationship(back_populates="trips")


@pytest.fixture
def pool(database: dict[str, Any]) -> Iterator[OffloadPool]:
    """Give a pool as legacy code has it: in autocommit mode, with rows as dictionaries, and two tables."""
    with pymysql.connect(**{**QUICK, **database}) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE trucks (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(40), version INT)")
        cursor.execute(
            "CREATE TABLE trips (id INT PRIMARY KEY AUTO_INCREMENT, truck_id INT, FOREIGN KEY (truck_id)"
            " REFERENCES trucks (id))"
        )
        cursor.execute("INSERT INTO trucks VALUES (1, 'FL-1', 1), (2, 'FL-2', 1)")
        cursor.execute("INSERT INTO trips VALUES (1, 1), (2, 1), (3, 2)")
    with pool_of(4, database, cursorclass=DictCursor) as pool:
        yield pool


@pytest.fixture
def engine(pool: OffloadPool) -> Engine:
    return create_engine(pool)


def number_of_trucks(pool: OffloadPool) -> int:
    with pool.connection() as connection:
        return int(value(connection, "SELECT COUNT(*) FROM trucks"))
