"""The native part: a C extension that does some of the work of every event, where it could be built; nothing needs it.

Everything it offers has a counterpart in Python, which is the authority: what is out of the ordinary comes back as an
exception, or as a row number, and goes the other way. Why, and what it gains: docs/decisions/0005-an-optional-native-part.md
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from penstock.record import RecordLike

__all__ = ["Native", "NativeField", "NativeJsonColumns", "NativeTarget", "native"]

# A column that a field feeds: its block, its place in the block, its dtype as the struct module calls it (`O` for str),
# and what a null becomes there: the bytes of one number, or a str.
NativeTarget = tuple[int, int, str, bytes | str | None]

# Name; kind (`b` boolean, `i` whole, `f` floating, `s` string, `e` enum); whether null is allowed; least and greatest
# whole number; greatest magnitude of a floating one; symbols; columns.
NativeField = tuple[str, str, bool, int, int, float, tuple[str, ...], tuple[NativeTarget, ...]]


class NativeJsonColumns(Protocol):
    """Plain JSON events of one schema, straight into columns."""

    def decode(self, values: Sequence[bytes | None], blocks: tuple[Any, ...], /) -> list[int]:
        """Writes the plain ones of `values` into the blocks: arrays `[columns, rows]`, one for a dtype.

        Returns the rows that are not plain, ascending; what the blocks hold for those means nothing.
        """


class Native(Protocol):
    """What `penstock._native` offers."""

    def crc32c(self, data: bytes | bytearray | memoryview, portable: bool = False, /) -> int:
        """The CRC-32C of the bytes; `portable`: by tables, although the processor has an instruction."""

    def unpack_fetch(self, data: bytes, least: int, /) -> tuple[list[RecordLike], int] | None:
        """The records from offset `least` on of the record batches in `data`, and the offset behind them.

        Transaction markers are passed over, and so is a last batch that is not whole. None when a batch is compressed, of an
        old format, or damaged (its checksum is compared).
        """

    def encode_records(
        self,
        inputs: Sequence[RecordLike],
        keys: Sequence[bytes] | None,
        values: Sequence[bytes | None],
        head: bytes,
        origin: bytes | None,
        title: bytes | None,
        ids: bytes | Sequence[str] | None,
        first: int | None,
        number: int,
        /,
    ) -> tuple[bytes, int, int]:
        """An output for each input as records of a batch; the batch's first timestamp; the latest of these outputs.

        `head` follows the value in each: the count of the headers, the headers, and, when `origin` is given, the name of
        one more, whose value is `origin` and the input's offset. When `title` is given, a last header follows: `title` is its
        name with its length, and its value is that of `ids`, or `ids` and the input's offset where these are bytes.
        `first` is the batch's first timestamp, None when it
        begins here; `number` is the place of the first output in it. Raises TypeError, ValueError or OverflowError for
        what it leaves to Python.
        """

    def JsonColumns(self, fields: tuple[NativeField, ...], max_bytes: int, /) -> NativeJsonColumns:  # noqa: N802  it is a class
        """Raises ValueError for a field that it has no way with."""


def _load() -> Native | None:
    try:
        return cast(Native, importlib.import_module("penstock._native"))
    except ImportError:
        return None


native: Final = _load()
