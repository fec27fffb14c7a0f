"""What a fuzzed server says, and how a connection reads it: made of dice, and made smaller.

Owns the shapes of cases: columns, values, odd packets, converters. Reading them is ``reader.py``'s.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pymysql import converters
from pymysql.constants import FIELD_TYPE
from pymysql.constants.SERVER_STATUS import SERVER_MORE_RESULTS_EXISTS

from .wire import lenenc, packets

CHARSETS = ("utf8mb4", "utf8mb4", "utf8mb4", "latin1", "gbk", "ascii", "cp932")
CURSORS = ("Cursor", "Cursor", "DictCursor", "SSCursor", "SSDictCursor")


@dataclass(frozen=True)
class Packet:
    """A packet, and how much its number is off."""

    body: bytes
    skew: int = 0


@dataclass(frozen=True)
class Case:
    """What is said, and how it is read."""

    answers: tuple[tuple[Packet, ...], ...]
    charset: str = "utf8mb4"
    use_unicode: bool = True
    conversion: str = "default"
    cursor: str = "Cursor"
    pieces: tuple[int, ...] = (65536,)
    cut: int | None = None
    """Where in the last answer the server stops."""
    ends: bool = False
    shared: bool = False
    fetches: tuple[int, ...] = ()
    """How many rows are fetched at a time, 0 for all that there are."""

    def said(self) -> list[bytes]:
        """Return the answers, byte for byte."""
        told = []
        for answer in self.answers:
            number, whole = 1, b""
            for packet in answer:
                piece = packets(packet.body, number + packet.skew)
                whole += piece
                number += 1 + len(packet.body) // 0xFFFFFF
            told.append(whole)
        if self.cut is not None and told:
            told[-1] = told[-1][: self.cut]
        return told


class Unhashable:
    """A converter that can be no key."""

    __hash__ = None  # type: ignore[assignment]  # as of classes that define __eq__

    def __eq__(self, other: object) -> bool:
        raise ValueError("neither equal nor not")

    def __call__(self, text: Any) -> Any:
        """Convert."""
        return ("unhashable", text)


class Empty(list[Any]):
    """A converter that is false, and keeps what it has seen."""

    def __call__(self, text: Any) -> Any:
        """Convert."""
        return ("empty", text)


class Counting:
    """A converter that fails now and then, whatever it is given."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.calls = 0

    def __call__(self, text: Any) -> Any:
        """Convert, or fail."""
        self.calls += 1
        if self.calls % self.every == 0:
            raise (IndexError if self.calls % 2 else LookupError)(f"call {self.calls}")
        return (self.calls, text)


_TEXTS = (FIELD_TYPE.VAR_STRING, FIELD_TYPE.STRING, FIELD_TYPE.BLOB, FIELD_TYPE.JSON, FIELD_TYPE.VARCHAR)


def _on(kinds: tuple[int, ...], converter: Any) -> dict[Any, Any]:
    return {**converters.conversions, **dict.fromkeys(kinds, converter)}


CONVERSIONS: dict[str, Callable[[], dict[Any, Any] | None]] = {
    "default": lambda: None,
    "none": lambda: dict(converters.encoders),
    "int": lambda: _on(_TEXTS, int),
    "float": lambda: _on(_TEXTS, float),
    "decimal": lambda: _on(_TEXTS, Decimal),
    "str": lambda: _on((*_TEXTS, FIELD_TYPE.DATETIME, FIELD_TYPE.LONG), str),
    "bytes": lambda: _on(_TEXTS, bytes),
    "datetime": lambda: _on(_TEXTS, converters.convert_datetime),
    "date": lambda: _on(_TEXTS, converters.convert_date),
    "time": lambda: _on((*_TEXTS, FIELD_TYPE.TIME), converters.convert_time),
    "through": lambda: _on((*_TEXTS, FIELD_TYPE.LONG), converters.through),
    "no converter": lambda: _on((*_TEXTS, FIELD_TYPE.LONG), None),
    "json": lambda: _on((FIELD_TYPE.JSON, FIELD_TYPE.VAR_STRING), json.loads),
    "unhashable": lambda: _on((*_TEXTS, FIELD_TYPE.LONG), Unhashable()),
    "false": lambda: _on((*_TEXTS, FIELD_TYPE.LONG), Empty()),
    "not callable": lambda: _on((FIELD_TYPE.LONG,), 7),
    "counting": lambda: _on((FIELD_TYPE.VAR_STRING, FIELD_TYPE.LONG), Counting(7)),
    "counting far": lambda: {**_on((FIELD_TYPE.LONG,), Counting(311)), FIELD_TYPE.VAR_STRING: int},
    "lambda": lambda: _on((FIELD_TYPE.LONG, FIELD_TYPE.DATETIME), lambda text: [text]),
}

