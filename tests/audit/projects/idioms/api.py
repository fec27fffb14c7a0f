import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from asgiref.sync import sync_to_async
from fastapi import FastAPI, Depends, Request, BackgroundTasks
import core
from core import SessionDep, Repo, Child, tenant_pool, connect_with_retry, make_query
import offload_db
from offload_db import queries
import pymysql
from company import get_conn
app = FastAPI()
ex = ThreadPoolExecutor()

@app.get("/1")
async def h1(s: SessionDep):
    return s.exec("x").all()  # expect: ODB105

@app.get("/2")
async def h2(repo: Repo = Depends(Repo)):
    return repo.all()  # expect: ODB104

@app.get("/2b")
async def h2b(repo: Repo = Depends()):
    return repo.all()  # expect: ODB104

@app.get("/3")
async def h3():
    conn = connect_with_retry()  # expect: ODB104
    return Child(conn).run("SELECT 1")  # expect: ODB104

@app.get("/4")
async def h4(t: str):
    with tenant_pool(t).connection() as c, c.cursor() as cur:  # expect: ODB102 ODB103 ODB104
        cur.execute("SELECT 1")  # expect: ODB101

@app.get("/5")
async def h5(t: str):
    conn = tenant_pool(t).connection()  # expect: ODB102 ODB104
    q = make_query(conn)
    try:
        return q("SELECT 1")  # expect: ODB104
    finally:
        conn.close()  # expect: ODB103

@app.get("/6")
async def h6(request: Request):
    with request.app.state.db.connection() as c:  # expect: ODB102
        c.ping()  # expect: ODB103

@app.get("/7")
async def h7(conn=Depends(get_conn)):
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")  # expect: ODB101
        return cursor.fetchall()  # expect: ODB103

@app.get("/8")
async def h8():
    with ExitStack() as stack:
        conn = stack.enter_context(tenant_pool("x").connection())  # expect: ODB102 ODB104
        cur = stack.enter_context(conn.cursor())  # expect: ODB103
        cur.execute("x")  # expect: ODB101

@app.get("/9")
async def h9():
    conn = await asyncio.to_thread(connect_with_retry)
    with conn:
        conn.ping()  # expect: ODB103

@app.get("/10")
async def h10(bg: BackgroundTasks):
    def work(): return connect_with_retry().ping()
    threading.Thread(target=work).start()
    ex.submit(work)
    bg.add_task(work)
    await sync_to_async(work)()
    await queries.execute_query("SELECT 1")
    wrapped = sync_to_async(work)
    return await wrapped()

@sync_to_async
def dec():
    return connect_with_retry().ping()

@app.get("/11")
async def h11():
    await dec()
    pool = offload_db.OffloadPool.from_env()
    conn = await pool.acquire()
    cursor = await conn.cursor()
    await cursor.execute("x")
    pool.release(conn)
    async with pool.acquire() as conn2:
        async with conn2.cursor() as cur2:
            await cur2.execute("x")
    async for row in pool.stream("x"):
        pass

class Executor:
    def execute(self, x): return x
    def fetchall(self): return []
    def commit(self): pass

class Holder:
    def __init__(self):
        self.cursor = Executor()
        self.session = Executor()
        self.conn = Executor()

@app.get("/12")
async def h12(h: Holder = Depends(Holder)):
    h.cursor.execute("SELECT 1"); h.session.commit(); h.conn.commit()
    with ThreadPoolExecutor() as pool:
        pool.submit(h12)
    engine = object()
    return engine

@app.get("/13")
async def h13(x=1):
    async def inner():
        return tenant_pool("x").connection()  # expect: ODB102 ODB104
    return await inner()

def sync_main():
    asyncio.run(script())

async def script():
    tenant_pool("a").connection().close()  # expect: ODB102 ODB103 ODB104

@app.get("/14")
def d14():
    return connect_with_retry()

@app.get("/15")
async def h15():
    return d14()  # expect: ODB104

async def agen():
    conn = pymysql.connect()  # expect: ODB102
    try:
        yield conn
    finally:
        conn.close()  # expect: ODB103

@app.get("/16")
async def h16(c=Depends(agen)):
    c.ping()  # expect: ODB103
