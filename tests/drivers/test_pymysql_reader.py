"""Claims about what the faster reader makes of any bytes: what PyMySQL makes of them, down to the error.

The fuzzer runs for a few seconds here, and for a night by ``python -m tests.fuzz.reader``.
"""

from __future__ import annotations

import gc
import json
import struct
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pymysql
import pytest
from pymysql import converters
from pymysql.constants import FIELD_TYPE
from pymysql.cursors import Cursor, SSCursor

from offload_db.drivers.pymysql_columns import Columns, KnownColumns
from offload_db.drivers.pymysql_connection import FastConnection
from offload_db.drivers.pymysql_results import TURN_ROWS
from tests.drivers.inside import short_cuts
from tests.fuzz import reader
from tests.fuzz.cases import CONVERSIONS, CURSORS, Case, Counting, Packet, smaller
from tests.fuzz.wire import Wire, connect, lenenc

EOF = b"\xfe\0\0\2\0"


def column(kind: int, charset: int = 45, name: bytes = b"c") -> bytes:
    """Return a column's definition."""
    texts = b"".join(map(lenenc, (b"def", b"db", b"t", b"t", name, name)))
    return texts + b"\x0c" + struct.pack("<HIBHB", charset, 40, kind, 0, 0) + b"\0\0"


def row(*values: bytes | None) -> bytes:
    """Return a row."""
    return b"".join(b"\xfb" if value is None else lenenc(value) for value in values)


def result(kinds: tuple[int, ...], *rows: bytes, end: bytes = EOF) -> tuple[Packet, ...]:
    """Return a result of such columns."""
    return tuple(map(Packet, (bytes((len(kinds),)), *(column(kind) for kind in kinds), EOF, *rows, end)))


@pytest.fixture(autouse=True)
def pymysqls_warnings() -> Iterator[None]:
    """Let PyMySQL say what it likes of results that were left incomplete: it says so to both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_fuzzed_answers() -> None:
    """Whatever a server says, in whatever pieces: both readers tell the same of it, and go on from the same byte."""
    assert reader.run(1, seconds=4.0) > 20


def test_the_fuzzer_finds_what_is_read_differently(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gives another value than PyMySQL's is told, by a smaller case than the one it was met in."""
    short_cuts(monkeypatch, (int, lambda value: int(value) + (value == b"12")))
    case = Case(answers=(result((FIELD_TYPE.LONG,), row(b"1"), row(b"12"), row(b"3")),), pieces=(500,), ends=True)
    assert "13" in (reader.difference(case) or "")
    small = reader.shrunk(case)
    assert small.pieces == (65536,)
    assert len(small.answers[0]) < len(case.answers[0])
    assert all(reader.difference(simpler) is None for simpler in smaller(small))


ANSWERS = {
    "a row without its last columns": result((3, 3, 3), row(b"1", b"2", b"3"), row(b"4"), row(b"5", b"6", b"7")),
    "a row without its last columns, last of all": result((3, 3), row(b"1", b"2"), row(b"4"), end=b""),
    "a row of NULL alone": result((3, 3, 3), row(None), row(b"1", b"2", b"3")),
    "a row of too many columns": result((3,), row(b"1", b"secret"), row(b"2")),
    "a value that is longer than its row": result((253, 253), b"\1a\x09b", row(b"next", b"row")),
    "a length that is longer than its row": result((253, 253), b"\1a\xfd\1", row(b"next", b"row")),
    "a length that is none": result((253, 253), b"\1a\xff", b"\1a\xff\1b", row(b"next", b"row")),
    "a number that is none": result((3, 253), row(b"1", b"a"), row(b"x", b"b"), row(b"2", b"c")),
    "numbers that Python alone reads": result((3, 5), row(b"1_0", b" 1_0.5 "), row(b"\x1c7", b"\x1c7")),
    "an empty row": result((253,), b"", row(b"a")),
    "no columns": result((), b"\3abc", b"\xfb"),
    "no columns, empty rows": result((), b"", b"", EOF),
    "an error in mid-result": result((3,), row(b"1"), b"\xff\x25\x05#70100interrupted"),
    "an error of a byte": result((3,), row(b"1"), b"\xff"),
    "an end of a byte": result((3,), row(b"1"), b"\xfe"),
    "an OK in mid-result": result((253,), row(b"1"), b"\0\0\0\2\0\0\0", row(b"2")),
    "a file that is asked for": (Packet(b"\xfb/etc/hostname"),),
    "columns without an end": (Packet(b"\1"), Packet(column(3)), Packet(row(b"1")), Packet(EOF)),
    "a wrong number at the end of the columns": (Packet(b"\1"), Packet(column(3)), Packet(EOF, 1), Packet(EOF)),
    "a wrong number at the end": (*result((3,), row(b"1"), end=row(b"2")), Packet(EOF, 255)),
    "a wrong number in a row": (*result((3,), row(b"1"), end=row(b"2")), Packet(row(b"3"), 3), Packet(EOF)),
    "a goodbye in mid-result": (*result((3,), row(b"1"), end=row(b"2")), Packet(b"\xff\x87\x07#08S01bye", -6)),
    "bytes that are no text": result((253, 3), row("später".encode("latin-1"), b"1"), row(b"\xff\xfe", b"\xe4")),
}


