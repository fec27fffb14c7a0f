"""Owns what tests of the monitor look at behind the public names."""

from __future__ import annotations

import pytest

from offload_db.monitor import observe, watch_command

OBSERVED = observe._OBSERVED
"""The methods of PyMySQL that the observation stands above: their class and name."""


def waits_for(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Have `offload-db watch` wait for an answer for fewer seconds."""
    patch.setattr(watch_command, "_SECONDS", seconds)
