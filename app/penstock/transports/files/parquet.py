"""Parquet: only the columns that are wanted are read, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.transports.files.base import Piece, Seen, Shape, chosen, readable
from penstock.transports.files.columns import ROWS, Gathered
from penstock.transports.files.places import Place

__all__ = ["Writer", "columns", "groups", "read"]


def columns(place: Place) -> pa.Schema:
    """See `base`."""
    with readable(place, "Parquet"), place.native() as file:
        return pq.read_schema(file)


def groups(place: Place) -> list[int]:
    """See `base`."""
    with readable(place, "Parquet"), place.native() as file:
        found = pq.read_metadata(file)
        return [found.row_group(at).num_rows for at in range(found.num_row_groups)]


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`."""
    with readable(place, "Parquet"), place.native() as native, pq.ParquetFile(native, pre_buffer=place.system is not None) as file:
        wanted = chosen(names, file.schema_arrow.names)
        rows, at = max(file.metadata.num_rows, 1), 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if at + size > start and (stop is None or at < stop):
                here = at
                for batch in file.iter_batches(ROWS, [group], columns=wanted, use_threads=False):
                    first, last = max(start - here, 0), min(batch.num_rows, (rows if stop is None else stop) - here)
                    if first < last:
                        seen((here + last) / rows)
                        yield Piece(last - first, batch=batch.slice(first, last - first))
                    here += batch.num_rows
            at += size


class Writer:
    """Writes row groups of at most a million rows."""

    def __init__(self, file: IO[bytes], shape: Shape) -> None:
        self._gathered = Gathered(shape)
        self._writer: Any = pq.ParquetWriter(file, self._gathered.schema)
        self.size = 0

    def write(self, values: Sequence[bytes | None]) -> None:
        """See `base.Writer`."""
        for batch in self._gathered.add(values):
            self._put(batch)

    def _put(self, batch: pa.RecordBatch) -> None:
        self.size += batch.nbytes
        self._writer.write_batch(batch)

    def close(self) -> None:
        """See `base.Writer`."""
        for batch in self._gathered.rest():
            self._put(batch)
        self._writer.close()