@pytest.mark.parametrize("cursor", sorted(set(CURSORS)))
@pytest.mark.parametrize("what", ANSWERS)
def test_odd_answers(what: str, cursor: str) -> None:
    """Short rows, lengths that lie, packets where they do not belong: PyMySQL's rows, PyMySQL's errors."""
    for ends in (False, True):
        assert reader.difference(Case((ANSWERS[what],), cursor=cursor, ends=ends, fetches=(1,))) is None


@pytest.mark.parametrize("cursor", ["Cursor", "SSCursor"])
def test_cuts_and_pauses_at_every_byte(cursor: str) -> None:
    """Wherever the server falls silent, hangs up or pauses, both readers give the same rows and then the same error."""
    first = result((3, 253, 12), row(b"1", None, b"2024-01-31 10:11:12"), row(b"2", b"x" * 251, None))
    more = (*first[:-1], Packet(b"\xfe\1\0\x0a\0"), *result((253,), row(b"a"), row(b""), end=b"\xff\x25\x05#70100stop"))
    whole = Case((more,), cursor=cursor, fetches=(1,))
    (said,) = whole.said()
    for place in range(len(said) + 1):
        assert reader.difference(replace(whole, cut=place, ends=place % 2 == 0)) is None, place
        if place % 17 == 0:
            assert reader.difference(replace(whole, pieces=(place + 1, 1, 65536))) is None, place


@pytest.mark.parametrize("cursor", ["Cursor", "SSCursor"])
def test_a_value_of_16_megabytes(cursor: str) -> None:
    """A row that fills a packet to its last byte, and what comes after it."""
    answer = result((252, 3), row(b"x" * (0xFFFFFF - 6), b"1"), row(b"y", b"2"))
    assert len(answer[4].body) == 0xFFFFFF
    assert reader.difference(Case((answer,), cursor=cursor)) is None


@pytest.mark.parametrize("what", ["a row without its last columns", "a value that is longer than its row"])
def test_no_errors_with_bytes_of_other_rows(what: str) -> None:
    """What an error says of a row that is not as announced has nothing of the next row in it."""
    seen = reader.play(Case((ANSWERS[what],)), FastConnection)
    assert "next" not in seen[0]


TEXTS = (
    *("2024-01-31 10:11:12", "2024-01-31T10:11:12", "2024-01-31 10:11:12.5", "2024-01-31 10:11:12.123456"),
    *("2024-01-31 10:11:12.1234567", "2024-01-31", "20240131", "20240131101112", "20240131T101112", "2024-W01-1"),
    *("2024W011", "2024-W01-1 10:11:12", "2024-01-31 10:11:12Z", "2024-01-31 10:11:12+02:00", "2024-01-31 10:11"),
    *("2024-01-31 10:11:12.5-07", "2024-01-31 10:11:12.+07:00", "2024-01-31 10:1Z:12", "2024-01-31 10:11:+1"),
    *("2024-01-31 10", "2024-01-31x10:11:12", "2024-01-31 10:11:12,5", "2024-01-31 24:00:00", "2024-1-3 1:1:1"),
    *("0000-00-00 00:00:00", "0000-00-00", "2024-00-10", "2024-02-30", "2024-02-30 25:61:61", "-2024-01-31", ""),
    *("2024-01-31 10:11:12.", "2024-01-31 10:11:60", " 2024-01-31", "9999-12-31 23:59:59.999999", "1_0-1-1"),
    *("10:11:12", "-838:59:59", "00:00:00.000001", "später", "\uff11\uff12", "7"),
    *("٢٠٢٤-01-31", "\uff12\uff10\uff12\uff14-01-31 10:11:12"),
    *("1_000", " 7 ", "1e3", "nan", "-inf", "\x1c12", "0x10", "9" * 5000, '{"a": 1}'),
)
TIMES = (FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP, FIELD_TYPE.DATE, FIELD_TYPE.TIME)


