"""Locks held across database calls."""
import asyncio
import threading
from threading import RLock

import offload_db

pool = offload_db.OffloadPool.from_env()
lock = threading.Lock()
other = asyncio.Lock()


class Cache:
    def __init__(self):
        self._lock = RLock()

    def get(self, key):
        with self._lock:  # expect: ODB301
            return load(key)

    def peek(self, key):
        with self._lock:
            return key

    def only_scripts(self, key):
        with lock:
            return load(key)


cache = Cache()


def load(key):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1 FROM t WHERE k = %s", key)
        return cursor.fetchone()


@offload_db.offload
async def in_a_bridge():
    with lock:  # expect: ODB301
        return load("x")


@offload_db.offload
async def acquired():
    lock.acquire()  # expect: ODB301
    try:
        load("x")
    finally:
        lock.release()
    return load("y")


@offload_db.offload
async def through_helper():
    return cache.get("x")


@offload_db.offload
async def released_before():
    with lock:
        key = "x"
    async with other:
        load("x")
    return load(key), cache.peek(key)


@offload_db.offload(mode="thread")
async def in_a_thread():
    with lock:
        return load("x")


def script():
    cache.only_scripts("x")
