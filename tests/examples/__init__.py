"""Tests of the examples: what a user is shown must work."""