def _changed(conversion: dict[Any, Any] | None, kind: int) -> bool:
    return conversion is not None and conversion.get(kind) is not converters.conversions.get(kind)


@pytest.mark.parametrize(
    ("conversion", "cursor"),
    [
        *((name, "Cursor") for name in CONVERSIONS),
        *((name, "SSCursor") for name in ("default", "datetime", "counting")),
    ],
)
def test_every_text_by_every_converter(conversion: str, cursor: str) -> None:
    """Same value and same type, or the same error: of times in all forms that Python reads, and of no times at all."""
    usual, own = CONVERSIONS["default"](), CONVERSIONS[conversion]()
    kinds = (*TIMES, FIELD_TYPE.VAR_STRING, FIELD_TYPE.LONG, FIELD_TYPE.JSON)
    for kind in kinds if own is usual else [kind for kind in kinds if _changed(own, kind)]:
        for charset in ("utf8mb4", "gbk"):
            for text in TEXTS if charset == "utf8mb4" else ("später", "\uff11\uff12", "2024-01-31 10:11:12"):
                rows = (row(b"2024-01-31"), row(text.encode("gbk" if charset == "gbk" else "utf-8", "replace")))
                case = Case((result((kind,), *rows),), charset=charset, conversion=conversion, cursor=cursor)
                assert reader.difference(case) is None, (kind, text)


def test_a_converter_is_called_once_for_each_value() -> None:
    """A user's converter that counts, fails or is slow is called as often and as late as by PyMySQL."""
    numbers = result((FIELD_TYPE.LONG, FIELD_TYPE.DATE), *(row(b"1", b"2024-01-31") for _ in range(20)))
    for kind in (pymysql.connections.Connection, FastConnection):
        count = Counting(every=1000)
        with Wire(Case((numbers,)).said()) as wire:
            connection: Any = connect(kind, wire, conv={**converters.conversions, FIELD_TYPE.LONG: count})
            cursor = connection.cursor(SSCursor)
            cursor.execute("SELECT")
            for wanted in (1, 2, 3):
                cursor.fetchone()
                assert count.calls == wanted
            cursor.close()
            assert count.calls == 3


def test_known_definitions_with_wrong_numbers() -> None:
    """Packets are checked for their numbers also where they are known byte for byte."""
    answer = result((FIELD_TYPE.LONG,), row(b"1"))
    second = (*answer[:-1], Packet(struct.pack("<BHH", 0xFE, 0, 10)), *answer)
    assert reader.difference(Case((second,))) is None  # its second definition is known by the number 6
    skewed = (answer[0], Packet(answer[1].body, 4), Packet(EOF, 4), Packet(row(b"1"), 4), Packet(EOF, 4))
    with Wire(Case((second, skewed)).said()) as wire:
        connection = connect(FastConnection, wire)
        cursor = connection.cursor()
        cursor.execute("SELECT")
        assert cursor.nextset()
        with pytest.raises(pymysql.err.InternalError, match="got 6 expected 2"):
            cursor.execute("SELECT")
        assert not connection.open


