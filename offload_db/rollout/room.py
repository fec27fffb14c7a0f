"""Waiting for connections before a call begins that runs as before.

Owns which pools and shared connections such a call waits for: on the loop's own thread it cannot wait for what tasks of
the same loop hold. In the old days no other call was under way there; now offloaded ones may have all connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

from ..bridge.weak_sets import members
from ..connection.call_lock import CallLock, shared_locks
from ..pool.checkout import PoolCore, every_pool
from .targets import Request

Used = PoolCore | CallLock

# Requests of which is remembered what they use; paths come from outside, and must not fill the memory.
_MOST = 4096
_known: dict[Request, tuple[weakref.ref[Used], ...]] = {}


async def wait_for_room(request: Request) -> list[Callable[[], None]]:
    """Wait until the connections are free for the loop's own thread that calls like this one have used.

    If nothing is known of such calls, it waits for every pool and every shared connection. It waits as long as for a
    connection: then the call begins, and may be refused.

    :return: what has to be called when the call is over
    """
    known = _known.get(request)
    used: Iterable[Used | None]
    used = (*every_pool(), *members(shared_locks)) if known is None else [reference() for reference in known]
    undo: list[Callable[[], None]] = []
    try:
        for one in used:
            if isinstance(one, CallLock):
                if one.owner is not None and await one.wait_for_loop():
                    undo.append(one.release)
            elif one is not None and one.admission.in_use >= one.admission.size:
                undo.append(one.admission.let_others)
                await one.wait_for_loop()
    except BaseException:
        for each in undo:
            each()
        raise
    return undo


def note_used(request: Request, used: set[Used]) -> None:
    """Note what a call has used."""
    known = _known.get(request)
    new = [one for one in used if known is None or not any(reference() is one for reference in known)]
    if known is not None and not new:
        return
    if len(_known) >= _MOST:
        _known.clear()
    alive = (reference for reference in known or () if reference() is not None)
    _known[request] = (*alive, *map(weakref.ref, new))