_NUMERIC = frozenset(kind for kind, convert in converters.decoders.items() if convert in (int, float, Decimal))
_TEMPORAL = frozenset((FIELD_TYPE.TIMESTAMP, FIELD_TYPE.DATETIME, FIELD_TYPE.TIME, FIELD_TYPE.DATE))
KINDS = tuple(sorted({*converters.decoders, FIELD_TYPE.JSON, FIELD_TYPE.NULL, FIELD_TYPE.GEOMETRY, 77}))

_TIMES = (
    *("2024-01-31 10:11:12", "2024-01-31T10:11:12", "2024-01-31 10:11:12.5", "2024-01-31 10:11:12.123456"),
    *("2024-01-31 10:11:12.123", "2024-01-31 10:11:12.1234567", "2024-01-31", "20240131", "20240131101112"),
    *("20240131T101112", "2024-W01-1", "2024W011", "2024-W01-1 10:11:12", "2024-W01-1T10:11:12", "2024-031"),
    *("2024-01-31 10:11:12Z", "2024-01-31 10:11:12+02:00", "2024-01-31 10:11:12.5-07", "2024-01-31 10:11"),
    *("2024-01-31 10", "2024-01-31x10:11:12", "2024-01-31 10:11:12,5", "2024-01-31 24:00:00", "2024-1-3 1:1:1"),
    *("0000-00-00 00:00:00", "0000-00-00", "2024-00-10", "2024-02-30", "2024-02-30 25:61:61", "-2024-01-31"),
    *("2024-01-31 10:11:12.", "2024-01-31 10:11:60", " 2024-01-31", "2024-01-31 ", "9999-12-31 23:59:59.999999"),
    *("10:11:12", "-838:59:59", "838:59:59.000001", "1:2:3", "00:00:00", "24:00:00", "10:11:12.5", "-0:0:0.25"),
    *("10:11", "2024-01-31 10:1Z:12", "2024-01-31 10:11:+1", "2024-01-31 10:11-05", "0001-01-01", "1_0-1-1", ""),
)
_NUMBERS = ("0", "-1", "1_000", " 7 ", "+3", "1e3", "nan", "-inf", "1.50", "0x10", "18446744073709551615", "9" * 30, "")
_WORDS = (
    *(
        "",
        "a",
        "später",
        "\uff11\uff12",
        "٣",
        "\x1c12",
        "12\x1f",
        "2024\uff0d01",
        "NULL",
        "true",
        '{"a": [1]}',
        "x" * 40,
    ),
)


