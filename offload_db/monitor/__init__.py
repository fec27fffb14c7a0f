"""The run-time audit: who blocks the event loop, for how long, and how late the loop is."""

from .lag import LoopLag as LoopLag, Watch as Watch
from .observe import Observation as Observation, observe_pymysql as observe_pymysql
from .runtime import (
    FORMAT as FORMAT,
    RequestScope as RequestScope,
    dump as dump,
    report as report,
    snapshot as snapshot,
    watch as watch,
)
