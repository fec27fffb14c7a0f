from kept import connection as conn


async def handler():
    conn.ping()  # expect: ODB103
