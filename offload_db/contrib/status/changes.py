"""A change of the rollout that somebody makes on the live page.

Owns reading it, and making it. What is accepted is ``offload_db.rollout``'s; who may is ``page.py``'s, and how the
other processes come to know of it is ``shared.py``'s.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from ... import ConfigurationError, rollout
from ...settings import kind_of

logger = logging.getLogger("offload_db")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be set.

    :param mode: None takes away what is set for the target
    """

    target: str
    mode: Any
    share: float

    @classmethod
    def read(cls, text: bytes) -> Change:
        """Read a JSON object with ``target``, ``mode`` and, if it is not 1, ``share``; a mode of null clears.

        :raises ConfigurationError: if it is none
        """
        try:
            asked: Any = json.loads(text)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict) or not isinstance(asked.get("target"), str) or "mode" not in asked:
            raise ConfigurationError("a change: accepted is a JSON object with target, mode and share")
        share = asked.get("share", 1.0)
        if not isinstance(share, (int, float)) or isinstance(share, bool):
            raise ConfigurationError(f"share={kind_of(share)}; accepted are numbers from 0.0 to 1.0")
        return cls(asked["target"], asked["mode"], share)

    def make(self) -> str:
        """Make the change in this process; return what was done.

        :raises ConfigurationError: if the target, the mode or the share is not accepted
        """
        if self.mode is None:
            rollout.clear(self.target)
            done = f"{self.target}: nothing is set any more"
        else:
            rollout.set(self.target, self.mode, share=self.share)
            done = f"{self.target}: {self.mode}, {self.share * 100:.4g} % of the requests"
        logger.info("the rollout was changed on the live page: %s", done)
        return done
