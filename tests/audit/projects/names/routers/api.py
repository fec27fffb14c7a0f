import logging

from fastapi import APIRouter
from health import check
from routers.health import check as sibling

router = APIRouter()


@router.get("/health")
async def answer():
    logging.info("asked")
    sibling()
    return check()  # expect: ODB104
