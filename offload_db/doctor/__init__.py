"""What will go wrong with these settings on this server."""
