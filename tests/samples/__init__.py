"""Backends as users write them, to be built with and without the decorator."""
