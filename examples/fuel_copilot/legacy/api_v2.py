"""Version 2 of the API: sensors cache, events, scorecards and fleet analytics."""

from datetime import datetime
from typing import Any, Dict, List, Optional

from fastapi import APIRouter, HTTPException, Query
from pydantic import BaseModel

router = APIRouter(prefix="/v2", tags=["v2"])

FUEL_PRICE_USD = 3.85


class FleetHealth(BaseModel):
    trucks: int
    average_score: float
    worst: List[Dict[str, Any]]
    worst_truck_sensors: Optional[Dict[str, Any]] = None


class TruckEvent(BaseModel):
    timestamp_utc: datetime
    dtc_code: str
    severity: str
    system_name: str
    description: str
    resolved_at: Optional[datetime] = None


@router.get("/truck/{truck_id}/sensors/cache")
async def get_sensors_cache(truck_id: str):
    """The latest reading of every sensor. Polled by each open dashboard."""
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT truck_id, timestamp, data_age_seconds,
               oil_pressure_psi, oil_temp_f, oil_level_pct,
               coolant_temp_f, coolant_level_pct,
               def_level_pct, def_temp_f,
               fuel_level_pct, fuel_temp_f,
               rpm, throttle_position_pct, engine_load_pct,
               intake_press_kpa, intake_air_temp_f,
               barometric_press_inhg, ambient_temp_f,
               voltage, speed_mph, odometer_mi, engine_hours
        FROM truck_sensors_cache
        WHERE truck_id = %s
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)

    cursor.execute(query, (truck_id,))
    row = cursor.fetchone()
    cursor.close()
    conn.close()

    if not row:
        raise HTTPException(status_code=404, detail=f"No sensors for truck {truck_id}")
    return row


@router.get("/truck/{truck_id}/events", response_model=List[TruckEvent])
async def get_truck_events(
    truck_id: str, days: int = Query(7, ge=1, le=90), limit: int = Query(50, ge=1, le=500)
):
    """History of trouble codes, newest first."""
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT timestamp_utc, dtc_code, severity, system_name, description, resolved_at
        FROM dtc_events
        WHERE truck_id = %s
          AND timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        ORDER BY timestamp_utc DESC, id DESC
        LIMIT %s
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(query, (truck_id, days, limit))
    rows = cursor.fetchall()
    cursor.close()
    conn.close()
    return rows


@router.get("/fleet/refuels")
async def get_fleet_refuels(
    days: int = Query(7, ge=1, le=90), min_gallons: float = Query(0, ge=0), terminal: Optional[str] = None
):
    """Every refuel of the fleet, with what the truck's tank could have held."""
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT r.truck_id, t.terminal, r.timestamp_utc, r.gallons_added, r.before_pct, r.after_pct,
               r.price_per_gallon, r.location, t.tank_capacity_gal,
               ROUND(r.gallons_added * r.price_per_gallon, 2) AS cost_usd
        FROM refuel_events r
        JOIN trucks t ON t.truck_id = r.truck_id
        WHERE r.timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %(days)s DAY
          AND r.gallons_added >= %(min_gallons)s
          AND (%(terminal)s IS NULL OR t.terminal = %(terminal)s)
        ORDER BY r.timestamp_utc DESC, r.id DESC
    """
    params = {"days": days, "min_gallons": min_gallons, "terminal": terminal}
    try:
        conn = get_db_connection()
        cursor = conn.cursor(pymysql.cursors.DictCursor)
        cursor.execute(query, params)
        rows = cursor.fetchall()
        cursor.close()
        conn.close()
    except pymysql.Error as e:
        raise HTTPException(status_code=503, detail=f"Database unavailable: {e.args[0]}")
    gallons = sum(row["gallons_added"] for row in rows)
    return {"count": len(rows), "gallons": round(gallons, 1), "refuels": rows[:100]}


@router.get("/fleet/drivers/scorecard")
async def get_driver_scorecard(days: int = Query(7, ge=1, le=90), top: int = Query(20, ge=1, le=250)):
    """Drivers ranked by harsh events and speeding per 100 miles."""
    import pymysql
    from database_mysql import get_db_connection

    trips_query = """
        SELECT driver_code,
               COUNT(*) AS trips,
               ROUND(SUM(distance_miles), 1) AS miles,
               ROUND(SUM(distance_miles) / SUM(fuel_used_gal), 2) AS mpg,
               CAST(SUM(harsh_brake_count + harsh_accel_count) AS SIGNED) AS harsh_events,
               CAST(SUM(idle_minutes) AS SIGNED) AS idle_minutes
        FROM truck_trips
        WHERE start_time >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        GROUP BY driver_code
        ORDER BY driver_code
    """
    speeding_query = """
        SELECT driver_code, COUNT(*) AS events, MAX(over_limit_mph) AS worst_mph
        FROM speeding_events
        WHERE timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        GROUP BY driver_code
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(trips_query, (days,))
    drivers = cursor.fetchall()

    cursor.execute(speeding_query, (days,))
    speeding = {row["driver_code"]: row for row in cursor.fetchall()}
    cursor.close()
    conn.close()

    for driver in drivers:
        events = speeding.get(driver["driver_code"])
        driver["speeding_events"] = events["events"] if events else 0
        driver["worst_speeding_mph"] = events["worst_mph"] if events else None
        penalty = 100 * (driver["harsh_events"] + 2 * driver["speeding_events"]) / max(driver["miles"], 1)
        driver["score"] = round(max(0.0, 100 - 8 * penalty), 1)
    drivers = sorted(drivers, key=lambda d: (-d["score"], d["driver_code"]))
    return {"days": days, "drivers": drivers[:top]}


