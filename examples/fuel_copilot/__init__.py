"""The audited backend: as it was (`legacy/`), its data (`generate`), and the lines that free it (`steps`)."""
