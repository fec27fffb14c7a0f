"""A change of the rollout that somebody makes on the live page.

Owns reading it. What is accepted is ``offload_db.rollout``'s; who may is ``page.py``'s.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from ... import ConfigurationError, rollout
from ...settings import kind_of

logger = logging.getLogger("offload_db")


def apply(body: bytes) -> str:
    """Make the change that a request asks for; return what was done.

    :param body: a JSON object with ``target``, ``mode`` and, if it is not 1, ``share``; or ``target`` and
        ``"clear": true``
    :raises ConfigurationError: if it is none, or one of them is not accepted
    """
    try:
        asked: Any = json.loads(body)
    except ValueError:
        asked = None
    if not isinstance(asked, dict) or not isinstance(asked.get("target"), str):
        raise ConfigurationError("accepted is a JSON object with target and mode, or target and clear")
    target = asked["target"]
    if asked.get("clear") is True:
        rollout.clear(target)
        done = f"{target}: nothing is set any more"
    else:
        share = asked.get("share", 1.0)
        if not isinstance(share, (int, float)) or isinstance(share, bool):
            raise ConfigurationError(f"share={kind_of(share)}; accepted are numbers from 0.0 to 1.0")
        mode: Any = asked.get("mode")
        rollout.set(target, mode, share=share)
        done = f"{target}: {mode}, {share:.4g} of the requests"
    logger.info("the live page has changed the rollout: %s", done)
    return done
