"""Claims about what is offloaded, call by call, and what runs as it did before."""
