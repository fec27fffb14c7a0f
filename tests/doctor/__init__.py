"""Claims about what the doctor finds."""
