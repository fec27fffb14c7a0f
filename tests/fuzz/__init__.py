"""Differential fuzzing: the same bytes for PyMySQL's reader and for the faster one."""
