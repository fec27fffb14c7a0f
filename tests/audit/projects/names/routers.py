"""Python takes the package of this name."""
router = None
