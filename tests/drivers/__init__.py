"""Claims about what differs between database drivers."""
