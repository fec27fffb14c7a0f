"""Claims about decorated handlers in FastAPI and Starlette, and on a real server."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import anyio
import httpx
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from offload_db import ConfigurationError, blocking, offload
from offload_db.bridge.place import Place, place
from tests.conftest import MySQL, needs
from tests.samples import annotated
from tests.samples.backend import Decorator, add_socket, build
from tests.serving import served
from tests.support import PATIENCE, in_thread, pool_of, until, value

# FastAPI 0.104 says to the newest pydantic what that finds pointless.
pytestmark = pytest.mark.filterwarnings("ignore:The 'alias' attribute with value")


def unchanged(function: Any) -> Any:
    return function


DECORATORS: dict[str, Decorator] = {
    "bridge": offload,
    "brackets": offload(lane=None),
    "thread": offload(mode="thread"),
    "twice": lambda function: offload(offload(function)),
}
decorators = pytest.mark.parametrize("decorate", DECORATORS.values(), ids=DECORATORS)

REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v2/trucks/7", {}),
    ("GET", "/v2/trucks/7", {"params": {"verbose": "true"}, "headers": {"x-tag": "blue"}}),
    ("GET", "/v2/trucks/seven", {}),
    ("POST", "/v2/trucks", {"json": {"truck": {"name": "big", "axles": 3}, "note": "new"}}),
    ("POST", "/v2/trucks", {"json": {"truck": {"name": "big", "axles": 0}}}),
    ("POST", "/v2/trucks", {"json": {"name": "not embedded"}}),
    ("PUT", "/v2/trucks/8", {"json": {"name": "small"}}),
    ("PUT", "/v2/trucks/8", {"json": {}}),
    ("GET", "/dependencies", {}),
    ("GET", "/dependencies", {"params": {"limit": "5", "offset": "2", "token": "long"}}),
    ("GET", "/dependencies", {"params": {"limit": "500", "token": "x"}}),
    ("GET", "/guarded", {"headers": {"x-role": "driver"}}),
    ("GET", "/guarded", {"headers": {"x-role": "guest"}}),
    ("GET", "/request", {}),
    ("GET", "/refused", {}),
    ("GET", "/unavailable", {}),
    ("GET", "/greet", {"params": {"name": "you"}}),
    ("GET", "/greet", {}),
    ("GET", "/openapi.json", {}),
]


def answers(app: FastAPI, trail: list[str]) -> list[Any]:
    """Send each request, and return what came back and what the backend noted."""
    found: list[Any] = []
    with TestClient(app) as client:
        for method, path, options in REQUESTS:
            response = client.request(method, path, **options)
            headers = {name: text for name, text in response.headers.items() if name.startswith("x-")}
            found.append((method, path, response.status_code, response.json(), headers, tuple(trail)))
            trail.clear()
    return found


@decorators
def test_the_schema_is_the_same(decorate: Decorator) -> None:
    """The OpenAPI schema of a backend does not change when its handlers are decorated."""
    assert build(decorate, []).openapi() == build(unchanged, []).openapi()


@decorators
def test_the_answers_are_the_same(decorate: Decorator) -> None:
    """Bodies, parameters, dependencies, headers, errors and background tasks work as without the decorator."""
    plain: list[str] = []
    expected = answers(build(unchanged, plain), plain)
    assert [answer[2] for answer in expected[:5]] == [200, 200, 422, 201, 422]
    trail: list[str] = []
    found = answers(build(decorate, trail), trail)
    if decorate is DECORATORS["thread"]:
        # FastAPI reads what a dependency set in its task; a thread's own context is another one.
        expected, found = (
            [(*answer[:3], str(answer[3]).replace("set by the dependency", "unset"), *answer[4:]) for answer in some]
            for some in (expected, found)
        )
    for before, after in zip(expected, found, strict=True):
        assert after == before


@decorators
def test_annotated_parameters(decorate: Decorator) -> None:
    """The same for parameters that `Annotated` describes."""
    try:
        plain = annotated.build(unchanged)
    except (AttributeError, AssertionError):
        pytest.skip("this FastAPI does not understand Annotated with this pydantic, decorated or not")
    decorated = annotated.build(decorate)
    assert decorated.openapi() == plain.openapi()
    with TestClient(plain) as before, TestClient(decorated) as after:
        for client in (before, after):
            response = client.post("/trucks/3", json={"truck": {"name": "big"}}, headers={"x-tag": "blue"})
            truck = {"number": 3, "truck": {"name": "big"}, "value": "lent", "limit": 5, "tag": "blue"}
            assert (response.status_code, response.json()) == (200, truck)
            assert client.post("/trucks/0?limit=11", json={}).status_code == 422
            assert client.get("/plain?ids=1&ids=2").json() == [1, 2]


def test_sockets() -> None:
    """A decorated WebSocket handler gets its socket, parameters and dependencies."""
    app = FastAPI()
    add_socket(app, offload)
    with TestClient(app) as client, client.websocket_connect("/echo/me?suffix=!") as connection:
        connection.send_text("hello")
        assert connection.receive_text() == "me hello! value"


def looks(function: Any) -> list[tuple[str, Any, Any]]:
    return [(name, item.kind, item.annotation) for name, item in inspect.signature(function).parameters.items()]


def endpoints(app: FastAPI) -> dict[str, Any]:
    return {getattr(route, "name", ""): route.endpoint for route in app.routes if hasattr(route, "endpoint")}


def test_what_tools_read() -> None:
    """A decorated handler has the file, source, signature and docstring of the user's, and is a coroutine function."""
    routes, plain = endpoints(build(offload, [])), endpoints(build(unchanged, []))
    assert {"whole_request", "dependencies", "guarded"} <= set(routes)
    for name, endpoint in routes.items():
        assert inspect.getfile(endpoint) == inspect.getfile(plain[name])
        assert inspect.getsource(endpoint) == inspect.getsource(plain[name])
        assert looks(endpoint) == looks(plain[name])
        assert inspect.getdoc(endpoint) == inspect.getdoc(plain[name])
        assert endpoint.__qualname__ == plain[name].__qualname__
        assert endpoint.__module__ == plain[name].__module__


