"""The newer way to say what a parameter is, with annotations that are strings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Header, Path, Query
from pydantic import BaseModel


class Truck(BaseModel):
    """A body."""

    name: str


async def lent() -> AsyncIterator[str]:
    """Lend something."""
    yield "lent"


def build(decorate: Callable[[Any], Any]) -> FastAPI:
    """Make the backend with *decorate* on its handlers."""
    app = FastAPI(title="annotated")

    @app.post("/trucks/{number}")
    @decorate
    async def create(
        number: Annotated[int, Path(ge=1)],
        truck: Annotated[Truck, Body(embed=True)],
        value: Annotated[str, Depends(lent)],
        limit: Annotated[int, Query(le=10)] = 5,
        x_tag: Annotated[str | None, Header()] = None,
    ) -> dict[str, Any]:
        """Create a truck."""
        return {"number": number, "truck": truck, "value": value, "limit": limit, "tag": x_tag}

    @app.get("/plain")
    @decorate
    def plain(ids: Annotated[list[int], Query()]) -> list[int]:
        return ids

    return app