@pytest.mark.parametrize("converts", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_rows_are_given_out_as_they_arrive(*, ends: bool, converts: bool) -> None:
    """Each row of an unbuffered result is there before the next one comes, and the error of a broken link after all."""
    number = 2 * TURN_ROWS + 1
    answer = result((FIELD_TYPE.LONG,), *(row(b"7") for _ in range(number)), end=b"")[:-1]
    conv: dict[Any, Any] = dict(converters.conversions)
    if converts:
        conv[FIELD_TYPE.LONG] = lambda text: int(text) + 0
    with Wire(Case((answer,)).said(), ends=ends) as wire:
        connection = connect(FastConnection, wire, conv=conv)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT")
        assert [cursor.fetchone() for _ in range(number)] == [(7,)] * number
        with pytest.raises(pymysql.err.OperationalError, match="Lost connection") as lost:
            cursor.fetchone()
        assert lost.value.args[0] == 2013
        assert not connection.open
        reader.abandon(connection, [cursor])


def test_a_changed_read_timeout_holds_for_the_next_row() -> None:
    """Between two rows of an unbuffered result the limit for reading may change, as in PyMySQL."""
    answer = result((FIELD_TYPE.LONG,), row(b"7"), end=b"")[:-1]
    with Wire(Case((answer,)).said()) as wire:
        connection = connect(FastConnection, wire, read_timeout=30)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT")
        cursor.fetchone()
        connection._read_timeout = 0.5
        with pytest.raises(pymysql.err.OperationalError):
            cursor.fetchone()
        assert wire.limits[-1] == 0.5
        reader.abandon(connection, [cursor])


def columns_of(number: int, name: str) -> Columns:
    """Make columns of a result."""
    definitions = b"".join(column(FIELD_TYPE.LONG, name=f"{name}{place}".encode()) for place in range(number))
    answer = (Packet(bytes((number,))), *(Packet(column(3, name=f"{name}{n}".encode())) for n in range(number)))
    with Wire(Case(((*answer, Packet(EOF), Packet(EOF)),)).said()) as wire:
        connection = connect(pymysql.connections.Connection, wire)
        connection._execute_command(3, "SELECT")
        made = pymysql.connections.MySQLResult(connection)
        made.read()
        return Columns(definitions + bytes(4 * number), made, connection.decoders)


@pytest.mark.parametrize(("width", "name"), [(1, "c"), (23, "column_"), (200, "c"), (8, "ä" * 1000), (8, "😀" * 1000)])
def test_the_size_of_what_is_kept_is_known(width: int, name: str) -> None:
    """What columns are said to take is no less than what they take, and not much more."""
    columns_of(width, "first")

    def measured() -> tuple[int, int]:
        """Return what eight of them take, and what they are said to."""
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            made = [columns_of(width, f"{name}{number}") for number in range(8)]
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        return taken, sum(columns.size for columns in made)

    taken, said = min(measured() for _ in range(3))  # what other threads allocate meanwhile counts as well
    assert said / 3 < taken < said


def test_what_is_kept_is_bounded_by_bytes() -> None:
    """However many different results there are, what is kept of them takes no more than it may; the last are kept."""
    kept = KnownColumns(2**17)
    keys = [(b"%d" % number, 3, 2, "utf8", True) for number in range(60)]
    for key in keys:
        for _ in range(3):
            kept.keep(key, columns_of(3, "c"))
            assert kept.size <= 2**17
    assert len(kept.kept[keys[-1]]) == 3
    assert keys[0] not in kept.kept
    assert kept.size > 2**16


def test_one_huge_result_is_not_kept() -> None:
    """A definition that would take the place of many others is parsed each time."""
    kept = KnownColumns(2**18)
    usual, huge = columns_of(3, "c"), columns_of(100, "c")
    kept.keep((b"usual", 3, 2, "utf8", True), usual)
    kept.keep((b"huge", 100, 2, "utf8", True), huge)
    assert kept.kept == {(b"usual", 3, 2, "utf8", True): (usual,)}
    assert kept.size < 2**14


def test_threads_that_keep_definitions_at_once() -> None:
    """The count of bytes is right after any number of threads, and so is every result that they read."""
    kept = KnownColumns(2**16)
    made = [columns_of(2, f"c{number}_") for number in range(8)]

    def keep() -> None:
        for turn in range(3000):
            kept.keep((b"%d" % (turn % 40), 2, 2, "utf8", True), made[turn % 8])

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = sum(len(key[0]) + sum(columns.size for columns in alike) for key, alike in kept.kept.items())
    assert kept.size == everything <= 2**16


def test_json_by_a_users_converter() -> None:
    """What people do most: JSON columns as Python values, decimals as numbers."""
    conv = {**converters.conversions, FIELD_TYPE.JSON: json.loads, FIELD_TYPE.NEWDECIMAL: float}
    answer = result((FIELD_TYPE.JSON, FIELD_TYPE.NEWDECIMAL), *(row(b'{"a": [1]}', b"1.50") for _ in range(3)))
    with Wire(Case((answer,)).said()) as wire:
        cursor: Cursor = connect(FastConnection, wire, conv=conv).cursor()
        cursor.execute("SELECT")
        assert cursor.fetchall() == (({"a": [1]}, 1.5),) * 3
