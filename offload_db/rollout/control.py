"""Setting rules by call, and asking for what came of them.

Owns the functions of ``offload_db.rollout``. The rules are in ``rules.py``, the file's in ``rules_file.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..bridge import arms
from ..errors import ConfigurationError
from ..settings import shown
from .choice import choose
from .figures import MODES, Mode, RouteRollout
from .rules import RULES, make_rule
from .rules_file import watch_file
from .targets import Target

VARIABLE = "OFFLOAD_DB_ROLLOUT"


def set(target: str, mode: Mode, *, share: float = 1.0) -> None:  # noqa: A001  # as users write it: rollout.set(…)
    """Choose how the calls of a target run from the next request on.

    ``"offload"`` is what the rest of the library is about. ``"observe"`` lets a call run exactly as before it was
    decorated, its driver calls on the event loop's thread, and counts them as blocking calls, without a warning.
    ``"block"`` does the same, and says nothing at all. Lane and timeout of a decorator hold where a call is offloaded.

    Of the target's requests *share* run in *mode*, and the others in the other one: beside ``"offload"`` that is
    ``"observe"``, beside ``"observe"`` and ``"block"`` it is ``"offload"``. The choice is made at random, once for
    each request, where the first decorated function, route or middleware is entered; what that calls goes the same
    way. Of several targets that match, the most specific holds: the full name of a function, then that of a route,
    then those with ``*``, the longest first, then ``"*"``.

    :param target: ``"GET:/truck/{truck_id}"``, a method and a path's template as the framework has it; a function's
        full name, ``"module.function"``; either with ``*`` in place of anything, such as ``"GET:/v2/*"``; or ``"*"``
    :raises ConfigurationError: if an argument is not accepted. A target that matches nothing is told in the log
    """
    RULES.put(make_rule("rollout.set", target, mode, share, "call"))
    arms.choose = choose


def clear(target: str | None = None) -> None:
    """Take away the rules for a target, or all of them, whoever set them: what is not set is offloaded.

    What the file says is taken away until the file changes.

    :param target: as it was given to :func:`set`; None is all of them
    :raises ConfigurationError: if it is no target
    """
    RULES.remove(None if target is None else Target("rollout.clear", target))


def load(path: str | os.PathLike[str] | None) -> None:
    """Take rules from a TOML file, now and whenever it changes.

    It has a table for each target, named as :func:`set` takes it, with ``mode`` and, where that is not 1.0, ``share``.
    It is looked at once a second, in a thread. A file that is missing or wrong leaves the rules as they are: the log
    says so once, and :func:`watched_file` for as long. One without a rule has a comment at least; an empty one is
    taken for one that is being written.

    :param path: None takes the file's rules away, and looks no more
    :raises ConfigurationError: if it is no path; or on Python 3.10, if the extra ``rollout`` is not installed
    """
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"rollout.load: path={shown(path)}; accepted are paths of TOML files, and None")
    watch_file("rollout.load", None if path is None else os.fspath(path))
    arms.choose = choose


def watch_routes() -> None:
    """Count calls also where no rule is set, so that :func:`snapshot` has a row for each route and function."""
    RULES.watch()
    arms.choose = choose


def snapshot() -> tuple[RouteRollout, ...]:
    """Return the rules, the most specific first, and then the routes and functions that were called.

    A route or function has a row of its own unless a rule is for it alone. A rule's row has the figures of all calls
    that it was chosen for, so figures of both kinds of rows must not be added up.
    """
    return RULES.snapshot()


def from_environment(environ: Mapping[str, str]) -> None:
    """Set what ``OFFLOAD_DB_ROLLOUT`` says: a mode for everything, or the path of a TOML file.

    :raises ConfigurationError: if it says anything else
    """
    value = environ.get(VARIABLE, "").strip()
    if not value:
        return
    if value in MODES:
        RULES.put(make_rule(VARIABLE, "*", value, 1.0, "environment"))
    elif os.path.basename(value) != value or value.endswith(".toml"):
        watch_file(VARIABLE, value)
    else:
        *others, last = map(repr, MODES)
        accepted = f"{', '.join(others)}, {last}, and the path of a TOML file"
        raise ConfigurationError(f"{VARIABLE}={shown(value, MODES)}; accepted are {accepted}")
    arms.choose = choose
