"""Connections that are found again in the request's or the application's attributes."""
import pymysql
import tornado.web
from fastapi import Depends
from fastapi_utils.cbv import cbv
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


class Given(tornado.web.RequestHandler):
    def initialize(self, conn, other=None):
        self.conn = conn  # expect: ODB304
        self.other = other  # expect: ODB304

    async def get(self):
        self.conn.ping()  # expect: ODB103
        self.other.ping()  # expect: ODB103


class Application(tornado.web.Application):
    def __init__(self, conn):
        given = tornado.web.url(r"/other", Given, dict(other=pymysql.connect(host="db")))
        super().__init__([(r"/truck", Truck), (r"/given", Given, {"conn": conn}), given])
        self.kept = pymysql.connect(host="db")  # expect: ODB304


def make_app():
    return Application(pymysql.connect(host="db"))


@cbv(app)
class Views:
    conn: pymysql.Connection = Depends(get_db)

    async def view(self):
        self.conn.ping()  # expect: ODB103
