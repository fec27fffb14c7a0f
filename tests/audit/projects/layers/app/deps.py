from typing import Generator
from app.core.session import SessionLocal
def get_session() -> Generator:
    try:
        db = SessionLocal()
        yield db
    finally:
        db.close()
