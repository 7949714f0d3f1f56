"""What a format has to offer: decode a batch of values into columns, encode columns into values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from penstock.batch import Array, Batch
from penstock.errors import RecordError

__all__ = ["Decoder", "Encoder"]


class Decoder(Protocol):
    """Made once for a source: by its schema and the columns that its stage reads.

    `spread` is how many chunks' worth of rows it wants at a time: 1 when its cost is by the row, more when much of it is
    by the call.
    """

    spread: int

    def decode(self, values: Sequence[bytes | None]) -> Batch:
        """The values as one batch: the columns asked for, and a Failure (DecodeError) for each value that is none.

        Never raises for what is in `values`.
        """


class Encoder(Protocol):
    """Made once for a sink: by its output fields."""

    def encode(self, columns: Sequence[Array]) -> tuple[list[bytes], Mapping[int, RecordError]]:
        """The rows of the columns (one array a field, in order, each `[N, ...]`) as N values.

        A row that cannot be written has b"" and an EncodeError under its position.
        """
