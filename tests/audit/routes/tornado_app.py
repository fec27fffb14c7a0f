"""Routes of Tornado."""
import offload_db
import tornado.web
from tornado.web import RequestHandler, url

pool = offload_db.OffloadPool.from_env()


class Main(RequestHandler):
    async def get(self):  # route: GET /main
        pool.connection()


class Truck(tornado.web.RequestHandler):
    async def post(self, truck_id):  # route: POST /truck/(\d+)
        pool.connection()


class Own(RequestHandler):
    async def get(self):  # route: GET /own
        pool.connection()


class Application(tornado.web.Application):
    def __init__(self):
        handlers = [(r"/own", Own)]
        super().__init__(handlers, debug=True)


class Older(RequestHandler):
    async def get(self):  # route: GET /older
        pool.connection()


class OlderApplication(tornado.web.Application):
    def __init__(self):
        handlers = [(r"/older", Older)]
        settings = dict(debug=True)
        tornado.web.Application.__init__(self, handlers, **settings)


def make_app():
    return tornado.web.Application([(r"/main", Main), url(r"/truck/(\d+)", Truck, name="truck")])
