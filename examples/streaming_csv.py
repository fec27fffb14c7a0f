"""A CSV download of 50,000 rows that holds no more than some chunks of them, under FastAPI and uvicorn.

The second client goes away after some lines: the statement ends on the server, and the connection is free again.

Run it with ``python -m examples.streaming_csv`` in the directory of the clone; it needs the extra ``examples``.
"""

from __future__ import annotations

import asyncio
import csv
import io
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import offload_db
from examples.support.mariadb import server

# Numbered rows without a table, on MariaDB and MySQL.
NUMBERS = "JSON_TABLE(CONCAT('[', REPEAT('0,', 49999), '0]'), '$[*]' COLUMNS (number FOR ORDINALITY)) AS numbers"
QUERY = f"SELECT number AS truck_id, CONCAT('truck ', number) AS name FROM {NUMBERS}"


def make_app(pool: offload_db.OffloadPool) -> FastAPI:
    app = FastAPI()

    async def lines() -> AsyncIterator[str]:
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(["truck_id", "name"])
        # aclosing: when the client has gone, the connection is given back right here and not some time later.
        async with aclosing(pool.stream(QUERY)) as rows:
            async for row in rows:
                writer.writerow(row)
                if buffer.tell() > 16_000:
                    yield buffer.getvalue()
                    buffer.seek(0)
                    buffer.truncate()
        yield buffer.getvalue()

    @app.get("/trucks.csv")
    async def trucks() -> StreamingResponse:
        return StreamingResponse(lines(), media_type="text/csv")

    return app


async def run(pool: offload_db.OffloadPool) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    backend = uvicorn.Server(uvicorn.Config(make_app(pool), log_level="warning"))
    serving = asyncio.create_task(backend.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/trucks.csv"
    try:
        while not backend.started:  # noqa: ASYNC110  # uvicorn signals nobody
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as client:
            whole = (await client.get(url)).text.splitlines()
            print(f"downloaded {len(whole)} lines, the last is {whole[-1]!r}")
            async with client.stream("GET", url) as response:
                async for line in response.aiter_lines():
                    if line.startswith("10,"):
                        print(f"another client leaves after {line!r}")
                        break
        while pool.statistics().in_use:  # noqa: ASYNC110  # nor does the pool
            await asyncio.sleep(0.01)
        print(f"connections still in use: {pool.statistics().in_use}")
    finally:
        backend.should_exit = True
        await serving
        listener.close()
        await pool.aclose()


def main() -> None:
    with server() as endpoint:
        asyncio.run(run(offload_db.OffloadPool.create(min_size=0, max_size=2, autocommit=True, **endpoint.settings())))


if __name__ == "__main__":
    main()
