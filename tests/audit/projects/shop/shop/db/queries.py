from . import pool as _pool_module

ALL_ITEMS = """
    SELECT * FROM items  -- WHERE is a comment here
"""


def fetch(sql, args=()):
    with _pool_module.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute(sql, args)
            return cursor.fetchall()
