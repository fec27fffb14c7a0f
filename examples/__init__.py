"""Runnable examples: the legacy backend, the steps that free it, and one small script per feature."""
