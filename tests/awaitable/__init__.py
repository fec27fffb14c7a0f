"""Claims about the awaitable connection, cursor, transaction and stream."""
