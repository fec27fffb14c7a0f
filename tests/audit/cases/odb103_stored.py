"""Connections that are found again in the request's or the application's attributes."""
import pymysql
import tornado.web
from quart import Quart, current_app, g

app = Quart(__name__)


def get_db():
    if "db" not in g:
        g.db = pymysql.connect(host="db")
    return g.db


@app.before_serving
async def start():
    app.db = pymysql.connect(host="db")  # expect: ODB102 ODB304


@app.get("/found")
async def found():
    conn = get_db()  # expect: ODB104
    conn.ping()  # expect: ODB103
    g.db.ping()  # expect: ODB103
    getattr(g, "db").ping()  # expect: ODB103
    current_app.db.ping()  # expect: ODB103


@app.teardown_appcontext
async def close(error):
    conn = g.pop("db", None)
    if conn is not None:
        conn.close()  # expect: ODB103


class Truck(tornado.web.RequestHandler):
    @property
    def kept(self):
        return self.application.kept

    async def get(self):
        self.kept.ping()  # expect: ODB103
        self.application.kept.commit()  # expect: ODB103


class Application(tornado.web.Application):
    def __init__(self):
        super().__init__([(r"/truck", Truck)])
        self.kept = pymysql.connect(host="db")  # expect: ODB304
