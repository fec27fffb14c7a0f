"""Measures offload_db beside its peers, all in one run."""
