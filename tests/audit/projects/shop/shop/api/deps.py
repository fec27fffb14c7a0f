from ..items import ItemService, SqlItemStore


def get_service() -> ItemService:
    return ItemService(SqlItemStore())


async def current_user():
    from shop.db import fetch

    return fetch("SELECT * FROM users WHERE id = %s", (1,))  # expect: ODB104
