"""Claims about tasks, threads and the way between them."""
