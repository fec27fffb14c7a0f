import pymysql


def check():
    return pymysql.connect(host="db").ping()
