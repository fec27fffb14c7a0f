from .base import CRUDBase
from app import models
class CRUDUser(CRUDBase[models.User]):
    def by_email(self, db, email):
        return db.query(self.model).filter_by(email=email).one_or_none()
user = CRUDUser(models.User)
