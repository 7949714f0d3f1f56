"""CSV with a header: cells are text, which the schema gives a type. An empty cell is null, and `""` an empty text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.csv as pc

from penstock.transports.files.base import Bad, Piece, Seen, Shape, readable
from penstock.transports.files.columns import Gathered, flat_batch
from penstock.transports.files.ndjson import unpacked
from penstock.transports.files.places import Place

__all__ = ["Writer", "columns", "read"]

HEAD: Final = 1 << 20  # bytes in which the header is


def columns(place: Place) -> pa.Schema:
    """See `base`: all text."""
    with readable(place, "CSV"), place.open() as file, unpacked(file, place) as data, _opened(data, lambda row: "skip") as reader:
        return pa.schema([]) if reader is None else reader.schema


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`. Rows are numbered from the first one behind the header; one with too few or too many cells is `bad`."""
    with readable(place, "CSV"), place.open() as file, unpacked(file, place) as data:
        size, at, wrong = max(place.size() or 0, 1), 0, list[tuple[int, Bad]]()

        def skip(row: Any) -> str:
            reason = f"the row has {row.actual_columns} cells, the header {row.expected_columns}"
            wrong.append((row.number - 2, Bad(0, row.text.encode(), reason)))  # the header is line 1
            return "skip"

        with _opened(data, skip) as reader:
            for batch in reader or ():
                seen(min(file.tell() / size, 1.0))
                # The rows of a batch are numbered past those that were skipped among them.
                rows, bad = batch.num_rows, list[Bad]()
                while wrong and wrong[0][0] <= at + rows:
                    row, one = wrong.pop(0)
                    bad.append(one._replace(row=row - at))
                    rows += 1
                yield from _cut(
                    Piece(rows, batch=batch.select([name for name in names if name in batch.schema.names]), bad=bad), at, start, stop
                )
                at += rows
                if stop is not None and at >= stop:
                    return
        if wrong:
            bad = [one._replace(row=row - at) for row, one in wrong]
            yield from _cut(Piece(len(bad), batch=None, bad=bad), at, start, stop)


def _cut(piece: Piece, at: int, start: int, stop: int | None) -> Iterator[Piece]:
    """Yields the rows of a piece that begins at row `at` from `start` to `stop`."""
    first, last = max(start - at, 0), piece.rows if stop is None else min(piece.rows, stop - at)
    if first >= last:
        return
    bad = [one._replace(row=one.row - first) for one in piece.bad if first <= one.row < last]
    before = first - sum(one.row < first for one in piece.bad)
    batch = None if piece.batch is None else piece.batch.slice(before, last - first - len(bad))
    yield Piece(last - first, batch=batch, bad=bad)


@contextmanager
def _opened(data: IO[bytes], invalid: Callable[[Any], str]) -> Iterator[Any]:
    """Yields a reader whose columns are all text: with guessed types it would fail at the first cell that differs from the guess.

    None for an empty file.
    """
    head = data.read(HEAD)
    if not head.strip():
        yield None
        return
    names = next(csv.reader(io.StringIO(head.decode("utf-8-sig", errors="replace"), newline="")))
    convert = pc.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    parse = pc.ParseOptions(newlines_in_values=True, invalid_row_handler=invalid)
    with pc.open_csv(pa.PythonFile(_Behind(head, data), "r"), pc.ReadOptions(use_threads=False), parse, convert) as reader:
        yield reader


class _Behind(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head or self._rest.read(size)


class Writer:
    """Writes a header and rows. Fields inside others are columns named by their path, arrays are JSON."""

    def __init__(self, file: IO[bytes], shape: Shape) -> None:
        self._gathered = Gathered(shape)
        self._file = file
        self.size = 0
        self._put(pa.RecordBatch.from_pylist([], schema=self._gathered.schema), header=True)

    def write(self, values: Sequence[bytes | None]) -> None:
        """See `base.Writer`."""
        for batch in self._gathered.add(values):
            self._put(batch)

    def _put(self, batch: pa.RecordBatch, *, header: bool = False) -> None:
        out = pa.BufferOutputStream()
        pc.write_csv(flat_batch(batch), out, pc.WriteOptions(include_header=header))
        data = out.getvalue()
        self._file.write(data)
        self.size += len(data)

    def close(self) -> None:
        """See `base.Writer`."""
        for batch in self._gathered.rest():
            self._put(batch)
