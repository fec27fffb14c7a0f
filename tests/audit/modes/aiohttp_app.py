"""aiohttp: what is kept in the application is everybody's."""

import pymysql
from aiohttp import web

routes = web.RouteTableDef()
KEY = web.AppKey("key", pymysql.Connection)


class Store:
    def __init__(self, connection):
        self.connection = connection

    def names(self):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT name FROM trucks LIMIT 9")
            return cursor.fetchall()


async def on_startup(app):  # mode: neither
    app["db"] = pymysql.connect(host="db")  # shared
    app[KEY] = pymysql.connect(host="db")  # shared


@routes.get("/kept")
async def kept(request):  # mode: neither
    with request.app["db"].cursor() as cursor:
        cursor.execute("SELECT 1")
    return web.json_response([])


@routes.get("/keyed")
async def keyed(request):  # mode: neither
    with request.app[KEY].cursor() as cursor:
        cursor.execute("SELECT 1")
    return web.json_response([])


@routes.get("/store")
async def store(request):  # mode: neither
    return web.json_response(Store(request.app["db"]).names())


@routes.get("/own")
async def own(request):  # mode: thread
    connection = pymysql.connect(host="db")
    try:
        return web.json_response(Store(connection).names())
    finally:
        connection.close()


@routes.get("/given-away")
async def given_away(request):  # mode: neither
    connection = pymysql.connect(host="db")
    request.app["last"] = connection
    connection.ping()
    return web.json_response([])


application = web.Application()
application.add_routes(routes)
application.on_startup.append(on_startup)
