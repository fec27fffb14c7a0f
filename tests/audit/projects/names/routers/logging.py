import pymysql


def info(text):
    pymysql.connect(host="db").query(text)
