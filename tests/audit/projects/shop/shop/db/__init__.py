from .pool import connection, transaction
from .queries import *

__all__ = ["connection", "transaction", "ALL_ITEMS", "fetch"]
