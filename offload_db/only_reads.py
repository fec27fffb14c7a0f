"""Statements that do nothing but read.

Owns what can be told of that from a statement's text: rows of such a statement may be given up unread, because nothing
is lost with them. In doubt the answer is no. Knows no database.
"""

from __future__ import annotations

import re

# A longer text is not looked through.
LONGEST = 200_000

# Comments that a server executes are none: /*! … */ and /*M! … */.
_LEFT_OUT = re.compile(
    r"""
    (?P<comment> /\*(?!M?!).*?(?:\*/|\Z) | \#[^\n]* | --(?=\s)[^\n]* )
  | (?P<value> '(?:[^']|'')*(?:'|\Z) | "(?:[^"]|"")*(?:"|\Z) )
    """,
    re.VERBOSE | re.DOTALL,
)
_READS = re.compile(r"[\s(]*(?:SELECT|SHOW|DESCRIBE|DESC|TABLE|VALUES|(?P<with>WITH))\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:INSERT|UPDATE|DELETE|REPLACE|CALL)\b", re.IGNORECASE)
# The columns of a common table expression stand behind its name as arguments do behind a function's.
_COLUMNS = re.compile(r"\b\w+\s*\([\w\s,`$]*\)(?=\s*AS\s*\()", re.IGNORECASE)
# Where double quotes stand around names, a function's may look like a value.
_CALLED = re.compile(r"(?<![\w$.`?])([\w$.`?]+)\s*\(")

# What may stand before a parenthesis: words of the language, types, and functions of the server's own that only read.
# A function of anybody else's may write.
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
    ALL AND ANY AS BETWEEN BY CASE CROSS DISTINCT DIV ELSE ESCAPE EXCEPT EXISTS FOR FORCE FROM HAVING IGNORE IN INDEX
    INTERSECT INTERVAL IS JOIN KEY LATERAL LIKE LIMIT MOD NOT OFFSET ON OR OVER PARTITION REGEXP RLIKE ROW SELECT SOME
    STRAIGHT_JOIN THEN UNION USE USING VALUES WHEN WHERE WITH XOR
    BINARY CHAR CHARACTER DATETIME DECIMAL DOUBLE FLOAT INTEGER INT NCHAR NUMERIC REAL SIGNED TIME TIMESTAMP UNSIGNED
    VARBINARY VARCHAR
    ABS ACOS ADDDATE ADDTIME ANY_VALUE ASCII ASIN ATAN ATAN2 AVG BIN BIT_AND BIT_COUNT BIT_LENGTH BIT_OR BIT_XOR CAST
    CEIL CEILING CHARACTER_LENGTH CHARSET CHAR_LENGTH COALESCE COLLATION CONCAT CONCAT_WS CONNECTION_ID CONV CONVERT
    CONVERT_TZ COS COT COUNT CRC32 CUME_DIST CURDATE CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER CURTIME
    DATABASE DATE DATEDIFF DATE_ADD DATE_FORMAT DATE_SUB DAY DAYNAME DAYOFMONTH DAYOFWEEK DAYOFYEAR DEGREES DENSE_RANK
    ELT EXP EXPORT_SET EXTRACT FIELD FIND_IN_SET FIRST_VALUE FLOOR FORMAT FOUND_ROWS FROM_BASE64 FROM_DAYS
    FROM_UNIXTIME GREATEST GROUPING GROUP_CONCAT HEX HOUR IF IFNULL INET6_ATON INET6_NTOA INET_ATON INET_NTOA INSTR
    ISNULL JSON_ARRAY JSON_ARRAYAGG JSON_CONTAINS JSON_CONTAINS_PATH JSON_EXTRACT JSON_KEYS JSON_LENGTH JSON_MERGE_PATCH
    JSON_OBJECT JSON_OBJECTAGG JSON_OVERLAPS JSON_PRETTY JSON_QUERY JSON_QUOTE JSON_SEARCH JSON_SET JSON_TABLE JSON_TYPE
    JSON_UNQUOTE JSON_VALID JSON_VALUE LAG LAST_DAY LAST_INSERT_ID LAST_VALUE LCASE LEAD LEAST LEFT LENGTH LN LOCALTIME
    LOCALTIMESTAMP LOCATE LOG LOG10 LOG2 LOWER LPAD LTRIM MAKEDATE MAKETIME MAX MD5 MEDIAN MICROSECOND MID MIN MINUTE
    MONTH MONTHNAME NOW NTH_VALUE NTILE NULLIF NVL NVL2 OCT OCTET_LENGTH ORD PERCENTILE_CONT PERCENTILE_DISC
    PERCENT_RANK PERIOD_ADD PERIOD_DIFF PI POINT POSITION POW POWER QUARTER QUOTE RADIANS RAND RANK REGEXP_INSTR
    REGEXP_LIKE REGEXP_REPLACE REGEXP_SUBSTR REPEAT REVERSE RIGHT ROUND ROW_COUNT ROW_NUMBER RPAD RTRIM SCHEMA SECOND
    SEC_TO_TIME SESSION_USER SHA SHA1 SHA2 SIGN SIN SLEEP SOUNDEX SPACE SQRT STD STDDEV STDDEV_POP STDDEV_SAMP STRCMP
    STR_TO_DATE ST_ASGEOJSON ST_ASTEXT ST_CONTAINS ST_DISTANCE ST_DISTANCE_SPHERE ST_GEOMFROMTEXT ST_INTERSECTS
    ST_WITHIN ST_X ST_Y SUBDATE SUBSTR SUBSTRING SUBSTRING_INDEX SUBTIME SUM SYSDATE SYSTEM_USER TAN TIMEDIFF
    TIMESTAMPADD TIMESTAMPDIFF TIME_FORMAT TIME_TO_SEC TO_BASE64 TO_CHAR TO_DAYS TO_SECONDS TRIM TRUNCATE UCASE UNHEX
    UNIX_TIMESTAMP UPPER USER UTC_DATE UTC_TIME UTC_TIMESTAMP UUID UUID_SHORT VARIANCE VAR_POP VAR_SAMP VERSION WEEK
    WEEKDAY WEEKOFYEAR WEIGHT_STRING YEAR YEARWEEK
    """,
    )
)


def only_reads(text: object) -> bool:
    """Tell whether it is certain that a statement writes nothing; a view that calls a function is not seen."""
    if isinstance(text, (bytes, bytearray)):
        text = text[: LONGEST + 1].decode("latin-1")
    if not isinstance(text, str) or len(text) > LONGEST or "\\" in text:
        return False  # what a backslash means is the session's to say
    text = _LEFT_OUT.sub(lambda found: "?" if found["value"] else " ", text).rstrip("; \t\r\n")
    reads = _READS.match(text)
    if reads is None or ";" in text or "/*" in text:  # of several statements, or not to be read from here
        return False
    if reads["with"] and _WRITES.search(text):
        return False
    return all(name.upper() in _HARMLESS for name in _CALLED.findall(_COLUMNS.sub(" ", text)))
