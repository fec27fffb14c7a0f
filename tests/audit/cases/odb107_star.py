"""peewee, with all of its names imported."""
from peewee import *

db = MySQLDatabase("fleet")


class Truck(Model):
    name = CharField()


async def trucks():
    Truck.create(name="x")  # expect: ODB107
    return [truck.name for truck in Truck.select()]  # expect: ODB107
