"""The tests; they mirror the files of the library."""
