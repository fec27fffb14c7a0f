"""One connection, whoever holds it."""
