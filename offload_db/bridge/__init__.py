"""Tasks, threads and the way between them; knows no database."""
