"""The native part: a C extension that does some of the work of every event, where it could be built. It is optional.

Every function has a counterpart in Python, which is the reference. For an unusual input, the native part raises an exception or
returns a row number, and Python handles it. Reasons and gains: docs/decisions/0005-an-optional-native-part.md
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

from penstock.record import RecordLike

__all__ = ["Native", "NativeField", "NativeJsonColumns", "NativeTarget", "native"]

# A column that a field feeds: its block, its place in the block, its dtype as a code of the struct module (`O` for str),
# and the replacement of a null: the bytes of one number, or a str.
NativeTarget = tuple[int, int, str, bytes | str | None]

# Name; kind (`b` boolean, `i` whole, `f` floating, `s` string, `e` enum); whether null is allowed; least and greatest
# whole number; greatest magnitude of a float; symbols; columns.
NativeField = tuple[str, str, bool, int, int, float, tuple[str, ...], tuple[NativeTarget, ...]]


class NativeJsonColumns(Protocol):
    """Decodes plain JSON events of one schema directly into columns."""

    def decode(self, values: Sequence[bytes | None], blocks: tuple[Any, ...], /) -> list[int]:
        """Writes the plain values into the blocks: arrays `[columns, rows]`, one per dtype.

        Returns the rows that are not plain, ascending; the blocks' content in those rows is undefined.
        """


class Native(Protocol):
    """The functions of `penstock._native`."""

    def crc32c(self, data: bytes | bytearray | memoryview, portable: bool = False, /) -> int:
        """Returns the CRC-32C of the bytes; `portable`: by tables, even if the processor has an instruction."""

    def unpack_fetch(self, data: bytes, least: int, /) -> tuple[list[RecordLike], int] | None:
        """Returns the records from offset `least` on of the record batches in `data`, and the offset after them.

        Skips transaction markers and an incomplete last batch. Returns None when a batch is compressed, of an
        old format, or damaged (its checksum is compared), or holds anything but plain records.
        """

    def unpack_records(self, header: bytes | memoryview, body: bytes | memoryview, least: int, /) -> list[RecordLike] | None:
        """Returns the records from offset `least` on in `body`, the decompressed rest of the batch that begins with `header` (61 bytes).

        Returns None when one of them is not a plain record.
        """

    def encode_records(
        self,
        inputs: Sequence[RecordLike],
        keys: Sequence[bytes] | None,
        values: Sequence[bytes | None],
        head: bytes | Sequence[bytes],
        origin: bytes | None,
        title: bytes | None,
        ids: bytes | Sequence[str] | None,
        first: int | None,
        number: int,
        /,
    ) -> tuple[bytes, int, int]:
        """Returns one output per input as records of a batch, the batch's first timestamp, and the latest timestamp of these outputs.

        In each record, `head` follows the value, or the row's entry of it: the number of headers, the headers, and, when `origin` is given,
        the name of one more header, whose value is `origin` and the input's offset. When `title` is given, a last header follows: `title`
        is its name with its length, and its value is the row's entry of `ids`, or, when `ids` is bytes, `ids` and the input's offset.
        `first` is the batch's first timestamp, None when the batch begins here; `number` is the index of the first output in it.
        Raises TypeError, ValueError or OverflowError for input that it leaves to Python.
        """

    def weigh(self, inputs: Sequence[RecordLike], keys: Sequence[bytes] | None, values: Sequence[bytes | None], /) -> int:
        """Returns the bytes of the values and of the keys: those of `keys`, or of the inputs.

        Raises TypeError or ValueError for input that it leaves to Python.
        """

    def shortest(self, values: Any, doubles: Any, /) -> None:
        """Writes each float32 of one array into an array of float64, as the double with its shortest digits.

        Raises ValueError for arrays of another type or of different sizes, BufferError for those that are not contiguous.
        """

    def fold_windows(self, arrays: tuple[Any, ...], include_self: bool, /) -> None:
        """Does what `penstock.windows.rounds.fold` does, with the same bits.

        The arrays: tracks and hops as numbers, ring, top, pool, free, counts, body and body_at of the rings, newest and counted of the
        keys; slots, times, offsets, latest, marks, values and takes of the rows; and the partials, which it sets. Raises ValueError for
        other types or sizes.
        """

    def pack_windows(self, arrays: tuple[Any, ...], latest: int, /) -> list[bytes]:
        """Returns what `penstock.windows.rings.Rings.pack` returns without it.

        The arrays: hops, ring, top and pool of the rings; slots, and their heads. Raises ValueError for other types or sizes.
        """

    def JsonColumns(self, fields: tuple[NativeField, ...], max_bytes: int, /) -> NativeJsonColumns:  # noqa: N802  it is a class
        """Raises ValueError for a field that it does not support."""


def _load() -> Native | None:
    try:
        return cast(Native, importlib.import_module("penstock._native"))
    except ImportError:
        return None


native: Final = _load()
