"""Methods that Tornado calls on the event loop, before and after a handler's own."""
import asyncio

import pymysql
import tornado.web
import tornado.websocket

SETTINGS = {"host": "db"}


def load():
    with pymysql.connect(**SETTINGS) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 FROM users WHERE id = 1")
        return cursor.fetchone()


async def store():
    load()  # expect: ODB104


class Base(tornado.web.RequestHandler):
    def prepare(self):
        self.user = load()  # expect: ODB302


class Truck(Base):
    def initialize(self, table):
        connection = pymysql.connect(**SETTINGS)  # expect: ODB302
        connection.close()
        self.table = table

    def on_finish(self):
        asyncio.create_task(store())  # expect: ODB302

    def helper(self):
        load()

    async def get(self):
        self.finish("ok")


class Awaits(tornado.web.RequestHandler):
    async def prepare(self):
        load()  # expect: ODB104

    def on_finish(self):
        self.counted = 1


class Socket(tornado.websocket.WebSocketHandler):
    def open(self):
        load()  # expect: ODB302

    def on_message(self, message):
        load()  # expect: ODB302

    def on_close(self):
        load()  # expect: ODB302


class Plain:
    def prepare(self):
        load()


app = tornado.web.Application([(r"/truck", Truck, {"table": "trucks"}), (r"/awaits", Awaits), (r"/socket", Socket)])
