"""Waiting for a connection before a call begins that runs as before.

Owns which pools such a call waits for: on the loop's own thread it cannot wait for what tasks of the same loop hold. In
the old days no other call was under way there; now offloaded ones may have all connections.
"""

from __future__ import annotations

import weakref

from ..pool.checkout import PoolCore, every_pool
from .targets import Request

# Requests of which the pools are remembered; paths come from outside, and must not fill the memory.
_MOST = 4096
_pools: dict[Request, tuple[weakref.ref[PoolCore], ...]] = {}


async def wait_for_room(request: Request) -> list[PoolCore]:
    """Wait until the pools have a connection for the loop's own thread that calls like this one have used.

    It waits as long as for a connection, for any pool if nothing is known of such calls.

    :return: those that were waited for, whose ``admission.let_others`` has to be called when the call is over
    """
    known = _pools.get(request)
    pools = every_pool() if known is None else [pool for reference in known if (pool := reference()) is not None]
    return [
        pool for pool in pools if pool.admission.in_use >= pool.admission.size and await pool.admission.wait_for_loop()
    ]


def note_pools(request: Request, pools: set[PoolCore]) -> None:
    """Note which pools a call has used."""
    known = _pools.get(request)
    if known is not None and all(any(reference() is pool for reference in known) for pool in pools):
        return
    if len(_pools) >= _MOST:
        _pools.clear()
    _pools[request] = (*(known or ()), *map(weakref.ref, pools))