@router.get("/truck/{truck_id}/specs")
async def get_truck_specs(truck_id: str):
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT truck_id, vin, make, model, model_year, tank_capacity_gal, mpg_baseline
        FROM trucks
        WHERE truck_id = %s
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(query, (truck_id,))
    truck = cursor.fetchone()
    if truck is None:
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    cursor.close()
    conn.close()
    return truck


@router.get("/dtcs")
async def search_dtcs(
    truck_id: Optional[str] = None,
    severity: Optional[str] = None,
    system: Optional[str] = None,
    only_open: bool = False,
    days: int = Query(30, ge=1, le=365),
    limit: int = Query(100, ge=1, le=1000),
):
    import pymysql
    from database_mysql import get_db_connection

    conditions = ["d.timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY"]
    params: List[Any] = [days]
    if truck_id:
        conditions.append("d.truck_id = %s")
        params.append(truck_id)
    if severity:
        conditions.append("d.severity = %s")
        params.append(severity.upper())
    if system:
        conditions.append("d.system_name LIKE %s")
        params.append(f"%{system}%")
    if only_open:
        conditions.append("d.resolved_at IS NULL")
    params.append(limit)
    query = f"""
        SELECT d.timestamp_utc, d.truck_id, t.terminal, d.dtc_code, d.severity, d.system_name, d.description,
               d.resolved_at
        FROM dtc_events d
        JOIN trucks t ON t.truck_id = d.truck_id
        WHERE {" AND ".join(conditions)}
        ORDER BY d.timestamp_utc DESC, d.id DESC
        LIMIT %s
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(query, tuple(params))
    rows = cursor.fetchall()
    cursor.close()
    conn.close()
    return {"count": len(rows), "dtcs": rows}


@router.get("/truck/{truck_id}/history")
async def get_truck_history(truck_id: str, days: int = Query(7, ge=1, le=30)):
    """All readings of the period for the charts."""
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT timestamp_utc, truck_status, speed_mph, rpm, estimated_pct, sensor_pct, consumption_gph,
               mpg_current, coolant_temp_f, def_level_pct
        FROM fuel_metrics
        WHERE truck_id = %s
          AND timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        ORDER BY timestamp_utc
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(query, (truck_id, days))
    rows = cursor.fetchall()
    cursor.close()
    conn.close()
    moving = [row["mpg_current"] for row in rows if row["mpg_current"] is not None]
    return {
        "truck_id": truck_id,
        "readings": len(rows),
        "average_mpg": round(sum(moving) / len(moving), 2) if moving else None,
        "history": rows,
    }


@router.get("/truck/{truck_id}")
async def get_truck_detail(truck_id: str):
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT t.truck_id, t.make, t.model, t.model_year, t.terminal, t.status,
               c.timestamp AS last_seen, c.fuel_level_pct, c.odometer_mi, c.engine_hours,
               (SELECT COUNT(*) FROM dtc_events d WHERE d.truck_id = t.truck_id AND d.resolved_at IS NULL) AS open_dtcs,
               (SELECT MIN(k.health_score) FROM truck_components k WHERE k.truck_id = t.truck_id) AS lowest_health
        FROM trucks t
        LEFT JOIN truck_sensors_cache c ON c.truck_id = t.truck_id
        WHERE t.truck_id = %s
    """
    conn = get_db_connection()
    try:
        cursor = conn.cursor(pymysql.cursors.DictCursor)
        cursor.execute(query, (truck_id,))
        detail = cursor.fetchone()
        cursor.close()
    finally:
        conn.close()
    if not detail:
        raise HTTPException(status_code=404, detail=f"Truck {truck_id} not found")
    return detail


