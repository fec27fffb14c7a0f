"""The awaitable connection, cursor, transaction and stream."""
