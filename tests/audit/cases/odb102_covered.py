"""What the middleware, the route class and a decorator cover: not every path, not each streamed body."""
import offload_db
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from offload_db.contrib.asgi import OffloadMiddleware
from offload_db.contrib.fastapi import OffloadRoute
from starlette.middleware import Middleware

pool = offload_db.OffloadPool.from_env()
app = FastAPI()
app.add_middleware(OffloadMiddleware, paths=["/v2"], exclude=["/v2/export"])
PATHS = ["/v3"]
third = FastAPI(middleware=[Middleware(OffloadMiddleware, paths=PATHS)])
router = APIRouter(route_class=OffloadRoute)
app.include_router(router)


@app.get("/v2/trucks")
async def named():
    pool.connection().close()


@app.get("/v22/trucks")
async def not_named():
    pool.connection().close()  # expect: ODB102 ODB103


@app.get("/v2/export/trucks")
async def left_out():
    pool.connection().close()  # expect: ODB102 ODB103


@app.get("/v2/stream")
async def streams():
    async def rows():
        with pool.connection() as conn:  # expect: ODB102
            yield conn.thread_id()

    return StreamingResponse(rows())


@app.get("/decorated")
@offload_db.offload
async def decorated():
    async def rows():
        with pool.connection() as conn:  # expect: ODB102
            yield conn.thread_id()

    pool.connection().close()
    async for _ in consumed():
        pass
    body = rows()
    return StreamingResponse(body)


async def consumed():
    with pool.connection() as conn:
        yield conn.thread_id()


@third.get("/v3/trucks")
async def listed():
    pool.connection().close()


@third.get("/v4/trucks")
async def not_listed():
    pool.connection().close()  # expect: ODB102 ODB103


@router.get("/routed")
async def routed():
    async def rows():
        with pool.connection() as conn:
            yield conn.thread_id()

    return StreamingResponse(rows())


@router.websocket("/socket")
async def socket(websocket):
    pool.connection().close()  # expect: ODB102 ODB103
