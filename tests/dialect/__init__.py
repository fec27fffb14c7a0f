"""SQLAlchemy's own dialect tests, run on the pool; `tests/test_contrib_sqlalchemy_suite.py` starts them."""
