"""A helper that may be one of several: the chain does not depend on the order in which they are looked at."""
import pymysql


class First:
    def query(self):
        return pymysql.connect(host="db").cursor().execute("SELECT 1")


class Second:
    def query(self):
        return First().query()


class Third(First):
    def query(self):
        return super().query()


async def handler(wanted):
    for one in [Third(), Second(), First()]:
        one.query()  # expect: ODB104
