"""Connections among the settings of a Tornado application."""
import pymysql
import tornado.web


class Trucks(tornado.web.RequestHandler):
    async def get(self):
        self.settings["db"].ping()  # expect: ODB103
        self.application.settings["db"].commit()  # expect: ODB103
        self.settings["cookie_secret"].strip()
        self.settings["other"].ping()  # expect: ODB103


class Application(tornado.web.Application):
    def __init__(self):
        super().__init__([(r"/trucks", Trucks)], other=pymysql.connect(host="db"))


app = tornado.web.Application([(r"/trucks", Trucks)], db=pymysql.connect(host="db"), cookie_secret="secret")