@router.get("/fleet/health", response_model=FleetHealth)
async def get_fleet_health(worst: int = Query(10, ge=1, le=100)):
    """Health of the whole fleet, and the sensors of the truck that needs a look first."""
    import pymysql
    from database_mysql import get_db_connection

    query = """
        SELECT t.truck_id, t.terminal, t.status,
               ROUND(AVG(k.health_score), 2) AS health,
               MIN(k.health_score) AS weakest
        FROM trucks t
        JOIN truck_components k ON k.truck_id = t.truck_id
        GROUP BY t.truck_id, t.terminal, t.status
        ORDER BY health, t.truck_id
    """
    sensor_query = """
        SELECT timestamp, oil_pressure_psi, coolant_temp_f, def_level_pct, voltage
        FROM truck_sensors_cache
        WHERE truck_id = %s
    """
    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(query)
    trucks = cursor.fetchall()

    sensors = None
    if trucks:
        truck_id = trucks[0]["truck_id"]
        cursor.execute(sensor_query, (truck_id,))
        sensors = cursor.fetchone()
    cursor.close()
    conn.close()

    average = sum(truck["health"] for truck in trucks) / len(trucks) if trucks else 0.0
    return FleetHealth(
        trucks=len(trucks), average_score=round(average, 2), worst=trucks[:worst], worst_truck_sensors=sensors
    )


@router.get("/fleet/efficiency")
async def get_fleet_efficiency(limit: int = Query(25, ge=1, le=1000)):
    import pymysql
    from database_mysql import get_db_connection

    with get_db_connection() as conn:
        with conn.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(
                """
                SELECT p.truck_id, t.make, t.model, t.mpg_baseline,
                       ROUND(SUM(p.distance_miles) / SUM(p.fuel_used_gal), 2) AS mpg,
                       ROUND(SUM(p.distance_miles), 1) AS miles
                FROM truck_trips p
                JOIN trucks t ON t.truck_id = p.truck_id
                GROUP BY p.truck_id, t.make, t.model, t.mpg_baseline
                ORDER BY mpg DESC, p.truck_id
                LIMIT %s
                """,
                (limit,),
            )
            rows = cursor.fetchall()
    for row in rows:
        row["vs_baseline_pct"] = round(100 * (row["mpg"] / row["mpg_baseline"] - 1), 1)
    return {"ranking": rows}


@router.get("/truck/{truck_id}/idle-cost")
async def get_idle_cost(truck_id: str, days: int = Query(7, ge=1, le=90)):
    """What idling cost, per day."""
    import pymysql
    from database_mysql import get_db_connection

    conn = get_db_connection()
    cursor = conn.cursor(pymysql.cursors.DictCursor)
    cursor.execute(
        """
        SELECT DATE(timestamp_utc) AS day,
               ROUND(SUM(consumption_gph) / 12, 2) AS idle_gallons,
               COUNT(*) * 5 AS idle_minutes
        FROM fuel_metrics
        WHERE truck_id = %s
          AND truck_status = 'IDLE'
          AND timestamp_utc >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        GROUP BY DATE(timestamp_utc)
        ORDER BY day
        """,
        (truck_id, days),
    )
    per_day = cursor.fetchall()
    cursor.close()
    conn.close()
    for day in per_day:
        day["cost_usd"] = round(day["idle_gallons"] * FUEL_PRICE_USD, 2)
    return {"truck_id": truck_id, "days": per_day, "cost_usd": round(sum(d["cost_usd"] for d in per_day), 2)}
