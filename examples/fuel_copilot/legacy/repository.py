"""Truck master data and trouble codes, read over one connection that the whole process shares."""

import pymysql

from database_mysql import get_db_connection

# Opened on first use and kept: these look-ups happen on almost every page.
_connection = None


def _get_connection():
    global _connection
    if _connection is None:
        _connection = get_db_connection()
    return _connection


class TruckRepository:
    def exists(self, truck_id):
        with _get_connection().cursor() as cursor:
            cursor.execute("SELECT 1 FROM trucks WHERE truck_id = %s", (truck_id,))
            return cursor.fetchone() is not None

    def get(self, truck_id):
        with _get_connection().cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute("SELECT * FROM trucks WHERE truck_id = %s", (truck_id,))
            return cursor.fetchone()

    def terminals(self):
        cursor = _get_connection().cursor()
        cursor.execute("SELECT terminal, COUNT(*) FROM trucks GROUP BY terminal ORDER BY terminal")
        return [{"terminal": terminal, "trucks": trucks} for terminal, trucks in cursor]

    def open_dtc_counts(self, truck_id):
        with _get_connection().cursor() as cursor:
            cursor.execute(
                """
                SELECT severity, COUNT(*)
                FROM dtc_events
                WHERE truck_id = %s AND resolved_at IS NULL
                GROUP BY severity
                ORDER BY severity
                """,
                (truck_id,),
            )
            return dict(cursor.fetchall())


truck_repository = TruckRepository()
