"""Bots: what frameworks inject, and what is kept in the bot, is everybody's."""

import time

import pymysql
from aiogram import Dispatcher

dp = Dispatcher()
dp["db"] = pymysql.connect(host="db")  # shared


class Storage:
    def __init__(self, path):
        self.connection = pymysql.connect(host=path)  # shared

    def add(self, name):
        with self.connection.cursor() as cursor:
            cursor.execute("INSERT INTO users (name) VALUES (%s)", (name,))
        self.connection.commit()


storage = Storage("db")


@dp.message()
async def of_module(message):  # mode: neither
    storage.add(message.text)


@dp.message()
async def of_dispatcher(message):  # mode: neither
    dp["db"].ping()


@dp.message()
async def of_its_own(message):  # mode: thread
    time.sleep(0.1)
    connection = pymysql.connect(host="db")
    connection.ping()
    connection.close()
