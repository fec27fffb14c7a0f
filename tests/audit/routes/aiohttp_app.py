"""Routes of aiohttp."""
import offload_db
from aiohttp import web

pool = offload_db.OffloadPool.from_env()
routes = web.RouteTableDef()


@routes.get("/decorated")
async def decorated(request):  # route: GET /decorated
    pool.connection()


@routes.view("/class")
class View(web.View):
    async def post(self):  # route: POST /class
        pool.connection()


async def listed(request):  # route: PUT /listed
    pool.connection()


async def added(request):  # route: GET /added
    pool.connection()


async def in_sub(request):  # route: GET /sub/x
    pool.connection()


async def any_method(request):  # route: PATCH /any
    request.app["db"].connection()


async def of_resource(request):  # route: GET /resource, POST /resource
    pool.connection()


def main():
    app = web.Application()
    app["db"] = pool
    app.add_routes(routes)
    app.add_routes([web.put("/listed", listed)])
    app.router.add_get("/added", added)
    app.router.add_route("PATCH", "/any", any_method)
    resource = app.router.add_resource("/resource")
    resource.add_route("GET", of_resource)
    resource.add_route("POST", of_resource)
    sub = web.Application()
    sub.router.add_get("/x", in_sub)
    app.add_subapp("/sub", sub)
    web.run_app(app)
