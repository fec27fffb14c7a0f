"""Fuel Copilot API: fuel, sensors and maintenance of a truck fleet."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Dict, List, Literal, Optional

import pymysql
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Path, Query
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from api_v2 import get_sensors_cache, router as v2_router
from database_mysql import get_db, get_db_connection
from fleet_service import build_fleet_summary, last_refuel, robust_slope
from reporting import router as reporting_router
from repository import truck_repository

logger = logging.getLogger("fuel_copilot")

app = FastAPI(title="Fuel Copilot", version="3.12.0")
app.include_router(v2_router)
app.include_router(reporting_router)

SERVICE_WARNING_HOURS = 100


class ServiceRecord(BaseModel):
    component: str = Field(..., min_length=1, max_length=60)
    service_type: Literal["INSPECTION", "REPAIR", "REPLACEMENT"]
    engine_hours: float = Field(..., ge=0)
    cost_usd: float = Field(0, ge=0)
    notes: str = Field("", max_length=200)


class ServiceRecorded(BaseModel):
    service_id: int
    truck_id: str
    component: str
    next_service_hours: float


class Inspection(BaseModel):
    inspector_code: str = Field(..., max_length=12)
    passed: bool


class ComponentHealth(BaseModel):
    component: str
    health_score: float
    last_service_hours: float
    service_interval_hours: int


class IntervalChange(BaseModel):
    service_interval_hours: int = Field(..., gt=0)


@app.get("/health")
async def health():
    return {"status": "ok", "version": app.version}


# --- trucks ----------------------------------------------------------------------------------------------------------


@app.get("/api/trucks")
def list_trucks(terminal: Optional[str] = None, limit: int = Query(50, ge=1, le=1000)):
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    if terminal:
        cursor.execute(
            "SELECT truck_id, make, model, status FROM trucks WHERE terminal = %s ORDER BY truck_id LIMIT %s",
            (terminal, limit),
        )
    else:
        cursor.execute("SELECT truck_id, make, model, status FROM trucks ORDER BY truck_id LIMIT %s", limit)
    rows = cursor.fetchall()
    cursor.close()
    conn.close()
    return {"trucks": rows, "count": len(rows)}


@app.get("/api/terminals")
async def list_terminals():
    return truck_repository.terminals()


@app.get("/api/truck/{truck_id}/sensors")
async def get_truck_sensors(truck_id: str) -> Dict[str, Any]:
    """Live sensor values, each with the time it was read."""
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(
        """
        SELECT timestamp_utc, speed_mph, rpm, estimated_gallons, estimated_pct, sensor_pct, drift_pct,
               consumption_gph, mpg_current, odometer_mi, engine_hours, engine_load_pct, coolant_temp_f,
               oil_pressure_psi, oil_temp_f, def_level_pct, battery_voltage, ambient_temp_f, truck_status
        FROM fuel_metrics
        WHERE truck_id = %s
        ORDER BY timestamp_utc DESC
        LIMIT 1
        """,
        (truck_id,),
    )
    row = cursor.fetchone()
    cursor.close()
    conn.close()
    if not row:
        raise HTTPException(status_code=404, detail=f"No sensor data for truck {truck_id}")
    timestamp = row.pop("timestamp_utc")
    return {"truck_id": truck_id, "timestamp": timestamp, "sensors": row}


@app.get("/api/truck/{truck_id}/odometer")
async def get_truck_odometer(truck_id: str):
    conn = get_db_connection()
    cursor = conn.cursor()
    cursor.execute("SELECT odometer_mi, engine_hours FROM truck_sensors_cache WHERE truck_id = %s", (truck_id,))
    cursor.close()
    conn.close()
    if cursor.rowcount == 0:
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    odometer, hours = cursor.fetchone()
    return {"truck_id": truck_id, "odometer_mi": odometer, "engine_hours": hours}


@app.get("/api/truck/{truck_id}/refuels")
async def get_truck_refuels(truck_id: str):
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(
        "SELECT timestamp_utc, gallons_added, before_pct, after_pct, location FROM refuel_events "
        "WHERE truck_id = %s ORDER BY timestamp_utc, id",
        truck_id,
    )
    refuels = list(cursor)
    cursor.close()
    conn.close()
    return {"truck_id": truck_id, "refuels": refuels, "gallons": round(sum(r["gallons_added"] for r in refuels), 1)}


@app.get("/api/truck/{truck_id}/dtc-summary")
async def get_dtc_summary(truck_id: str):
    if not truck_repository.exists(truck_id):
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    counts = truck_repository.open_dtc_counts(truck_id)
    return {"truck_id": truck_id, "open": counts, "total": sum(counts.values())}


async def fetch_weather(latitude: float, longitude: float) -> str:
    """Stands for the call to the weather service."""
    await asyncio.sleep(0.01)
    return "winter storm watch" if latitude > 34 else "clear"


@app.get("/api/truck/{truck_id}/location")
async def get_truck_location(truck_id: str):
    truck = truck_repository.get(truck_id)
    if truck is None:
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    with get_db_connection() as conn:
        with conn.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(
                """
                SELECT m.latitude, m.longitude, m.speed_mph, m.timestamp_utc
                FROM fuel_metrics m
                WHERE m.truck_id = %s
                ORDER BY m.timestamp_utc DESC
                LIMIT 1
                """,
                (truck_id,),
            )
            position = cursor.fetchone()
            if position is None:
                raise HTTPException(status_code=404, detail=f"No position for truck {truck_id}")
            weather = await fetch_weather(position["latitude"], position["longitude"])
            cursor.execute(
                "SELECT COUNT(*) AS nearby FROM fuel_metrics "
                "WHERE timestamp_utc = %s AND ABS(latitude - %s) < 1 AND ABS(longitude - %s) < 1 AND truck_id <> %s",
                (position["timestamp_utc"], position["latitude"], position["longitude"], truck_id),
            )
            nearby = cursor.fetchone()["nearby"]
    return {"truck_id": truck_id, "terminal": truck["terminal"], **position, "weather": weather, "nearby": nearby}


@app.get("/api/truck/{truck_id}/dashboard")
async def get_truck_dashboard(truck_id: str):
    sensors = await get_truck_sensors(truck_id)
    cache = await get_sensors_cache(truck_id)
    return {"truck": truck_repository.get(truck_id), "sensors": sensors, "cache": cache}


@app.get("/api/truck/{truck_id}/metric/{name}")
async def get_truck_metric(
    truck_id: str, name: str = Path(..., pattern="^[a-z_]+$"), points: int = Query(100, ge=1, le=5000)
):
    conn = get_db_connection()
    try:
        with conn.cursor() as cursor:
            cursor.execute(
                f"SELECT timestamp_utc, {name} FROM fuel_metrics WHERE truck_id = %s ORDER BY timestamp_utc DESC LIMIT %s",
                (truck_id, points),
            )
            return {"metric": name, "points": [[at.isoformat(), value] for at, value in cursor.fetchall()]}
    except pymysql.MySQLError as e:
        logger.warning("metric %s failed: %s", name, e)
        raise HTTPException(status_code=500, detail=f"Database error {e.args[0]}")
    finally:
        conn.close()


@app.get("/api/truck/{truck_id}/cost-per-mile")
async def get_cost_per_mile(truck_id: str):
    conn = get_db_connection()
    cursor = conn.cursor()
    cursor.execute(
        "SELECT COALESCE(SUM(gallons_added * price_per_gallon), 0) FROM refuel_events WHERE truck_id = %s", (truck_id,)
    )
    fuel_usd = cursor.fetchone()[0]
    cursor.execute("SELECT COALESCE(SUM(distance_miles), 0) FROM truck_trips WHERE truck_id = %s", (truck_id,))
    miles = cursor.fetchone()[0]
    cost = round(fuel_usd / miles, 3)
    cursor.close()
    conn.close()
    return {"truck_id": truck_id, "fuel_usd": round(fuel_usd, 2), "miles": round(miles, 1), "usd_per_mile": cost}


@app.get("/api/truck/{truck_id}/fuel-trend")
async def get_fuel_trend(truck_id: str, points: int = Query(400, ge=2, le=1000)):
    """Is the burn rate creeping up? A slope that a few odd readings do not move."""
    conn = get_db_connection()
    cursor = conn.cursor()
    cursor.execute(
        """
        SELECT engine_hours, consumption_gph
        FROM fuel_metrics
        WHERE truck_id = %s AND truck_status = 'MOVING'
        ORDER BY timestamp_utc DESC
        LIMIT %s
        """,
        (truck_id, points),
    )
    rows = cursor.fetchall()
    cursor.close()
    conn.close()
    if len(rows) < 2:
        raise HTTPException(status_code=404, detail=f"Not enough data for truck {truck_id}")
    slope = robust_slope(rows)
    return {"truck_id": truck_id, "points": len(rows), "gph_per_hour": None if slope is None else round(slope, 6)}


# --- maintenance -----------------------------------------------------------------------------------------------------


@app.get("/api/truck/{truck_id}/maintenance/predictive")
async def get_predictive_maintenance(truck_id: str, days: int = Query(30, ge=1, le=365)):
    """Which components need attention soon, from trouble codes, sensor trends and service intervals."""
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(
        """
        SELECT timestamp_utc, dtc_code, severity, system_name, description
        FROM dtc_events
        WHERE truck_id = %s
          AND resolved_at IS NULL
          AND timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        ORDER BY timestamp_utc DESC, id DESC
        """,
        (truck_id, days),
    )
    codes = cursor.fetchall()

    cursor.execute(
        """SELECT timestamp_utc, rpm, coolant_temp_f, oil_pressure_psi, oil_temp_f, battery_voltage, engine_hours
        FROM fuel_metrics
        WHERE truck_id = %s AND rpm > 0
        ORDER BY timestamp_utc DESC
        LIMIT 288""",
        (truck_id,),
    )
    readings = cursor.fetchall()

    cursor.execute(
        """SELECT component, last_service_hours, service_interval_hours, health_score
        FROM truck_components
        WHERE truck_id = %s
        ORDER BY component""",
        (truck_id,),
    )
    components = cursor.fetchall()
    cursor.close()
    conn.close()

    if not components:
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")

    predictions = []
    engine_hours = max((r["engine_hours"] for r in readings), default=None)
    for component in components:
        due_in = None
        if engine_hours is not None:
            due_in = round(component["last_service_hours"] + component["service_interval_hours"] - engine_hours, 1)
        if component["health_score"] < 50 or (due_in is not None and due_in < SERVICE_WARNING_HOURS):
            predictions.append({**component, "due_in_hours": due_in})
    hot = sum(1 for r in readings if r["coolant_temp_f"] > 200)
    return {
        "truck_id": truck_id,
        "engine_hours": engine_hours,
        "open_codes": codes,
        "critical_codes": sum(1 for c in codes if c["severity"] == "CRITICAL"),
        "coolant_hot_pct": round(100 * hot / len(readings), 1) if readings else None,
        "lowest_oil_pressure_psi": min((r["oil_pressure_psi"] for r in readings), default=None),
        "predictions": predictions,
    }


@app.get("/api/truck/{truck_id}/components", response_model=List[ComponentHealth])
async def get_components(truck_id: str, conn=Depends(get_db)):
    with conn.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(
            "SELECT component, health_score, last_service_hours, service_interval_hours, last_service_at "
            "FROM truck_components WHERE truck_id = %s ORDER BY health_score, component",
            (truck_id,),
        )
        return cursor.fetchall()


@app.put("/api/truck/{truck_id}/component/{component}/interval")
async def set_service_interval(truck_id: str, component: str, change: IntervalChange, conn=Depends(get_db)):
    with conn.cursor() as cursor:
        changed = cursor.execute(
            "UPDATE truck_components SET service_interval_hours = %s WHERE truck_id = %s AND component = %s",
            (change.service_interval_hours, truck_id, component),
        )
    return {"changed": changed}


@app.post("/api/truck/{truck_id}/service", status_code=201, response_model=ServiceRecorded)
async def record_service(truck_id: str, record: ServiceRecord):
    """Add to the service history and reset the component's counter: both or neither."""
    conn = get_db_connection()
    try:
        conn.begin()
        cursor = conn.cursor()
        cursor.execute(
            """
            INSERT INTO service_history
                (truck_id, component, service_type, engine_hours, cost_usd, shop, notes, serviced_at)
            SELECT %s, %s, %s, %s, %s, 'Terminal shop', %s, last_ingest_utc
            FROM ingest_status
            """,
            (truck_id, record.component, record.service_type, record.engine_hours, record.cost_usd, record.notes),
        )
        service_id = cursor.lastrowid
        updated = cursor.execute(
            """
            UPDATE truck_components
            SET last_service_hours = %s, health_score = 100,
                last_service_at = (SELECT last_ingest_utc FROM ingest_status)
            WHERE truck_id = %s AND component = %s
            """,
            (record.engine_hours, truck_id, record.component),
        )
        if updated == 0:
            raise HTTPException(status_code=404, detail=f"Truck {truck_id} has no component {record.component}")
        cursor.execute(
            "SELECT last_service_hours + service_interval_hours FROM truck_components "
            "WHERE truck_id = %s AND component = %s",
            (truck_id, record.component),
        )
        next_service_hours = cursor.fetchone()[0]
        conn.commit()
    except Exception:
        conn.rollback()
        raise
    finally:
        conn.close()
    return ServiceRecorded(
        service_id=service_id, truck_id=truck_id, component=record.component, next_service_hours=next_service_hours
    )


