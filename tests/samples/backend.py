"""A FastAPI backend with annotations that are strings, to be built with and without a decorator on its handlers."""

# ruff: noqa: B008  # the way that people wrote it when the oldest supported FastAPI was new

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    FastAPI,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    WebSocket,
)
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

Decorator = Callable[[Any], Any]
seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="unset")


class Truck(BaseModel):
    """A body and a response."""

    name: str
    axles: int = Field(2, ge=1)


class Outgoing(BaseModel):
    """A response that leaves something out."""

    name: str


class Unavailable(Exception):  # as the users name theirs
    """An error with a handler of its own."""


class Pagination:
    """A dependency that is a class."""

    def __init__(self, limit: int = Query(10, le=100), offset: int = 0) -> None:
        self.limit = limit
        self.offset = offset


class Checker:
    """A dependency that is an object."""

    def __init__(self, role: str) -> None:
        self.role = role

    async def __call__(self, x_role: str = Header("none")) -> str:
        """Compare the header with the role."""
        if x_role != self.role:
            raise HTTPException(403, f"{x_role} is not {self.role}")
        return x_role


def build(decorate: Decorator, trail: list[str]) -> FastAPI:  # one function for each feature
    """Make the backend with *decorate* on every handler and every asynchronous dependency."""
    app = FastAPI(title="sample")
    router = APIRouter(prefix="/v2", tags=["trucks"])

    @app.exception_handler(Unavailable)
    async def unavailable(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"unavailable": str(error), "path": request.url.path}, 503)

    @decorate
    async def asynchronous_dependency(token: str = Query("ok", min_length=2)) -> str:
        return f"asynchronous {token}"

    def plain_dependency(request: Request) -> str:
        return f"plain {request.method}"

    @decorate
    async def lent() -> AsyncIterator[str]:
        trail.append("lend")
        seen.set("set by the dependency")
        try:
            yield "lent"
        except HTTPException as error:
            trail.append(f"saw {error.status_code}")
            raise
        finally:
            trail.append("take back")

    def lent_plainly() -> Iterator[str]:
        yield "lent plainly"

    @router.get("/trucks/{truck_id}", response_model=Outgoing)
    @decorate
    async def get_truck(truck_id: int, verbose: bool = False, x_tag: str | None = Header(None)) -> Any:
        """Return one truck."""
        return {"name": f"{truck_id} {verbose} {x_tag}", "secret": "left out"}

    @router.post("/trucks", status_code=201)
    @decorate
    async def create_truck(truck: Truck, note: str = Body("none")) -> Truck:
        """Create a truck."""
        return Truck(name=f"{truck.name} {note}", axles=truck.axles + 1)

    @router.put("/trucks/{truck_id}")
    @decorate
    def replace_truck(truck_id: int, truck: Truck) -> dict[str, Any]:
        """Replace a truck, in a plain function."""
        return {"id": truck_id, "name": truck.name}

    @app.get("/dependencies")
    @decorate
    async def dependencies(
        page: Pagination = Depends(),
        first: str = Depends(asynchronous_dependency),
        second: str = Depends(plain_dependency),
        third: str = Depends(lent),
        fourth: str = Depends(lent_plainly),
    ) -> list[Any]:
        return [page.limit, page.offset, first, second, third, fourth, seen.get()]

    @app.get("/guarded", dependencies=[Depends(Checker("driver"))])
    @decorate
    async def guarded(role: str = Depends(Checker("driver"))) -> str:
        return role

    @app.get("/request")
    @decorate
    async def whole_request(request: Request, response: Response, tasks: BackgroundTasks) -> dict[str, str]:
        response.headers["x-answer"] = "yes"
        tasks.add_task(trail.append, "background")
        return {"path": request.url.path}

    @app.get("/refused")
    @decorate
    async def refused(value: str = Depends(lent)) -> None:
        raise HTTPException(418, detail={"why": value}, headers={"x-why": "tea"})

    @app.get("/unavailable")
    @decorate
    async def fails() -> None:
        raise Unavailable("for now")

    class Handlers:
        """Handlers that are methods."""

        greeting = "hello"

        @decorate
        async def greet(self, name: str) -> str:
            return f"{self.greeting} {name}"

    app.add_api_route("/greet", Handlers().greet, methods=["GET"])
    app.include_router(router)
    return app


def add_socket(app: FastAPI, decorate: Decorator) -> None:
    """Add a handler for a WebSocket; it awaits, so that it cannot be one that runs in a thread."""

    @app.websocket("/echo/{name}")
    @decorate
    async def echo(socket: WebSocket, name: str, suffix: str = "", value: str = Depends(lambda: "value")) -> None:
        await socket.accept()
        text = await socket.receive_text()
        await socket.send_text(f"{name} {text}{suffix} {value}")
        await socket.close()