class Dice(random.Random):
    """Makes cases."""

    def often(self, probability: float) -> bool:
        """Tell whether something happens."""
        return self.random() < probability

    def value(self, column: int, encoding: str, heavy: bool) -> bytes | None:
        """Make a value for a kind of column, mostly one that fits; None for NULL."""
        if self.often(0.1) and not heavy:
            return None
        kind = self.randrange(10)
        if column in _NUMERIC and not heavy and self.often(0.97):
            return str(self.choice((0, 1, -1, 12, self.randrange(10**9)))).encode()
        if column in _TEMPORAL and self.often(0.9):
            kind = 1
        if kind <= 3:
            text = self.choice(_TIMES)
            if self.often(0.2) and text:
                place = self.randrange(len(text))
                text = text[:place] + self.choice("0123456789-: .+ZTW,") + text[place + self.randrange(2) :]
            return text.encode()
        if kind <= 5:
            return self.choice(_NUMBERS).encode()
        if kind <= 7:
            return self.choice(_WORDS).encode(encoding, "replace")
        if kind == 8:
            return self.randbytes(self.randrange(12))
        lengths = [249, 250, 251, 252, 255, 256, 300]
        if self.often(0.05):
            lengths = [8180, 16379, 32760, 32768, 65534, 65535, 65536]
        if heavy:
            lengths = [0xFFFFFF - 9, 0xFFFFFF - 5, 0xFFFFFF - 4, 0xFFFFFF - 1, 0xFFFFFF, 0x1000000]
        return self.choice((b"\xfe", b"\xff", b"5", b"\0")) * self.choice(lengths)

    def column(self, number: int) -> bytes:
        """Make a column's definition."""
        name = f"c{number}" if self.often(0.9) else self.choice(("same", "ä", "", "n" * 300))
        charset = self.choice((63, 45, 8, 28))
        return b"".join(
            (
                *(lenenc(part.encode()) for part in ("def", "db", "t", "t", name, name)),
                b"\x0c",
                struct.pack("<HIBHB", charset, 40, self.choice(KINDS), self.choice((0, 1, 128)), self.choice((0, 31))),
                b"\0\0",
            )
        )

    def result(self, encoding: str, status: int, heavy: bool) -> list[Packet]:
        """Make a result as servers send it."""
        if self.often(0.1):
            return [self.ok(status)]
        width = self.choice((1, 1, 2, 3, 5, 8, 23))
        if self.often(0.02):
            width = self.choice((0, 250, 251, 252, 300))
        columns = [self.column(number) for number in range(width)]
        if self.often(0.5):  # the same again and again: its definitions are known
            columns = [Dice(width * 10 + self.randrange(2)).column(number) for number in range(width)]
        height = self.choice((0, 1, 1, 2, 5, 20))
        if width < 4 and self.often(0.1):
            height = self.choice((249, 250, 251, 252, 253, 254, 255, 256, 600))
        huge = self.randrange(max(1, width * height)) if heavy else -1
        kinds = [column[-6] for column in columns]
        rows = [
            b"".join(self._cell(kind, encoding, line * width + place == huge) for place, kind in enumerate(kinds))
            for line in range(height)
        ]
        head = struct.pack("<BH", 0xFC, width) if width > 250 else bytes((width,))
        return [
            *map(Packet, (head, *columns, b"\xfe\0\0\2\0", *rows)),
            Packet(struct.pack("<BHH", 0xFE, self.choice((0, 3)), status)),
        ]

    def _cell(self, column: int, encoding: str, heavy: bool) -> bytes:
        value = self.value(column, encoding, heavy)
        return b"\xfb" if value is None else lenenc(value)

    def ok(self, status: int) -> Packet:
        """Make what answers a statement without a result."""
        return Packet(b"\0" + bytes((self.randrange(5), self.randrange(5))) + struct.pack("<HH", status, 1) + b"info")

    def odd_packet(self) -> bytes:
        """Make a packet for where it does not belong."""
        return self.choice(
            (
                *(b"", b"\0", b"\xff", b"\xfe", b"\xfb", b"\xfb/no/such/file", b"\xfe\0\0", b"\xfe\0\0\2\0"),
                *(b"\xff\x7a\x04#42S02no such table", b"\xff\x6b\x05", b"\xff\x25\x05#70100interrupted", b"\xfe" * 8),
                *(b"\xfe" * 9, b"\0\0\0\2\0\0\0", b"\0\0\0\x0a\0\0\0", b"\x01", b"\xfc\1\0", b"\xfd\1\0\0", b"\xfc"),
                *(b"\xfe\0\0\x0a\0", b"\xfe\1\0\0\0\0\0\0\0", b"\xff\x15\x04#08S01shut down", self.randbytes(9)),
            )
        )

    def spoiled(self, packet: Packet) -> list[Packet]:
        """Make something odd of a packet."""
        body = packet.body
        place = self.randrange(len(body) + 1)
        return self.choice(
            (
                lambda: [replace(packet, skew=self.choice((-1, 1, 255, -self.randrange(9))))],
                list,
                lambda: [packet, packet],
                lambda: [Packet(self.odd_packet())],
                lambda: [Packet(self.odd_packet()), packet],
                lambda: [Packet(body[:place])],
                lambda: [Packet(body[:-1])],
                lambda: [Packet(body + self.randbytes(self.choice((1, 2, 9))))],
                lambda: [Packet(body[:place] + self.randbytes(1) + body[place + 1 :])],
                lambda: [Packet(self.choice((b"\xfa", b"\xfb", b"\xfc", b"\xfd", b"\xfe", b"\xff")) + body[1:])],
                lambda: [Packet(body[:place] + b"\xff" + body[place:])],
            )
        )()


