"""mysql-connector's pool of five: it raises an error where it should wait."""
import os

from fastapi import FastAPI
from mysql.connector.pooling import MySQLConnectionPool

app = FastAPI()
pool = MySQLConnectionPool(
    pool_name="five", pool_size=5, host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]),
    user=os.environ["MYSQL_USER"], password=os.environ["MYSQL_PASSWORD"], ssl_disabled=True,
)


@app.get("/pool/{number}")
async def of_pool(number: int):
    connection = pool.get_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
        return int(cursor.fetchone()[0])
    finally:
        connection.close()
