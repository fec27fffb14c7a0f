import pymysql

connection = pymysql.connect(host="db")  # expect: ODB304