# Where what runs

elsewhere = blocking(threading.get_ident)


@pytest.mark.anyio
async def test_where_handlers_and_dependencies_run() -> None:
    """Decorated ones suspend, a plain `def` runs in a thread as ever, and an undecorated one is on the loop."""
    app = FastAPI()
    here = threading.get_ident()

    @offload
    async def dependency() -> str:
        assert elsewhere() != here
        return place().name

    async def undecorated() -> str:
        return place().name

    def plain() -> str:
        return place().name

    @app.get("/bridged")
    @offload
    async def bridged(
        one: str = Depends(dependency), two: str = Depends(undecorated), three: str = Depends(plain)
    ) -> list[str]:
        assert elsewhere() != here
        return [one, two, three, place().name]

    @app.get("/plain")
    def in_a_thread() -> str:
        return place().name

    @app.get("/offloaded")
    @offload
    def offloaded() -> str:
        return place().name

    @app.get("/loop")
    async def on_the_loop() -> str:
        return place().name

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        bridged_name, loop, thread = Place.BRIDGED.name, Place.LOOP.name, Place.THREAD.name
        assert (await client.get("/bridged")).json() == [bridged_name, loop, thread, bridged_name]
        assert (await client.get("/plain")).json() == thread
        assert (await client.get("/offloaded")).json() == thread
        assert (await client.get("/loop")).json() == loop


@pytest.mark.anyio
async def test_statements_in_a_backend(database: dict[str, Any]) -> None:
    """Handlers, `def` handlers and `yield` dependencies share a pool, and every connection comes back."""
    app = FastAPI()
    with pool_of(2, database) as pool:

        @offload
        async def connection() -> Any:
            lent = pool.connection()
            try:
                yield lent
            finally:
                lent.close()

        @app.get("/lent/{number}")
        @offload
        async def with_lent(number: int, lent: Any = Depends(connection)) -> int:  # noqa: B008
            if number == 0:
                raise ZeroDivisionError
            return int(value(lent, "SELECT %s", number))

        @app.get("/plain/{number}")
        def plain(number: int) -> int:
            with pool.connection() as own:
                return int(value(own, "SELECT %s", number))

        answered: list[tuple[int, int]] = []

        async def get(client: httpx.AsyncClient, path: str, number: int) -> None:
            answered.append((number, (await client.get(f"/{path}/{number}")).json()))

        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            async with anyio.create_task_group() as group:
                for number in range(1, 11):
                    group.start_soon(get, client, "lent" if number % 2 else "plain", number)
            assert (await client.get("/lent/0")).status_code == 500
        assert sorted(answered) == [(number, number) for number in range(1, 11)]
        assert pool.statistics().in_use == 0
        assert pool.blocking_calls() == []


# Above the route decorator

app_in_module = FastAPI()
router_in_module = APIRouter()


