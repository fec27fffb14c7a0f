"""Handlers and formatters that query: logging calls them under the handler's lock."""
import logging
import logging.handlers as log_handlers
import queue
from logging import Handler as Base
from logging.handlers import BufferingHandler, QueueHandler

import offload_db

pool = offload_db.OffloadPool.from_env()


def save(text):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO log (text) VALUES (%s)", text)
        conn.commit()


class Direct(logging.Handler):
    def emit(self, record):  # expect: ODB301
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("INSERT INTO log (text) VALUES (%s)", self.format(record))


class Aliased(Base):
    def __init__(self):
        super().__init__()
        self.table = "log"

    def emit(self, record):  # expect: ODB301
        self._write(record)

    def _write(self, record):
        save(record.getMessage())


class Below(Aliased):
    def _write(self, record):
        save("below")


class Mixin:
    def emit(self, record):  # expect: ODB301
        save("mixed in")


class Mixed(Mixin, log_handlers.RotatingFileHandler):
    pass


class Buffered(BufferingHandler):
    def flush(self):  # expect: ODB301
        for record in self.buffer:
            save(record.getMessage())


class Formats(logging.Formatter):
    def formatTime(self, record, datefmt=None):  # expect: ODB301
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT now()")
            return str(cursor.fetchone())


class Queued(QueueHandler):
    """What is behind the queue may query: a thread of its own calls it."""

    def __init__(self):
        super().__init__(queue.Queue())
        self.listener = log_handlers.QueueListener(self.queue, Direct())


class NoDatabase(logging.Handler):
    def emit(self, record):
        print(self.format(record))

    def flush(self):
        save("nobody calls this under the lock")


class WithoutLock(logging.Handler):
    def createLock(self):
        self.lock = None

    def emit(self, record):
        save(record.getMessage())


class NoHandler:
    def emit(self, record):
        save("of an event emitter")


@offload_db.offload
async def handler():
    logging.getLogger().warning("a handler of logging's may query now")
