"""Tornado: one database in the settings of a route, and a helper that starts a task."""
import asyncio
import os

import pymysql
import tornado.web


class Database:
    def __init__(self):
        self.connection = pymysql.connect(
            host=os.environ["MYSQL_HOST"], port=int(os.environ["MYSQL_PORT"]), user=os.environ["MYSQL_USER"],
            password=os.environ["MYSQL_PASSWORD"], autocommit=True, ssl_disabled=True,
        )

    def ask(self, number):
        with self.connection.cursor() as cursor:
            cursor.execute("SELECT %s + SLEEP(0.002)", (number,))
            return int(cursor.fetchone()[0])


async def note():
    pass


def noted(value):
    asyncio.get_running_loop().create_task(note())
    return value


class Kept(tornado.web.RequestHandler):
    def initialize(self, db):
        self.db = db

    async def get(self, number):
        self.write(str(self.db.ask(int(number))))


class Noting(tornado.web.RequestHandler):
    async def get(self, number):
        database = Database()
        self.write(str(noted(database.ask(int(number)))))
        database.connection.close()


class Own(tornado.web.RequestHandler):
    async def get(self, number):
        database = Database()
        self.write(str(database.ask(int(number))))
        database.connection.close()


app = tornado.web.Application(
    [(r"/kept/(\d+)", Kept, dict(db=Database())), (r"/noting/(\d+)", Noting), (r"/own/(\d+)", Own)]
)
