"""Claims about the library beside frameworks and other libraries."""
