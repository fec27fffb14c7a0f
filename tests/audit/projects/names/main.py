"""Names are found as Python finds them from here: the root's module, not the sibling; the package, not the module."""
from fastapi import FastAPI

import routers
from jobs import clean

try:
    from names_app.extra import router as extra
except ImportError:
    try:
        from extra import router as extra
    except ImportError:
        extra = None

app = FastAPI()
app.include_router(routers.router)
if extra is not None:
    app.include_router(extra, prefix="/extra")


@app.post("/clean")
async def run():
    return clean.clean()  # expect: ODB104
