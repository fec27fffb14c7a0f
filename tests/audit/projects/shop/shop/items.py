"""The items' repository and service. This directory's api/ is no package: it has no __init__.py."""
from abc import ABC, abstractmethod

import shop.db as db
from shop.db import ALL_ITEMS


class ItemStore(ABC):
    @abstractmethod
    def all(self): ...

    def first(self):
        return self.all()[0]


class SqlItemStore(ItemStore):
    def all(self):
        return db.fetch(ALL_ITEMS)


class MemoryItemStore(ItemStore):
    def all(self):
        return [1]


class ItemService:
    def __init__(self, store: ItemStore):
        self.store = store

    def titles(self):
        return [item["title"] for item in self.store.all()]

    def rename(self, item_id, title):
        with db.transaction() as conn, conn.cursor() as cursor:
            cursor.execute("UPDATE items SET title = %s WHERE id = %s", (title, item_id))
