"""Measures what the choice of a call's way costs: where nothing is set, where something else is, and with a share.

    python -m tests.benchmarks.rollout_cost [--loop asyncio|uvloop|trio]

Prints CPU per call of a decorated function that does nothing, as medians of rounds in which the contestants take turns.
Needs no server.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio

from offload_db import offload, rollout
from offload_db.bridge import arms

ROUNDS, CALLS = 31, 2000


@offload
async def decorated() -> None: ...


async def undecorated() -> None: ...


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Call the handler of a request, as an application does."""
    await decorated()


def nothing_looked_at() -> Callable[[], Awaitable[Any]]:
    """Return what has the decorated function not even look whether something is set, as before there was a rollout."""
    closure = dict(zip(decorated.__code__.co_freevars, decorated.__closure__ or (), strict=True))
    run, function = closure["run"].cell_contents, closure["function"].cell_contents

    async def offloaded(*args: Any, **kwargs: Any) -> Any:
        return await run(function, args, kwargs)

    return offloaded


REQUEST = {
    "type": "http",
    "method": "GET",
    "path": "/truck/17",
    "path_params": {"truck_id": "17"},
    "endpoint": decorated,
}


async def measure() -> None:
    """Take turns, and print."""
    taken: dict[str, list[float]] = {}
    name = f"{__name__}.decorated"
    contestants: tuple[tuple[str, Any, Callable[[], None]], ...] = (
        ("undecorated", undecorated, rollout.clear),
        ("nothing is set, and nobody looks", nothing_looked_at(), rollout.clear),
        ("nothing was ever set", decorated, forget),
        ("nothing is set any more", decorated, rollout.clear),
        ("something else is set", decorated, partial(rollout.set, "app.other", "block")),
        ("half of them, outside of requests", decorated, partial(rollout.set, name, "offload", share=0.5)),
        ("block, outside of requests", decorated, partial(rollout.set, name, "block")),
        ("no request's", partial(app, REQUEST, None, None), rollout.clear),
        ("half of a route's", request, partial(rollout.set, "GET:/truck/{truck_id}", "offload", share=0.5)),
        ("half of ten routes'", request, ten_rules),
        ("block, of a route's", request, partial(rollout.set, "GET:/truck/{truck_id}", "block")),
    )
    for _ in range(ROUNDS):
        for title, function, prepare in contestants:
            rollout.clear()
            rollout.set("*", "offload")  # from here on there is something that chooses
            rollout.clear()
            prepare()
            began = time.process_time()
            for _ in range(CALLS):
                await function()
            taken.setdefault(title, []).append((time.process_time() - began) / CALLS)
    rollout.clear()
    print(f"one call of a function that does nothing, median of {ROUNDS} rounds of {CALLS}")
    for title, seconds in taken.items():
        print(f"  {title:<36} {statistics.median(seconds) * 1e6:7.2f} µs")


async def request() -> None:
    """Serve one request."""
    await app(dict(REQUEST), None, None)


def forget() -> None:
    """Be as before anything was set."""
    arms.choose = None


def ten_rules() -> None:
    """Set as many rules as a rollout may have."""
    for number in range(9):
        rollout.set(f"GET:/other/{number}", "block")
    rollout.set("GET:/truck/{truck_id}", "offload", share=0.5)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rollout_cost", description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    loop = parser.parse_args().loop
    options: dict[str, Any] = {"use_uvloop": True} if loop == "uvloop" else {}
    print(loop)
    logging.getLogger("offload_db.rollout").setLevel(logging.ERROR)  # which rules match nothing
    anyio.run(measure, backend="trio" if loop == "trio" else "asyncio", backend_options=options)


if __name__ == "__main__":
    main()
