"""Claims about one connection, whoever holds it."""
