"""Tornado: `initialize(db=…)` gives every request the same object."""

import pymysql
import tornado.web


class Database:
    def __init__(self):
        self.conn = pymysql.connect(host="db")  # shared

    def names(self):
        with self.conn.cursor() as cursor:
            cursor.execute("SELECT name FROM trucks LIMIT 9")
            return cursor.fetchall()


class Kept(tornado.web.RequestHandler):
    def initialize(self, db):
        self.db = db

    async def get(self):  # mode: neither
        self.write({"names": self.db.names()})


class Raw(tornado.web.RequestHandler):
    def initialize(self, connection):
        self.connection = connection  # shared

    async def get(self):  # mode: neither
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT 1")


class Own(tornado.web.RequestHandler):
    async def get(self):  # mode: thread
        connection = pymysql.connect(host="db")
        try:
            connection.ping()
        finally:
            connection.close()


class Finishing(tornado.web.RequestHandler):
    async def get(self):  # mode: neither
        connection = pymysql.connect(host="db")
        connection.ping()
        connection.close()
        self.finish({"ok": True})


db = Database()
application = tornado.web.Application(
    [
        (r"/kept", Kept, dict(db=db)),
        (r"/raw", Raw, {"connection": pymysql.connect(host="db")}),
        (r"/own", Own),
        (r"/finishing", Finishing),
    ]
)
