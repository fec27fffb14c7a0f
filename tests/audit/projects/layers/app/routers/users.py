from fastapi import APIRouter, Depends
from app import crud, deps
from app.crud.user import user as user_crud
from app.core import db as database
from app.core.db import db, get_db, DB
import app.core.db
router = APIRouter(prefix="/users", tags=["users"])

@router.get("/{id}")
async def read_user(id: int, session=Depends(deps.get_session)):
    return user_crud.get(session, id)  # expect: ODB104

@router.get("/by/{email}")
async def by_email(email, session=Depends(deps.get_session)):
    return user_crud.by_email(session, email)  # expect: ODB104

@router.get("/a")
async def a():
    return db.fetch_one("SELECT 1")  # expect: ODB104

@router.get("/b")
async def b():
    rows = database.db.fetch_all("SELECT * FROM t")  # expect: ODB104
    return [r["x"] for r in rows]

@router.get("/c")
async def c(conn=Depends(get_db)):
    with conn.cursor() as cur:  # expect: ODB103
        cur.execute("SELECT 1")  # expect: ODB101
        while True:
            row = cur.fetchone()  # expect: ODB103
            if not row: break
    conn.commit()  # expect: ODB103

@router.get("/d")
async def d():
    with DB() as x:  # expect: ODB104
        return x.q("SELECT 1")  # expect: ODB104

@router.get("/e")
async def e():
    x = DB()
    x.connect()  # expect: ODB104
    cur = x.conn.cursor()  # expect: ODB103
    cur.execute("SELECT 1")  # expect: ODB101
    try:
        [cur.execute("x", (i,)) for i in range(3)]  # expect: ODB101
    except Exception as exc:
        x.conn.rollback()  # expect: ODB103

@router.websocket("/ws")
async def ws(websocket):
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_json(db.fetch_all("SELECT * FROM t"))  # expect: ODB104

@router.get("/g")
async def gen():
    from fastapi.responses import StreamingResponse
    async def body():
        for row in db.fetch_all("SELECT * FROM big"):  # expect: ODB104
            yield str(row)
    return StreamingResponse(body())

@router.get("/h")
async def h():
    if (r := db.fetch_one("SELECT 1")) is not None:  # expect: ODB104
        return r
    return app.core.db.db.fetch_one("SELECT 2")  # expect: ODB104

class Svc:
    db = db
    @staticmethod
    async def run(x):
        return Svc.db.fetch_all(x)  # expect: ODB104
    @classmethod
    async def run2(cls):
        return cls.db.fetch_all("x")  # expect: ODB104
    async def run3(self):
        return self.db.fetch_one("x")  # expect: ODB104

@router.get("/i")
async def i():
    await Svc.run("x")
    return await Svc().run3()

def plain():
    return db.fetch_all("SELECT 1")

@router.get("/j")
async def j(rows=Depends(plain)):
    return rows

@router.post("/k")
async def k(ids: list[int]):
    import asyncio
    loop = asyncio.get_event_loop()
    await loop.run_in_executor(None, lambda: db.fetch_all("x"))
    await loop.run_in_executor(None, plain)
    f = [loop.run_in_executor(None, db.fetch_one, "x") for i in ids]
    await asyncio.gather(*f)
    t = asyncio.create_task(asyncio.to_thread(plain))
    await t
    def work():
        return plain()
    return await asyncio.to_thread(work)
