"""Owns the list of private names of other packages that the library relies on.

Each stands with what it is for, and what happens where it is gone. ``offload_db/README.md`` shows the list; `python -m
tests.foreign_names` prints it as it has to stand there.
"""

from __future__ import annotations

from typing import NamedTuple


class Foreign(NamedTuple):
    """Private names of one class or module."""

    owner: str
    """Where they are: a module, and what in it."""
    names: tuple[str, ...]
    use: str
    gone: str


# Where the fast reader finds a name gone, it leaves everything to PyMySQL; see pymysql_connection.is_known().
SLOWER = "results are read at PyMySQL's own speed, and the log says so"

FOREIGN = (
    Foreign(
        "pymysql.connections.Connection",
        (
            *("_create_ssl_ctx", "_force_close", "_read_packet", "_read_query_result", "_write_bytes"),
            *("_next_seq_id", "_read_timeout", "_write_timeout"),
        ),
        "the fast reader",
        SLOWER,
    ),
    Foreign(
        "pymysql.connections.MySQLResult",
        (
            *("_check_packet_is_eof", "_get_descriptions", "_read_row_from_packet", "_read_rowdata_packet"),
            *("_read_rowdata_packet_unbuffered", "_finish_unbuffered_query"),
        ),
        "the fast reader, and what is left of unbuffered results",
        SLOWER,
    ),
    Foreign(
        "pymysql.connections.Connection",
        ("_affected_rows", "_result", "_rfile", "_sock"),
        "is the link alive, is a result unread",
        "the tests of `drivers/pymysql` fail",
    ),
    Foreign(
        "pymysql.connections.Connection",
        ("_execute_command", "_get_server_information", "_read_ok_packet", "_request_authentication"),
        "by the frames of an error: was anything sent, had the server answered",
        "an error in mid-statement discards the connection, or connecting is paced for all",
    ),
    Foreign("pymysql.cursors.Cursor", ("_executed", "_query"), "the text that was sent", "AttributeError"),
    Foreign(
        "dbutils.pooled_db.PooledDB",
        (
            *("_args", "_creator", "_idle_cache", "_kwargs", "_lock", "_maxcached", "_maxconnections", "_maxusage"),
            "_setsession",
        ),
        "the settings and idle connections of the pool that is wrapped",
        "AttributeError when a pool is wrapped",
    ),
    Foreign(
        "dbutils.steady_db.SteadyDBConnection",
        ("_closed", "_con"),
        "the driver's connection is taken out of DBUtils' one, where that was made before or by a user's own method",
        "AttributeError when a pool is wrapped that has idle connections",
    ),
    Foreign("asyncio", ("_get_running_loop",), "the loop, or None", "AttributeError"),
    Foreign("asyncio.tasks", ("_current_tasks",), "before Python 3.12: the task that runs", "KeyError"),
    Foreign(
        "asyncio.tasks._PyTask", ("_must_cancel",), "is the task to be cancelled", "anyio's own pause before each hop"
    ),
    Foreign(
        "concurrent.futures.thread",
        ("_WorkItem",),
        "tell jobs of one executor's thread apart",
        "two jobs of one thread count as one caller",
    ),
    Foreign("sys", ("_current_frames", "_getframe"), "the user's line, and threads at rest", "AttributeError"),
)


def table() -> str:
    """Return the list as a Markdown table."""
    lines = ["| of | names | what for | where they are gone |", "|---|---|---|---|"]
    for each in FOREIGN:
        names = ", ".join(f"`{name}`" for name in each.names)
        lines.append(f"| `{each.owner}` | {names} | {each.use} | {each.gone} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
