from fastapi import APIRouter, Depends

from shop.db.queries import fetch

from . import deps
from .deps import get_service

router = APIRouter(prefix="/items")


@router.get("")
async def titles(service=Depends(get_service), user=Depends(deps.current_user)):
    return service.titles()  # expect: ODB104


@router.put("/{item_id}")
async def rename(item_id: int, title: str, service: "deps.ItemService" = Depends(get_service)):
    service.rename(item_id, title)  # expect: ODB104
    return service.store.first()  # expect: ODB104


@router.get("/raw")
async def raw():
    return fetch("SELECT id FROM items WHERE id = 1 LIMIT 1")  # expect: ODB104
