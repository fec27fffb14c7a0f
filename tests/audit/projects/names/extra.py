from fastapi import APIRouter

import health

router = APIRouter()


@router.get("/more")
async def more():
    return health.check()  # expect: ODB104
