"""One module for each framework; each imports its framework, so none is imported before it is asked for."""
