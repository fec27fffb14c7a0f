"""Owns the example's data: creates the schema and fills it, the same for the same seed.

It does not know the backend that reads it. What the tables held before is lost.
"""

from __future__ import annotations

import argparse
import getpass
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import pymysql

__all__ = ["DEFAULT_SEED", "LAST_INGEST", "GenerateError", "fill", "truck_names"]

DEFAULT_SEED = 20251226
LAST_INGEST = datetime(2025, 12, 26, 18, 0, tzinfo=timezone.utc).replace(tzinfo=None)  # DATETIME columns are naive UTC
DAYS = 7
STEP = timedelta(minutes=5)
MILES_PER_HOUR = 38.4  # over a truck's life, idling included
FIRST_TRUCK = 1
TRUCKS = 1000
TRUCKS_WITH_METRICS = 20
# As long a statement as every server accepts by default, and few enough rows that the progress bar moves.
ROWS_PER_INSERT = 1000

MODELS = (
    ("Freightliner", "Cascadia", 240.0, 7.1),
    ("Kenworth", "T680", 250.0, 6.8),
    ("Peterbilt", "579", 240.0, 6.7),
    ("Volvo", "VNL 760", 260.0, 7.4),
    ("International", "LT625", 230.0, 6.5),
)
TERMINALS = ("Laredo", "Dallas", "Atlanta", "Joliet", "Fontana", "Harrisburg")
SHOPS = ("Terminal shop", "Dealer", "Roadside")
COMPONENTS = {
    "engine_oil": 500,
    "fuel_filter": 750,
    "air_filter": 1000,
    "def_pump": 2500,
    "turbocharger": 6000,
    "cooling_system": 3000,
    "brakes": 2000,
    "battery": 4000,
}
CODES = (
    ("SPN 100 FMI 1", "CRITICAL", "Lubrication", "Engine oil pressure far too low"),
    ("SPN 110 FMI 0", "CRITICAL", "Cooling", "Coolant temperature far too high"),
    ("SPN 94 FMI 3", "WARNING", "Fuel", "Fuel delivery pressure sensor voltage high"),
    ("SPN 102 FMI 4", "WARNING", "Air intake", "Boost pressure sensor voltage low"),
    ("SPN 1761 FMI 17", "WARNING", "Aftertreatment", "Diesel exhaust fluid level low"),
    ("SPN 3251 FMI 2", "WARNING", "Aftertreatment", "Particulate filter pressure erratic"),
    ("SPN 168 FMI 18", "INFO", "Electrical", "Battery voltage moderately low"),
    ("SPN 84 FMI 9", "INFO", "Drivetrain", "Wheel speed update rate abnormal"),
)

Row = tuple[Any, ...]