@pytest.mark.parametrize("decorate", [offload, offload(), offload(mode="thread")])
def test_above_the_route_decorator(decorate: Decorator) -> None:
    """Above the route decorator it would do nothing, so it says where it belongs."""
    app, router = FastAPI(), APIRouter()
    with pytest.raises(ConfigurationError, match=r"above the route decorator of .*first.* below it"):

        @decorate
        @app.get("/first")
        async def first() -> None: ...

    with pytest.raises(ConfigurationError, match="second"):

        @decorate
        @router.post("/second", status_code=201)
        def second() -> None: ...

    with pytest.raises(ConfigurationError, match="third"):

        @decorate
        @app_in_module.api_route("/third", methods=["GET", "POST"])
        async def third() -> None: ...

    with pytest.raises(ConfigurationError, match="fourth"):

        @offload(
            mode="bridge",
        )
        @router_in_module.websocket("/fourth")
        async def fourth() -> None: ...


def test_above_a_route_decorator_of_another_kind() -> None:
    """It is seen also when another decorator, with functools.wraps, stands in between."""
    import functools

    app = FastAPI()

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    with pytest.raises(ConfigurationError, match="above the route decorator"):

        @offload
        @logged
        @app.get("/between")
        async def between() -> None: ...


def test_registering_by_hand() -> None:
    """A function may be registered as it is and wrapped for another route, in any order."""
    app = FastAPI()

    async def handler() -> str:
        return place().name

    app.add_api_route("/raw", handler)
    app.add_api_route("/wrapped", offload(handler))
    app.get("/again")(offload(handler))

    @app.get("/first")
    async def first() -> str:
        return place().name

    @offload
    async def helper() -> str:
        return place().name

    second = offload(first)
    app.get("/second")(second)
    app.get("/helper")(helper)
    with TestClient(app) as client:
        found = [client.get(path).json() for path in ("/raw", "/wrapped", "/again", "/first", "/second", "/helper")]
    assert found == ["LOOP", "BRIDGED", "BRIDGED", "LOOP", "BRIDGED", "BRIDGED"]


def test_starlette() -> None:
    """Handlers of Starlette's own routes work as well, plain ones included."""

    @offload
    async def bridged(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{request.path_params['name']} {place().name}")

    @offload
    def plain(request: Any) -> PlainTextResponse:
        return PlainTextResponse(f"{request.path_params['name']} {place().name}")

    app = Starlette(routes=[Route("/bridged/{name}", bridged), Route("/plain/{name}", plain)])
    with TestClient(app) as client:
        assert client.get("/bridged/a").text == "a BRIDGED"
        assert client.get("/plain/b").text == "b THREAD"


# A real server


@needs("uvicorn")
@pytest.mark.parametrize("mode", ["bridge", "thread"])
def test_a_real_server(mysql: MySQL, database: dict[str, Any], mode: Any) -> None:
    """Ten requests wait in the database at once, and /health answers meanwhile."""
    lock = f"{database['database']}_lock"
    app = FastAPI()
    with pool_of(10, database) as pool:

        @app.get("/slow/{number}")
        @offload(mode=mode)
        async def slow(number: int) -> int:
            connection = pool.connection()
            cursor = connection.cursor()
            # A query of 0.2 s, behind a lock that lets the test hold all ten.
            cursor.execute("SELECT GET_LOCK(%s, %s), RELEASE_LOCK(%s)", (lock, PATIENCE, lock))
            cursor.close()
            connection.close()
            return number

        @app.get("/health")
        async def health() -> str:
            return "fine"

        def waiting() -> int:
            rows = mysql.process_list(database["database"])
            return sum("GET_LOCK" in str(row["INFO"]) for row in rows)

        with served(app) as address, mysql.connect() as holder, httpx.Client(base_url=address, timeout=60) as client:
            with holder.cursor() as cursor:
                cursor.execute("SELECT GET_LOCK(%s, 0)", (lock,))
                requests = [in_thread(partial(client.get, f"/slow/{number}")) for number in range(10)]
                until(lambda: waiting() == 10)
                assert client.get("/health").json() == "fine"
                assert waiting() == 10
                assert not any(request.done() for request in requests)
                assert pool.statistics().in_use == 10
                cursor.execute("SELECT RELEASE_LOCK(%s)", (lock,))
            assert [request.result(PATIENCE).json() for request in requests] == list(range(10))
        assert pool.statistics().in_use == 0
        assert pool.statistics().statements == 10
        assert pool.blocking_calls() == []
