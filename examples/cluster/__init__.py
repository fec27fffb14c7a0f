"""A Galera cluster of three nodes behind HAProxy, all on loopback, and what happens when a node goes."""
