"""peewee models and databases."""
from peewee import CharField, Model, MySQLDatabase
from playhouse.pool import PooledMySQLDatabase

db = PooledMySQLDatabase("fleet")
other = MySQLDatabase("fleet")


class BaseModel(Model):
    class Meta:
        database = db


class Truck(BaseModel):
    name = CharField()


async def use_peewee():
    db.connect()  # expect: ODB107
    Truck.create(name="x")  # expect: ODB107
    truck = Truck.get_or_none(Truck.name == "x")  # expect: ODB107
    query = Truck.select().where(Truck.name == "x").order_by(Truck.name)
    for one in query:  # expect: ODB107
        one.save()  # expect: ODB107
    rows = list(Truck.select().dicts())  # expect: ODB107
    Truck.update(name="y").where(Truck.name == "x").execute()  # expect: ODB107
    Truck(name="z").save()  # expect: ODB107
    with db.atomic():  # expect: ODB107
        other.execute_sql("SELECT 1")  # expect: ODB107
    db.close()  # expect: ODB107
    return rows, truck


async def only_builds():
    return Truck.select().where(Truck.name == "x"), Truck(name="x")
