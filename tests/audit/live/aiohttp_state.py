"""aiohttp: one connection in the application, and one for each request."""
import os

import pymysql
from aiohttp import web

routes = web.RouteTableDef()


def connect():
    return pymysql.connect(
        host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
        password=os.environ["MYSQL_PASSWORD"], autocommit=True, ssl_disabled=True,
    )


def ask(connection, number):
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
        return int(cursor.fetchone()[0])


@routes.get("/kept/{number}")
async def kept(request):
    return web.json_response(ask(request.app["db"], int(request.match_info["number"])))


@routes.get("/own/{number}")
async def own(request):
    connection = connect()
    try:
        return web.json_response(ask(connection, int(request.match_info["number"])))
    finally:
        connection.close()


app = web.Application()
app["db"] = connect()
app.add_routes(routes)
