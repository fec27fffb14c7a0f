"""Roll out route by route: which calls are offloaded, and which run as they did before."""

from .control import clear as clear, set as set, snapshot as snapshot, watch_routes as watch_routes  # noqa: A004
from .figures import Arm as Arm, Mode as Mode, RouteRollout as RouteRollout
