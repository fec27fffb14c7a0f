"""SQLAlchemy's own dialect tests, run on the pool; `tests/contrib/test_sqlalchemy_suite.py` starts them."""
