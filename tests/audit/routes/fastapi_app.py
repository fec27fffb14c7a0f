"""Routes of FastAPI."""
import os

import offload_db
from fastapi import APIRouter, Depends, FastAPI
from starlette.routing import Mount, Route

pool = offload_db.OffloadPool.from_env()
API = "/api"
V1 = f"{API}/v1"


def create_app() -> FastAPI:
    app = FastAPI()
    inner = APIRouter(prefix="/inner")
    outer = APIRouter(prefix="/outer")

    @inner.get("/x")
    async def in_factory():  # route: GET /api/v1/outer/deep/inner/x
        pool.connection()

    outer.include_router(inner, prefix="/deep")
    app.include_router(outer, prefix=V1)
    app.include_router(users, prefix="/a")
    app.include_router(users, prefix="/b")
    app.add_api_route("/added", added, methods=["POST", "PUT"])
    app.mount("/mounted", mounted)
    return app


users = APIRouter()
mounted = FastAPI()


@users.api_route("/users/{user_id}", methods=["GET", "DELETE"])
async def user(user_id: int):  # route: GET /a/users/{user_id}, GET /b/users/{user_id}, DELETE /a/users/{user_id}, DELETE /b/users/{user_id}
    pool.connection()


@users.websocket("/ws")
async def socket(websocket):  # route: WEBSOCKET /a/ws, WEBSOCKET /b/ws
    pool.connection()


async def added():  # route: POST /added, PUT /added
    pool.connection()


@mounted.get(path="/m")
async def in_mounted():  # route: GET /mounted/m
    await below()


async def below():  # route: GET /mounted/m
    pool.connection()


async def dependency():  # route: PATCH /dep
    pool.connection()


app = FastAPI()


@app.patch("/dep")
async def depends(x=Depends(dependency)):  # route: PATCH /dep
    pool.connection()


def register(api):
    @api.head("/registered")
    async def registered():  # route: HEAD /registered
        pool.connection()


register(app)


async def listed(request):  # route: GET /sub/list/{x}
    pool.connection()


routes = [Mount("/sub", routes=[Route("/list/{x}", endpoint=listed)])]


async def of_route():  # route: GET /needs/x
    pool.connection()


class OfRouter:
    async def __call__(self):  # route: GET /needs/x
        pool.connection()


async def of_inclusion():  # route: GET /needs/x
    pool.connection()


async def of_app():  # route: GET /needs/x
    pool.connection()


needs = APIRouter(dependencies=[Depends(OfRouter())])


@needs.get("/x", dependencies=[Depends(of_route)])
def plain():
    pool.connection()


needing = FastAPI(dependencies=[Depends(of_app)])
needing.include_router(needs, prefix="/needs", dependencies=[Depends(of_inclusion)])


class Base:
    API: str = "/base"


class Settings(Base):
    ADMIN = os.getenv("ADMIN", "/admin")


settings = Settings()
third = FastAPI()
of_settings = APIRouter(prefix=settings.ADMIN)
third.include_router(of_settings, prefix=settings.API)


@of_settings.get(f"{Settings.API}/x")
async def with_settings():  # route: GET /base/admin/base/x
    pool.connection()


async def called_upon():  # route: PUT /called
    pool.connection()


third.put("/called")(called_upon)