_ENCODINGS = {"utf8mb4": "utf8", "latin1": "cp1252", "gbk": "gbk", "ascii": "ascii", "cp932": "cp932"}


def case_of(seed: int) -> Case:
    """Return the case of a number."""
    dice = Dice(seed)
    charset = dice.choice(CHARSETS)
    heavy = dice.often(0.003)
    answers = []
    for _ in range(dice.choice((1, 1, 2, 3))):
        more = dice.choice((1, 1, 1, 2, 3))
        answer: list[Packet] = []
        for left in reversed(range(more)):
            answer += dice.result(_ENCODINGS[charset], 2 | (SERVER_MORE_RESULTS_EXISTS if left else 0), heavy)
        answers.append(answer)
    pieces: tuple[int, ...] = (65536,)
    if not heavy and dice.often(0.3):
        pieces = dice.choice(((1,), (2,), (7,), tuple(dice.choices((1, 2, 3, 4, 5, 9, 50, 1000), k=7))))
        size = sum(len(packet.body) for answer in answers for packet in answer)
        pieces = tuple(piece * (1 + size // 3000) + (size > 3000) for piece in pieces)
    cut, ends = None, dice.often(0.5)
    if dice.often(0.5):
        hostile = dice.choice(answers)
        for _ in range(dice.choice((1, 1, 2))):
            place = dice.randrange(len(hostile))
            hostile[place : place + 1] = dice.spoiled(hostile[place])
            if not hostile:
                hostile.append(Packet(b"\xfe\0\0\2\0"))
    elif dice.often(0.3):
        cut = dice.randrange(1 + sum(len(packet.body) + 4 for packet in answers[-1]))
    return Case(
        answers=tuple(map(tuple, answers)),
        charset=charset,
        use_unicode=dice.often(0.85),
        conversion="default" if dice.often(0.4) else dice.choice(tuple(CONVERSIONS)),
        cursor=dice.choice(CURSORS),
        pieces=pieces,
        cut=cut,
        ends=ends,
        shared=dice.often(0.02),
        fetches=tuple(dice.choices((0, 1, 1, 2, 10, 300), k=3)),
    )


def smaller(case: Case) -> Iterator[Case]:
    """Make cases of one that are a little simpler."""
    name: str
    plain: Any
    for name, plain in (
        *(("shared", False), ("pieces", (65536,)), ("conversion", "default"), ("cursor", "Cursor"), ("cut", None)),
        *(("charset", "utf8mb4"), ("use_unicode", True), ("ends", False), ("fetches", ())),
    ):
        if getattr(case, name) != plain:
            yield replace(case, **{name: plain})
    for place, answer in enumerate(case.answers):
        yield replace(case, answers=case.answers[:place] + case.answers[place + 1 :])
        for size in (len(answer) // 2, len(answer) // 4, 1):
            for first in range(0, len(answer), size) if size else ():
                shorter = answer[:first] + answer[first + size :]
                yield replace(case, answers=(*case.answers[:place], shorter, *case.answers[place + 1 :]))
