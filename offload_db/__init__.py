"""Free an async web backend that is stuck on blocking PyMySQL, without rewriting its handlers."""

from . import queries as queries
from .aio import AsyncConnection as AsyncConnection, AsyncCursor as AsyncCursor
from .connection import OffloadConnection as OffloadConnection
from .cursor import OffloadCursor as OffloadCursor
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
from .handlers import blocking as blocking, offload as offload
from .lanes import Lane as Lane
from .pool import OffloadPool as OffloadPool
from .statistics import (
    BlockingCall as BlockingCall,
    Histogram as Histogram,
    LaneStatistics as LaneStatistics,
    PoolStatistics as PoolStatistics,
)
from .unpooled import connect as connect

__version__ = "0.1.0"
