import pymysql


def load():
    return pymysql.connect(host="db").cursor().execute("SELECT id FROM trucks LIMIT 1")
