from fastapi import FastAPI

import shop.api.routes
import shop.items

app = FastAPI()
app.include_router(shop.api.routes.router, prefix="/api")


@app.get("/memory")
async def memory():
    return len(shop.items.MemoryItemStore().all())
