"""What an error on connecting means, and what to do. Owns the explanations, by the server's and the driver's codes."""

from __future__ import annotations

from collections.abc import Mapping

_EXPIRED = "The account's password has expired: ALTER USER … IDENTIFIED BY a new one, or … PASSWORD EXPIRE NEVER."
_LOCKED = "The account is locked: ALTER USER … ACCOUNT UNLOCK, as an administrator."

_EXPLANATIONS: Mapping[int, str] = {
    1040: "The server is full. See who is connected with an administrator's account: SHOW PROCESSLIST.",
    1044: "The account has no right to this database: GRANT it, or name another in MYSQL_DATABASE.",
    1045: "The server does not know this account with this password: check MYSQL_USER and MYSQL_PASSWORD, and that the"
    " account may come from this host.",
    1049: "There is no such database: check MYSQL_DATABASE.",
    1129: "The server has blocked this host after failed attempts. As an administrator: FLUSH HOSTS on MariaDB,"
    " TRUNCATE TABLE performance_schema.host_cache on MySQL.",
    1130: "The server lets nobody in from this host: check the host part of the account.",
    1203: "The account has all the connections that it may have: see max_user_connections.",
    1226: "The account has all the connections that it may have: see max_user_connections.",
    1251: "The account authenticates in a way that this client does not know: check how, SHOW CREATE USER.",
    1698: "The server does not let this account in by password: check how the account authenticates.",
    1820: _EXPIRED,
    1862: _EXPIRED,
    2003: "Nothing answers there: check MYSQL_HOST and MYSQL_PORT, that the server runs and listens on that address,"
    " and firewalls between.",
    2013: "Something accepted the connection and then said nothing or hung up: a server that is starting or stuck, a"
    " proxy without a server behind it, or another service on that port.",
    2026: "TLS failed: the server has none, or its certificate is not one that MYSQL_SSL_CA vouches for.",
    2059: "The password is to be sent encrypted by the server's key, as the connection is not: connect over TLS, or"
    " pip install 'offload-db[rsa]'.",
    3032: "The server is in offline mode and lets administrators in alone: SET GLOBAL offline_mode = OFF, or connect to"
    " another.",
    3118: _LOCKED,
    3159: "The server insists on TLS: set MYSQL_SSL_CA, or pass ssl=context; MYSQL_SSL_DISABLED must be off.",
    4151: _LOCKED,
}


def explain(error: Exception) -> str:
    """Say what an error on connecting means, and what to do."""
    return _EXPLANATIONS.get(error.args[0] if error.args else 0, "The server's log says more.")
