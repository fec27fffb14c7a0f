"""Routes of Starlette."""
import offload_db
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Mount, Route, Router, WebSocketRoute

pool = offload_db.OffloadPool.from_env()


async def home(request):  # route: GET /
    pool.connection()


async def created(request):  # route: POST /things
    pool.connection()


class View(HTTPEndpoint):
    async def get(self, request):  # route: GET /v/view
        pool.connection()

    async def delete(self, request):  # route: DELETE /v/view
        pool.connection()


async def ws(websocket):  # route: WEBSOCKET /ws
    pool.connection()


async def late(request):  # route: GET /late
    pool.connection()


async def deep(request):  # route: GET /v/w/deep
    pool.connection()


app = Starlette(
    routes=[
        Route("/", home),
        Route("/things", endpoint=created, methods=["POST"]),
        Mount("/v", routes=[Route("/view", View), Mount("/w", app=Router([Route("/deep", deep)]))]),
        WebSocketRoute("/ws", ws),
    ]
)
app.add_route("/late", late)
