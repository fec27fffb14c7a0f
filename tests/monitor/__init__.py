"""Claims about what is seen at run time."""
