"""Claims about many connections, shared."""
