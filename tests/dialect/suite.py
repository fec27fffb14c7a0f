"""SQLAlchemy's own dialect tests, as they are."""

from sqlalchemy.testing.suite import *  # noqa: F403  # these are the tests
