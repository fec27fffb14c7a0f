"""The awaitable surface: connections and cursors in the shape that aiomysql users know."""

from . import surface as surface
from .connection import AsyncConnection as AsyncConnection
from .cursors import AsyncCursor as AsyncCursor
from .pending import Pending as Pending
