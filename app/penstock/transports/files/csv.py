"""CSV with a header: cells are text, which the schema gives a type. An empty cell is null, and `""` an empty text."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as pc

from penstock.transports.files.base import Bad, Piece, Seen, Shape, chosen, readable
from penstock.transports.files.columns import Gathered, flat_batch
from penstock.transports.files.ndjson import unpacked
from penstock.transports.files.places import Place

__all__ = ["Writer", "columns", "read"]

HEAD: Final = 1 << 20  # bytes in which the header is
BLOCK: Final = 8 << 20  # bytes that are read at a time: the most that a row can have
# Characters of no meaning for the bytes that are no UTF-8, which Python has as surrogates.
_MARKS: Final = {0xDC00 + byte: 0x10FF00 + byte for byte in range(0x80, 0x100)}
_BYTES: Final = {mark: byte for byte, mark in _MARKS.items()}
_MARKED: Final = f"[{chr(0x10FF80)}-{chr(0x10FFFF)}]"


def columns(place: Place) -> pa.Schema:
    """See `base`: all text."""
    with readable(place, "CSV"), place.open() as file, unpacked(file, place) as data, _opened(_Text(data), lambda row: "skip") as reader:
        return pa.schema([]) if reader is None else reader.schema


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`. Rows are numbered from the first one behind the header; one with too few or too many cells is `bad`."""
    with readable(place, "CSV"), place.open() as file, unpacked(file, place) as data:
        size, at, wrong, text = max(place.size() or 0, 1), 0, list[tuple[int, Bad]](), _Text(data)

        def skip(row: Any) -> str:
            reason = f"the row has {row.actual_columns} cells, the header {row.expected_columns}"
            wrong.append((row.number - 2, Bad(0, _raw(row.text), reason)))  # the header is line 1
            return "skip"

        with _opened(text, skip) as reader:
            for batch in _batches(reader):
                seen(min(file.tell() / size, 1.0))
                # The rows of a batch are numbered past those that were skipped among them.
                rows, bad = batch.num_rows, list[Bad]()
                while wrong and wrong[0][0] <= at + rows:
                    row, one = wrong.pop(0)
                    bad.append(one._replace(row=row - at))
                    rows += 1
                left = batch.select(chosen(names, batch.schema.names))
                yield from _cut(Piece(rows, batch=_as_given(left) if text.odd else left, bad=bad), at, start, stop)
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


def _batches(reader: Any) -> Iterator[Any]:
    """Yields the batches. Raises ValueError for a row that is too long: its end is not found in what is read at a time."""
    rows = 0
    try:
        for batch in reader or ():
            yield batch
            rows += batch.num_rows
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        raise ValueError(f"behind {rows:,} rows, one has more than {BLOCK:,} bytes: is a quote left open?") from error


@contextmanager
def _opened(data: _Text, invalid: Callable[[Any], str]) -> Iterator[Any]:
    """Yields a reader whose columns are all text: with guessed types it would fail at the first cell that differs from the guess.

    None for an empty file.
    """
    head = data.peek(HEAD)
    if not head.strip():
        yield None
        return
    names = next(csv.reader(io.StringIO(head.decode("utf-8-sig", errors="replace"), newline="")))
    if any(char == "\0" or ord(char) in _BYTES for name in names for char in name):
        raise ValueError("its header is no text in UTF-8")
    if len(names) == 1 and (other := next((one for one in ";\t|" if one in names[0]), "")):
        raise ValueError(f"its header is one cell with {other!r} in it: cells are separated by commas")
    convert = pc.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    parse = pc.ParseOptions(newlines_in_values=True, invalid_row_handler=invalid)
    with pc.open_csv(pa.PythonFile(data, "r"), pc.ReadOptions(use_threads=False, block_size=BLOCK), parse, convert) as reader:
        yield reader


class _Text(io.RawIOBase):
    """A file whose bytes that are no UTF-8 are characters of their own, because its reader ends at others: `odd` once there was one.

    The last line has an end: else a header without rows would be none.
    """

    def __init__(self, data: IO[bytes]) -> None:
        super().__init__()
        self._data = data
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._ready, self._ended = b"", False
        self.odd = False

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        """Returns the next bytes, which `read` returns again."""
        head = self.read(size)
        self._ready = head + self._ready
        return head

    def read(self, size: int = -1) -> bytes:
        while not self._ended and len(self._ready) < size:
            data = self._data.read(size - len(self._ready))
            self._ended = not data
            self._ready += self._encoded(self._decoder.decode(data, final=self._ended)) + (b"\n" if self._ended else b"")
        given, self._ready = self._ready[:size], self._ready[size:]
        return given

    def _encoded(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError:
            self.odd = True
            return text.translate(_MARKS).encode()


def _raw(text: str) -> bytes:
    """Returns the bytes that a text was in its file."""
    return text.translate(_BYTES).encode(errors="surrogateescape")


def _as_given(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Returns the batch with the bytes that are no UTF-8 in its text, as other files have them."""
    columns = []
    for column in batch.columns:
        if compute.any(compute.match_substring_regex(column, _MARKED)).as_py():
            column = pa.array([None if text is None else _raw(text) for text in column.to_pylist()], pa.binary()).view(pa.string())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


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
