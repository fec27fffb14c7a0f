"""Measurements, and tests of what can be counted."""
