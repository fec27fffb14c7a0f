"""Free an async web backend that is stuck on blocking PyMySQL, without rewriting its handlers."""

from . import queries as queries, rollout as rollout
from .aio import AsyncConnection as AsyncConnection, AsyncCursor as AsyncCursor
from .bridge.decorator import blocking as blocking, offload as offload
from .connection.sync_connection import OffloadConnection as OffloadConnection
from .connection.sync_cursor import OffloadCursor as OffloadCursor
from .connection.unpooled import connect as connect
from .errors import (
    BlockingCallError as BlockingCallError,
    BlockingCallWarning as BlockingCallWarning,
    BridgeError as BridgeError,
    CallCancelled as CallCancelled,
    CheckoutTimeout as CheckoutTimeout,
    ConfigurationError as ConfigurationError,
    ConnectionClosed as ConnectionClosed,
    ConnectionLost as ConnectionLost,
    LaneFull as LaneFull,
    OffloadError as OffloadError,
    PoolClosed as PoolClosed,
    StatementTimeout as StatementTimeout,
    ThreadUnavailable as ThreadUnavailable,
)
from .pool.lanes import Lane as Lane
from .pool.pool import OffloadPool as OffloadPool
from .statistics import (
    BlockingCall as BlockingCall,
    Histogram as Histogram,
    LaneStatistics as LaneStatistics,
    PoolStatistics as PoolStatistics,
)

__version__ = "0.1.0"
