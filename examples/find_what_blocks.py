"""Find what still blocks: warnings while you migrate, an exact list at any time, and errors when you are done.

Shows the three settings of ``on_loop_call`` on a handler that nobody has decorated yet.

Run it with ``python -m examples.find_what_blocks`` in the directory of the clone.
"""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path

import offload_db
from examples.support.mariadb import server


def load_settings(pool: offload_db.OffloadPool) -> None:
    """A helper that some forgotten handler uses."""
    with pool.connection() as conn, conn.cursor() as cursor:
        for _ in range(3):
            cursor.execute("SELECT SLEEP(0.05)")


async def forgotten(pool: offload_db.OffloadPool) -> None:
    load_settings(pool)


def main() -> None:
    with server() as endpoint:
        # create() makes the PooledDB, too; on_loop_call="warn" is the default.
        warning_pool = offload_db.OffloadPool.create(**endpoint.settings())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            asyncio.run(forgotten(warning_pool))
        print(f'on_loop_call="warn": it ran, with {len(caught)} warnings, one per line of source:')
        for warning in caught:
            print(f"  {warning.category.__name__}: {warning.message}")

        print("pool.blocking_calls(), the costliest first:")
        for call in warning_pool.blocking_calls():
            where = f"{Path(call.file).name}:{call.line} {call.function}"
            print(f"  {where}: {call.call}() stopped the loop for {1000 * call.seconds:.0f} ms in {call.count} calls")

        strict_pool = offload_db.OffloadPool.create(on_loop_call="raise", **endpoint.settings())
        try:
            asyncio.run(forgotten(strict_pool))
        except offload_db.BlockingCallError as error:
            print(f'on_loop_call="raise", for tests: nothing was sent:\n  BlockingCallError: {error}')

        silent_pool = offload_db.OffloadPool.create(on_loop_call="allow", **endpoint.settings())
        asyncio.run(forgotten(silent_pool))
        print(f'on_loop_call="allow": silent, but counted: {silent_pool.statistics().blocking_calls} calls')

        for pool in (warning_pool, strict_pool, silent_pool):
            pool.close()


if __name__ == "__main__":
    main()