class GenerateError(RuntimeError):
    """Raised when the database cannot be reached or filled; says what to check."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """How much to generate: each table's rows depend on the seed and on nothing that another table drew."""

    seed: int
    trucks: int
    scale: float

    def dice(self, table: str) -> random.Random:
        return random.Random(f"{self.seed}:{table}")

    @property
    def names(self) -> list[str]:
        return truck_names(self.trucks)

    @property
    def tracked(self) -> list[str]:
        """The trucks with a week of metrics, spread over the fleet and always with FL-0208 if it exists."""
        count = min(self.trucks, max(1, round(TRUCKS_WITH_METRICS * self.scale)))
        first = 207 % max(1, self.trucks // count)
        return self.names[first :: max(1, self.trucks // count)][:count]

    def engine_hours(self, name: str) -> float:
        """Return a truck's engine hours at the last ingest, about which all tables agree."""
        return _number(self.dice(f"engine hours of {name}"), 1_500, 18_000)

    def per_truck(self, draw: random.Random, most: int) -> int:
        """Draw how many rows of a kind a truck has: up to *most* at scale 1."""
        return draw.randint(0, max(1, round(most * self.scale)))


def truck_names(count: int = TRUCKS) -> list[str]:
    """Return the names of the first *count* trucks."""
    return [f"FL-{number:04d}" for number in range(FIRST_TRUCK, FIRST_TRUCK + count)]


def fill(
    connection_settings: Mapping[str, Any],
    *,
    seed: int = DEFAULT_SEED,
    trucks: int = TRUCKS,
    scale: float = 1.0,
    progress: bool = True,
) -> dict[str, int]:
    """Create the database if it is missing, replace the example's tables and fill them.

    :param connection_settings: keyword arguments of `pymysql.connect`, with ``database``
    :param seed: the same seed, ``trucks`` and ``scale`` give the same rows, byte for byte
    :param trucks: how many trucks the fleet has
    :param scale: factor on the rows per truck and on how many trucks have a week of metrics
    :param progress: show a bar on standard error; needs the extra ``examples``
    :returns: the number of rows in each table
    :raises GenerateError: if the server cannot be reached or refuses
    """
    if trucks < 1 or scale <= 0:
        raise GenerateError(f"trucks={trucks}, scale={scale}: accepted are at least 1 truck and a scale above 0")
    plan = _Plan(seed, trucks, scale)
    try:
        with _connect(connection_settings) as connection, _progress_bar(plan, progress) as bar:
            with connection.cursor() as cursor:
                for statement in _schema():
                    cursor.execute(statement)
                counts = {}
                for table, rows in TABLES.items():
                    bar.set_description(f"{table:20}")
                    counts[table] = _insert(cursor, table, rows(plan), bar)
                    connection.commit()
            return counts
    except pymysql.MySQLError as error:
        raise GenerateError(f"the server refused: {error}") from error


class _Bar(Protocol):
    """The little of `tqdm` that is used."""

    def set_description(self, desc: str) -> object: ...
    def update(self, n: int) -> object: ...


class _Silence:
    def set_description(self, desc: str) -> None:
        pass

    def update(self, n: int) -> None:
        pass


def _progress_bar(plan: _Plan, wanted: bool) -> AbstractContextManager[_Bar]:
    if not wanted:
        return nullcontext(_Silence())
    try:
        from tqdm import tqdm  # noqa: PLC0415 - only the bar needs it
    except ImportError as error:
        raise GenerateError(
            "the progress bar needs tqdm: pip install 'offload-db[examples]', or pass progress=False (--quiet)"
        ) from error
    return tqdm(total=sum(1 for rows in TABLES.values() for _ in rows(plan)), unit=" rows", unit_scale=True)


def _connect(settings: Mapping[str, Any]) -> pymysql.connections.Connection[Any]:
    """Connect to the server and select the database, which is created first if it is missing."""
    server = {"connect_timeout": 10, **settings}
    database = server.pop("database", None) or server.pop("db", None)
    if not database:
        raise GenerateError("connection_settings name no database")
    try:
        connection = pymysql.connect(**{**server, "charset": "utf8mb4", "autocommit": False})
    except pymysql.OperationalError as error:
        raise GenerateError(
            f"no connection to {server.get('user') or 'the default user'}@{server.get('host') or 'localhost'}:"
            f"{server.get('port') or 3306}: {error.args[-1]}; check that the server runs and that --host, --port, "
            "--user and --password are right"
        ) from error
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{database.replace('`', '``')}` CHARACTER SET utf8mb4")
        connection.select_db(database)
    except BaseException:
        connection.close()
        raise
    return connection


def _schema() -> list[str]:
    text = (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [statement for part in "\n".join(lines).split(";") if (statement := part.strip())]


def _insert(cursor: pymysql.cursors.Cursor, table: str, rows: Iterator[Row], bar: _Bar) -> int:
    cursor.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s "
        "AND extra NOT LIKE '%%auto_increment%%' ORDER BY ordinal_position",
        (table,),
    )
    columns = [name for (name,) in cursor.fetchall()]
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})"
    count = 0
    while batch := list(islice(rows, ROWS_PER_INSERT)):
        cursor.executemany(statement, batch)
        count += len(batch)
        bar.update(len(batch))
    return count


def _moment(draw: random.Random, days: int = DAYS) -> datetime:
    """Draw a moment in the *days* before the last ingest, on a whole second."""
    return LAST_INGEST - timedelta(seconds=draw.randint(0, days * 86_400))


def _number(draw: random.Random, low: float, high: float, digits: int = 1) -> float:
    return round(low + (high - low) * draw.random(), digits)


def _ingest_status(plan: _Plan) -> Iterator[Row]:
    yield 1, LAST_INGEST, "telematics gateway"


def _trucks(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("trucks")
    for number, name in enumerate(plan.names):
        make, model, tank, mpg = draw.choice(MODELS)
        vin = "".join(draw.choice("ABCDEFGHJKLMNPRSTUVWXYZ0123456789") for _ in range(11)) + f"{number:06d}"
        status = "ACTIVE" if draw.random() < 0.86 else draw.choice(("MAINTENANCE", "PARKED"))
        year = draw.randint(2017, 2025)
        yield name, vin, make, model, year, tank, round(mpg + draw.random() - 0.5, 2), draw.choice(TERMINALS), status


def _sensors_cache(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("truck_sensors_cache")
    for name in plan.names:
        age = draw.randint(2, 900)
        moving = draw.random() < 0.6
        engine_hours = plan.engine_hours(name)
        yield (
            name,
            LAST_INGEST - timedelta(seconds=age),
            age,
            _number(draw, 18, 62),
            _number(draw, 170, 245),
            _number(draw, 55, 100),
            _number(draw, 165, 222),
            _number(draw, 60, 100),
            _number(draw, 4, 100),
            _number(draw, 20, 95),
            _number(draw, 6, 100),
            # Some trucks lack the sensor, so handlers meet NULL.
            _number(draw, 35, 110) if draw.random() < 0.9 else None,
            draw.randint(1050, 1750) if moving else draw.randint(0, 700),
            _number(draw, 5, 90) if moving else 0.0,
            _number(draw, 15, 95) if moving else _number(draw, 0, 12),
            _number(draw, 95, 250),
            _number(draw, 40, 140),
            _number(draw, 27.5, 30.6, 2),
            _number(draw, -5, 102),
            _number(draw, 11.8, 14.6, 2),
            _number(draw, 30, 72) if moving else 0.0,
            round(engine_hours * MILES_PER_HOUR, 1),
            engine_hours,
        )


def _fuel_metrics(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("fuel_metrics")
    unit = draw.random  # bound once: this loop makes most of the data
    steps = DAYS * 24 * 12
    for name in plan.tracked:
        tank, gallons = 240.0, 120.0 + 100 * unit()
        latitude, longitude = 29.0 + 10 * unit(), -100.0 + 15 * unit()
        # The engine runs about three quarters of the week.
        hours = plan.engine_hours(name) - 0.75 * DAYS * 24
        odometer = hours * MILES_PER_HOUR
        def_level, status, left = 30 + 70 * unit(), "STOPPED", 0
        for number in range(steps):
            if left <= 0:
                status = ("MOVING", "MOVING", "IDLE", "STOPPED")[int(unit() * 4)]
                left = 6 + int(unit() * 40)
            left -= 1
            speed, rpm, burn = 0.0, 0, 0.0
            if status == "MOVING":
                speed = round(48 + 24 * unit(), 1)
                rpm, burn = 1100 + int(500 * unit()), round(6.5 + 3.5 * unit(), 2)
            elif status == "IDLE":
                rpm, burn = 600 + int(80 * unit()), round(0.6 + 0.5 * unit(), 2)
            gallons -= burn / 12
            if gallons < 30:
                gallons = 0.95 * tank
            odometer += speed / 12
            hours += 1 / 12 if rpm else 0
            def_level = def_level - burn / 120 if def_level > 8 else 98.0
            latitude += speed * 0.00004 * (unit() - 0.5)
            longitude += speed * 0.00004 * (unit() - 0.5)
            estimated = round(100 * gallons / tank, 2)
            sensor = round(estimated + 5 * (unit() - 0.5), 2) if unit() < 0.97 else None
            yield (
                LAST_INGEST - STEP * (steps - 1 - number),
                name,
                status,
                round(latitude, 5),
                round(longitude, 5),
                speed,
                rpm,
                round(gallons, 2),
                estimated,
                sensor,
                None if sensor is None else round(sensor - estimated, 2),
                burn,
                round(speed / burn, 2) if speed else None,
                round(odometer, 1),
                round(hours, 2),
                round(30 + 60 * unit(), 1) if speed else 8.0,
                round(178 + 26 * unit(), 1) if rpm else round(60 + 60 * unit(), 1),
                round(25 + 35 * unit(), 1) if rpm else 0.0,
                round(190 + 40 * unit(), 1) if rpm else round(60 + 60 * unit(), 1),
                round(def_level, 1),
                round(13.4 + unit(), 2) if rpm else round(12 + unit(), 2),
                round(20 + 60 * unit(), 1),
            )


def _trips(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("truck_trips")
    for name in plan.names:
        for _ in range(plan.per_truck(draw, 12)):
            start = _moment(draw)
            hours = _number(draw, 0.5, 10, 2)
            speed = _number(draw, 38, 66)
            miles = round(hours * speed, 1)
            yield (
                name,
                f"D-{draw.randint(1, 250):03d}",
                start,
                start + timedelta(minutes=round(hours * 60)),
                miles,
                speed,
                round(miles / _number(draw, 5.2, 8.4, 2), 2),
                draw.randint(0, 90),
                draw.randint(0, 6),
                draw.randint(0, 6),
            )


def _speeding(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("speeding_events")
    for name in plan.names:
        for _ in range(plan.per_truck(draw, 8)):
            over = _number(draw, 4, 24)
            severity = "SEVERE" if over > 18 else "MODERATE" if over > 10 else "MINOR"
            yield name, f"D-{draw.randint(1, 250):03d}", _moment(draw), draw.randint(8, 600), over, severity


def _dtc_events(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("dtc_events")
    tracked = set(plan.tracked)
    for name in plan.names:
        # The trucks that dashboards look at always have something open to show.
        always_open = 2 if name in tracked else 0
        for number in range(plan.per_truck(draw, 8) + always_open):
            at = _moment(draw, 30)
            code, severity, system, description = draw.choice(CODES)
            resolved = at + timedelta(hours=draw.randint(1, 72)) if draw.random() < 0.55 else None
            if number < always_open:
                resolved = None
            yield at, name, code, severity, system, description, resolved


def _refuels(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("refuel_events")
    for name in plan.names:
        for _ in range(plan.per_truck(draw, 8)):
            before = _number(draw, 8, 45)
            after = _number(draw, 60, 99)
            gallons = round(2.4 * (after - before), 1)
            price = _number(draw, 3.19, 4.59, 3)
            yield name, _moment(draw), gallons, before, after, price, f"{draw.choice(TERMINALS)} fuel island"


def _components(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("truck_components")
    for name in plan.names:
        for component, interval in COMPONENTS.items():
            last = round(max(0.0, plan.engine_hours(name) - interval * _number(draw, 0, 1.1, 3)), 1)
            yield name, component, interval, last, _moment(draw, 300), _number(draw, 35, 100)


def _services(plan: _Plan) -> Iterator[Row]:
    draw = plan.dice("service_history")
    for name in plan.names:
        for _ in range(plan.per_truck(draw, 10)):
            component = draw.choice(tuple(COMPONENTS))
            kind = draw.choice(("INSPECTION", "REPAIR", "REPLACEMENT"))
            hours = round(plan.engine_hours(name) * _number(draw, 0.3, 1, 3), 1)
            cost = _number(draw, 60, 4_200, 2)
            yield (
                name,
                component,
                kind,
                hours,
                cost,
                draw.choice(SHOPS),
                f"{kind.lower()}: {component}",
                _moment(draw, 300),
            )


TABLES: dict[str, Callable[[_Plan], Iterator[Row]]] = {
    "ingest_status": _ingest_status,
    "trucks": _trucks,
    "truck_sensors_cache": _sensors_cache,
    "fuel_metrics": _fuel_metrics,
    "truck_trips": _trips,
    "speeding_events": _speeding,
    "dtc_events": _dtc_events,
    "refuel_events": _refuels,
    "truck_components": _components,
    "service_history": _services,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fill a database from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.fuel_copilot.generate",
        description="Create and fill the example's database; its tables are replaced. Defaults come from MYSQL_*.",
    )
    parser.add_argument("--host", default=os.environ.get("MYSQL_HOST", "localhost"))
    parser.add_argument("--port", type=int, default=int(os.environ.get("MYSQL_PORT", "3306")))
    parser.add_argument("--user", default=os.environ.get("MYSQL_USER", "fuel_user"))
    parser.add_argument("--password", help="default: MYSQL_PASSWORD; '-' asks for it")
    parser.add_argument("--database", default=os.environ.get("MYSQL_DATABASE", "fuel_monitoring"))
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED)
    parser.add_argument("--trucks", type=int, default=TRUCKS)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the rows per truck (default: 1.0)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args(argv)
    password = arguments.password
    if password is None:
        password = os.environ.get("MYSQL_PASSWORD", "")
    elif password == "-":
        password = getpass.getpass()
    try:
        counts = fill(
            {
                "host": arguments.host,
                "port": arguments.port,
                "user": arguments.user,
                "password": password,
                "database": arguments.database,
            },
            seed=arguments.seed,
            trucks=arguments.trucks,
            scale=arguments.scale,
            progress=not arguments.quiet,
        )
    except GenerateError as error:
        print(f"error: {error}")
        return 1
    for table, count in counts.items():
        print(f"{table:20} {count:>7,} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
