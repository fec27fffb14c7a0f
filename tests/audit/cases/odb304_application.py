"""A connection that is kept in an application of a class of its own."""
import pymysql
from fastapi import FastAPI

app = FastAPI()


class Application(FastAPI):
    def __init__(self):
        super().__init__()
        self.conn = pymysql.connect(host="db")  # expect: ODB304


@app.get("/application")
async def of_application(request):
    request.app.conn.ping()  # expect: ODB103
