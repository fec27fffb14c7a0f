"""Owns what tests of the monitor look at behind the public names."""

from __future__ import annotations

from offload_db.monitor import observe

OBSERVED = observe._OBSERVED
"""The methods of PyMySQL that the observation stands above: their class and name."""
