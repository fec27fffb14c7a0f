from typing import Generic, TypeVar, Type, Any
from sqlalchemy.orm import Session
ModelType = TypeVar("ModelType")
class CRUDBase(Generic[ModelType]):
    def __init__(self, model: Type[ModelType]):
        self.model = model
    def get(self, db: Session, id: Any):
        return db.query(self.model).filter(self.model.id == id).first()
    def create(self, db: Session, *, obj_in):
        o = self.model(**obj_in)
        db.add(o)
        db.commit()
        db.refresh(o)
        return o