@app.get("/api/truck/{truck_id}/service-history")
async def get_service_history(truck_id: str):
    from database_mysql import pool

    with pool.connection() as conn, conn.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute("SELECT * FROM service_history WHERE truck_id = %s ORDER BY id", (truck_id,))
        rows = cursor.fetchall()
    return {"truck_id": truck_id, "services": rows, "cost_usd": round(sum(r["cost_usd"] for r in rows), 2)}


async def write_audit_log(truck_id: str, action: str, detail: str) -> None:
    conn = get_db_connection()
    cursor = conn.cursor()
    cursor.execute(
        "INSERT INTO audit_log (truck_id, action, detail) VALUES (%s, %s, %s)",
        (truck_id, action, detail),
    )
    cursor.close()
    conn.close()


@app.post("/api/truck/{truck_id}/inspection", status_code=202)
async def report_inspection(truck_id: str, inspection: Inspection, background_tasks: BackgroundTasks):
    if not truck_repository.exists(truck_id):
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    result = "passed" if inspection.passed else "failed"
    background_tasks.add_task(write_audit_log, truck_id, "inspection", f"{result}, by {inspection.inspector_code}")
    return {"accepted": True}


@app.get("/api/audit-log")
async def get_audit_log(limit: int = Query(20, ge=1, le=500), conn=Depends(get_db)):
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute("SELECT id, truck_id, action, detail FROM audit_log ORDER BY id DESC LIMIT %s", (limit,))
    return cursor.fetchall()


