"""What is known of the columns of results: their parsed definitions, and how to decode their values.

Owns the definitions that are kept, by their raw bytes, for the whole process, and the short cuts from bytes to values.
Reads no sockets: which bytes are definitions and values is ``pymysql_results.py``'s.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from pymysql import converters

# Bytes that kept definitions may take in all; those of a single result at most a quarter of it, which is more than the
# 16 KB of definitions take that a server sends at once.
KEPT_BYTES = 4 * 2**20
# What a column's parsed definition takes besides its text, and how often it holds its text (measured with tracemalloc,
# see test_the_size_of_what_is_kept_is_known).
COLUMN_BYTES, COPIES = 1200, 4
# Results that are kept with the same first column; which one it is tells a comparison with each.
ALIKE = 8

Decode = Callable[[bytes], Any]
Key = tuple[bytes, int, int, str, bool]
"""The first definition, how many there are, the number of their first packet, the connection's encoding, whether it
decodes texts."""


class Columns:
    """The columns of a result: what PyMySQL makes of their definitions, and how to decode their values.

    :param raw: the definitions' packets
    :param result: PyMySQL's, which has parsed them
    :param decoders: the connection's converters
    """

    __slots__ = ("_source", "converters", "decoders", "description", "fields", "own", "raw")

    def __init__(self, raw: bytes, result: Any, decoders: Mapping[int, Any]) -> None:
        self.raw = raw
        self.fields = list(result.fields)
        self.description = result.description
        self.converters = list(result.converters)
        self._source = [(kind, decoders.get(kind)) for kind in {field.type_code for field in self.fields}]
        self.own = not all(_is_known(convert) for _, convert in self.converters)
        """Whether the user converts values: what that does is done once for each, in order."""
        make = _exact_decoder if self.own else _decoder
        self.decoders = tuple(make(encoding, convert) for encoding, convert in self.converters)

    def fit(self, decoders: Mapping[int, Any]) -> bool:
        """Tell whether the connection's converters are those that these columns were made with."""
        get = decoders.get
        for kind, convert in self._source:  # noqa: SIM110  # a generator takes twice as long
            if get(kind) is not convert:  # the user's may be equal to anything
                return False
        return True

    @property
    def size(self) -> int:
        """About how many bytes of memory they take."""
        return COLUMN_BYTES * len(self.fields) + COPIES * len(self.raw)


class KnownColumns:
    """The definitions that are kept, of several threads.

    :param most: how many bytes they may take
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.kept: dict[Key, tuple[Columns, ...]] = {}
        """Columns that may be meant, by what is seen of them first; to be read only."""
        self._lock = threading.Lock()
        self.size = 0
        """How many bytes they take."""

    def keep(self, key: Key, columns: Columns) -> None:
        """Keep columns, and drop those that were kept first where there are too many."""
        if columns.size + len(key[0]) > self._most // 4:
            return
        # A finaliser may come here in the middle, when it reads the rest of a result: then these are not kept.
        if not self._lock.acquire(blocking=False):
            return
        try:
            before = self._drop(key)
            now = self.kept[key] = (columns, *before)[:ALIKE]
            self.size += _size(key, now)
            while self.kept and self.size > self._most:
                self._drop(next(iter(self.kept)))
            if not self.kept:
                self.size = 0  # an interrupt may have come between the two
        finally:
            self._lock.release()

    def _drop(self, key: Key) -> tuple[Columns, ...]:
        dropped = self.kept.pop(key, ())
        self.size -= _size(key, dropped)
        return dropped

    def clear(self) -> None:
        """Keep none."""
        self.kept, self._lock, self.size = {}, threading.Lock(), 0


def _size(key: Key, alike: tuple[Columns, ...]) -> int:
    return sum(columns.size for columns in alike) + len(key[0]) if alike else 0


known = KnownColumns(KEPT_BYTES)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=known.clear)  # another thread may have been keeping something


# The form in which servers send times, with zeros for all digits. Python reads much more, and makes something else of
# it than PyMySQL: dates alone, zones, weeks, and from 3.14 on the 24th hour.
_DATE = b"0000-00-00"
_TIMES = frozenset((_DATE + b" 00:00:00", *(_DATE + b" 00:00:00." + b"0" * digits for digits in range(1, 7))))
_ZEROS = bytes.maketrans(b"0123456789T", b"0000000000 ")
try:
    _READS_24 = bool(dt.datetime.fromisoformat("2024-01-01 24:00:00"))
except ValueError:
    _READS_24 = False


def _datetime(value: bytes) -> Any:
    if value.translate(_ZEROS) in _TIMES and not (_READS_24 and value[11:13] == b"24"):
        try:
            return dt.datetime.fromisoformat(value.decode())
        except ValueError:
            pass  # zero dates, and on Python 3.10 short fractions
    return converters.convert_datetime(value.decode("ascii"))


def _date(value: bytes) -> Any:
    if value.translate(_ZEROS) == _DATE:
        try:
            return dt.date.fromisoformat(value.decode())
        except ValueError:
            pass
    return converters.convert_date(value.decode("ascii"))


def _int(value: bytes) -> Any:
    try:
        return int(value)
    except ValueError:
        pass
    return int(value.decode("ascii"))


def _float(value: bytes) -> Any:
    try:
        return float(value)
    except ValueError:
        pass
    return float(value.decode("ascii"))


# What takes ASCII bytes as they are and gives what the converter gives for their text, or raises.
_SHORT_CUTS: tuple[tuple[Any, Decode], ...] = (
    (int, int),
    (float, float),
    (converters.convert_datetime, _datetime),
    (converters.convert_date, _date),
)
# The same, but where they raise, they raise what the converter raises for the text.
_EXACT_SHORT_CUTS: tuple[tuple[Any, Decode], ...] = (
    (int, _int),
    (float, _float),
    (converters.convert_datetime, _datetime),
    (converters.convert_date, _date),
)
# What may be called twice for a value without anybody's noticing. By identity: a user's may be no key.
_HARMLESS = (
    *(None, int, float, str, bytes, bool, Decimal),
    *(converters.convert_datetime, converters.convert_date, converters.convert_timedelta, converters.convert_time),
)


def _is_known(convert: Any) -> bool:
    return any(convert is known for known in _HARMLESS)


def _decoder(encoding: str | None, convert: Any) -> Decode:
    """Make one function of the two steps in which PyMySQL decodes a value; where it raises, PyMySQL is to be asked."""
    if encoding in ("utf8", "ascii", "utf-8"):
        for converter, decode in _SHORT_CUTS:
            if convert is converter:
                return decode
    return _exact_decoder(encoding, convert)


def _exact_decoder(encoding: str | None, convert: Any) -> Decode:
    """Make one function of the two steps in which PyMySQL decodes a value; it raises what they raise."""
    if encoding == "ascii":
        for converter, short_cut in _EXACT_SHORT_CUTS:
            if convert is converter:
                return short_cut
    if encoding is None:
        return bytes if convert is None else convert
    if convert is None:
        return bytes.decode if encoding == "utf8" else lambda value: value.decode(encoding)
    return lambda value: convert(value.decode(encoding))
