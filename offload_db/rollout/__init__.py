"""Roll out route by route: which calls are offloaded, and which run as they did before."""

import os as _os

from .control import (
    clear as clear,
    from_environment as _from_environment,
    load as load,
    set as set,  # noqa: A004
    snapshot as snapshot,
    watch_routes as watch_routes,
)
from .figures import Arm as Arm, Mode as Mode, RouteRollout as RouteRollout
from .guarding import Guard as Guard, guard as guard
from .rules_file import RulesFile as RulesFile, watched_file as watched_file

_from_environment(_os.environ)
