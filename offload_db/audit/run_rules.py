"""``offload-db rules``: what each rule finds and why it matters, and what the audit cannot see."""

from __future__ import annotations

import argparse
import sys
import textwrap

from .rules import CODES, RULES

LIMITS = (
    (
        "Calls that only run time decides: getattr with a computed name, registries, plug-ins, dependency "
        "injection by containers, monkey patching, exec."
    ),
    (
        "Objects that come from a library or a file that is not among the paths: what they return is unknown, so "
        "their calls are not reported. Only cursor and connection methods on names such as cursor and conn are, "
        "in files that import a blocking driver, or where they come from a file of the application that is missing."
    ),
    (
        "Which object a call has at a given moment: a name is everything that is ever assigned to it, a parameter "
        "everything that any caller passes, an attribute the same for all objects of its class. A helper that is "
        "given both a blocking and another connection is reported for all of its callers."
    ),
    (
        "def handlers, which FastAPI, Starlette and Quart run in threads. Sanic, aiohttp and Tornado run them on "
        "the loop, and they are not reported there either, nor are generators under tornado.gen.coroutine."
    ),
    "SQL that is only known at run time, when it judges how heavy a statement is; whether an index serves it.",
    "Lazy loading of SQLAlchemy and peewee attributes (truck.driver), and the flush before a query.",
    "Locks that are taken in one function and released in another, and locks of other libraries.",
    (
        "Blocking calls that are no database's: sleep, HTTP, files, subprocesses. ruff's ASYNC rules find these; "
        "here they only decide which mode fits."
    ),
    "The drivers of other databases (sqlite3, psycopg2), and Django's ORM.",
    (
        "Who runs a generator that is handed to a library: that call counts as running it, unless it makes a response "
        "or hands it to a thread."
    ),
    ("Routes whose path or prefix is computed. Of one that the environment sets, the default in the source is shown."),
    "How long a call takes. offload_db.OffloadPool.blocking_calls() says so at run time.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("codes", nargs="*", metavar="CODE", help="the rules to explain (default: all)")


def run(arguments: argparse.Namespace) -> int:
    """Print the rules; return the exit status."""
    wanted = [code.upper() for code in arguments.codes]
    if unknown := sorted(set(wanted).difference(CODES)):
        print(f"error: there is no rule {', '.join(unknown)}; there are {', '.join(CODES)}", file=sys.stderr)
        return 2
    for rule in RULES:
        if not wanted or rule.code in wanted:
            print(f"{rule.code} {rule.name}: {rule.summary}")
            print(textwrap.fill(rule.explanation, 100, initial_indent="    ", subsequent_indent="    "))
            print()
    if not wanted:
        print("A comment switches a rule off for its line:  # offload: ignore[ODB101] why")
        print()
        print("What the audit cannot see:")
        for limit in LIMITS:
            print(textwrap.fill(limit, 100, initial_indent="  - ", subsequent_indent="    "))
    return 0
