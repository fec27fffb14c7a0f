"""Fleet numbers that several endpoints share."""

import pymysql

from database_mysql import get_db_connection, pool


def _query(sql, params=None):
    conn = get_db_connection()
    try:
        with conn.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute(sql, params)
            return cursor.fetchall()
    finally:
        conn.close()


def _count_by_status():
    rows = _query("SELECT status, COUNT(*) AS trucks FROM trucks GROUP BY status ORDER BY status")
    return {row["status"]: row["trucks"] for row in rows}


def _consumption(days):
    rows = _query(
        """
        SELECT ROUND(SUM(fuel_used_gal), 1) AS gallons,
               ROUND(SUM(distance_miles), 1) AS miles,
               COUNT(*) AS trips
        FROM truck_trips
        WHERE start_time >= (SELECT last_ingest_utc FROM ingest_status) - INTERVAL %s DAY
        """,
        (days,),
    )
    return rows[0]


def build_fleet_summary(days):
    by_status = _count_by_status()
    consumption = _consumption(days)
    gallons = consumption["gallons"] or 0
    return {
        "trucks": sum(by_status.values()),
        "by_status": by_status,
        "trips": consumption["trips"],
        "miles": consumption["miles"],
        "gallons": gallons,
        "mpg": round(consumption["miles"] / gallons, 2) if gallons else None,
    }


def last_refuel(truck_id):
    """The newest refuel of one truck, or None."""
    with pool.connection() as conn, conn.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(
            """
            SELECT timestamp_utc, gallons_added, after_pct, location
            FROM refuel_events
            WHERE truck_id = %s
            ORDER BY timestamp_utc DESC, id DESC
            LIMIT 1
            """,
            (truck_id,),
        )
        return cursor.fetchone()


def robust_slope(points):
    """Theil-Sen slope of (x, y) points: the median of the slopes of all pairs."""
    slopes = []
    for i, (x1, y1) in enumerate(points):
        slopes.extend((y2 - y1) / (x2 - x1) for x2, y2 in points[i + 1 :] if x2 != x1)
    if not slopes:
        return None
    slopes.sort()
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
