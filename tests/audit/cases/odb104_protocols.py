"""Objects whose own methods Python calls: iterators, and instances that are handlers."""
import pymysql
from fastapi import FastAPI

app = FastAPI()


class Rows:
    def __init__(self, cursor):
        self.cursor = cursor

    def __iter__(self):
        return self

    def __next__(self):
        row = self.cursor.fetchone()
        if row is None:
            raise StopIteration
        return row


class Handler:
    def __init__(self):
        self.conn = pymysql.connect(host="db")

    async def __call__(self, request):
        for row in Rows(self.conn.cursor()):  # expect: ODB103 ODB104
            print(row)
        return next(Rows(None))  # expect: ODB104


app.add_api_route("/rows", Handler())
