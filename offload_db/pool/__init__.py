"""Many connections, shared."""
