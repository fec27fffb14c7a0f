"""Connections that a bot's framework gives to its handlers."""
import pymysql
from aiogram import Bot, Dispatcher, Router
from discord.ext import commands

router = Router()
dp = Dispatcher(reports=pymysql.connect(host="db"))
dp["db"] = pymysql.connect(host="db")  # expect: ODB304
dp.workflow_data["other"] = pymysql.connect(host="db")


@router.message()
async def start(message, db, text):
    db.commit()  # expect: ODB103
    text.commit()


@dp.callback_query()
async def press(query, reports, other, polled):
    reports.commit()  # expect: ODB103
    other.commit()  # expect: ODB103
    polled.commit()  # expect: ODB103
    dp["db"].commit()  # expect: ODB103


async def main():
    dp.include_router(router)
    await dp.start_polling(Bot(), polled=pymysql.connect(host="db"))  # expect: ODB102


class Fleet(commands.Bot):
    async def setup_hook(self):
        self.db = pymysql.connect(host="db")  # expect: ODB102


class Trucks(commands.Cog):
    def __init__(self, bot):
        self.bot = bot

    @commands.command()
    async def trucks(self, ctx):
        self.bot.db.ping()  # expect: ODB103
        ctx.bot.db.ping()  # expect: ODB103
        self.bot.name.ping()


async def setup(bot):
    await bot.add_cog(Trucks(bot))
