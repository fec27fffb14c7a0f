from fastapi import APIRouter

from . import api

router = APIRouter(prefix="/v1")
router.include_router(api.router)