# --- fleet -----------------------------------------------------------------------------------------------------------


@app.get("/api/fleet/summary")
async def get_fleet_summary(days: int = Query(7, ge=1, le=90)):
    return build_fleet_summary(days)


@app.get("/api/fleet/last-refuels")
async def get_last_refuels(limit: int = Query(10, ge=1, le=200)):
    conn = get_db_connection()
    with conn.cursor() as cursor:
        cursor.execute("SELECT truck_id FROM trucks WHERE status = 'ACTIVE' ORDER BY truck_id LIMIT %s", (limit,))
        truck_ids = [truck_id for (truck_id,) in cursor.fetchall()]
    conn.close()
    return [{"truck_id": truck_id, "refuel": last_refuel(truck_id)} for truck_id in truck_ids]


async def count_open_codes() -> int:
    conn = get_db_connection()
    with conn.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM dtc_events WHERE resolved_at IS NULL")
        (count,) = cursor.fetchone()
    conn.close()
    return count


async def count_moving() -> int:
    conn = get_db_connection()
    with conn.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM truck_sensors_cache WHERE speed_mph > 0")
        (count,) = cursor.fetchone()
    conn.close()
    return count


@app.get("/api/fleet/overview")
async def get_fleet_overview():
    open_codes, moving = await asyncio.gather(count_open_codes(), count_moving())
    return {"open_codes": open_codes, "moving": moving}


@app.get("/api/reports/metrics")
async def get_metrics_report(rows: int = Query(10_000, ge=1, le=50_000)):
    """The newest readings of all trucks as a compact table for the spreadsheet export."""
    conn = get_db_connection()
    cursor = conn.cursor()
    cursor.execute(
        """
        SELECT m.truck_id, t.terminal, DATE_FORMAT(m.timestamp_utc, '%%Y-%%m-%%dT%%H:%%i:%%s'), m.truck_status,
               m.speed_mph, m.consumption_gph, m.estimated_gallons, m.odometer_mi
        FROM fuel_metrics m
        JOIN trucks t ON t.truck_id = m.truck_id
        ORDER BY m.timestamp_utc DESC, m.truck_id
        LIMIT %s
        """,
        (rows,),
    )
    table = cursor.fetchall()
    cursor.close()
    conn.close()
    columns = ["truck_id", "terminal", "timestamp", "status", "mph", "gph", "gallons", "odometer"]
    return JSONResponse({"columns": columns, "count": len(table), "rows": table})
