"""What a format provides: a decoder from a batch of values to columns, and an encoder from columns to values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.batch import Array, Batch
from penstock.errors import RecordError

__all__ = ["Decoder", "Encoder"]


class Decoder(Protocol):
    """Created once per source, from its schema and the columns that its stage reads.

    `spread` is the number of chunks that it should decode per call: 1 when its cost is per row, more when much of the cost
    is per call.
    """

    spread: int

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """Returns the values as one batch: the requested columns, and a Failure (DecodeError) per value that is not an event.

        Never raises for what is in `values`.
        """


class Encoder(Protocol):
    """Created once per sink, from its output fields."""

    def encode(self, columns: Sequence[Array]) -> tuple[Sequence[bytes], Mapping[int, RecordError]]:
        """Returns the rows of the columns (one array per field, in order, each `[N, ...]`) as N values, be they `parcel.Columns`.

        A row that cannot be written has b"" and an EncodeError under its position.
        """
