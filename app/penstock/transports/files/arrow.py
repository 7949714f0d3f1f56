"""Arrow IPC: the file format, whose batches can be read alone, and the stream (`.arrows`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa

from penstock.transports.files.base import Piece, Seen, Shape, chosen, readable
from penstock.transports.files.columns import Gathered
from penstock.transports.files.places import Place

__all__ = ["Writer", "columns", "read"]

_MAGIC = b"ARROW1"


def columns(place: Place) -> pa.Schema:
    """See `base`."""
    with readable(place, "Arrow IPC"), place.native() as file:
        return (pa.ipc.open_file(file) if _is_file(file) else pa.ipc.open_stream(file)).schema


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`."""
    with readable(place, "Arrow IPC"), place.native() as file:
        size, at = max(place.size() or 0, 1), 0
        for batch in _batches(file, names):
            seen(min(file.tell() / size, 1.0) if size > 1 else 1.0)
            first = max(start - at, 0)
            last = batch.num_rows if stop is None else min(batch.num_rows, stop - at)
            if first < last:
                yield Piece(last - first, batch=batch.slice(first, last - first))
            at += batch.num_rows
            if stop is not None and at >= stop:
                return


def _batches(file: pa.NativeFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if not _is_file(file):
        stream = pa.ipc.open_stream(file)
        left = chosen(names, stream.schema.names)
        for batch in stream:
            yield batch.select(left)
        return
    schema = pa.ipc.open_file(file).schema
    wanted = [schema.names.index(name) for name in chosen(names, schema.names)]
    reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=wanted)) if wanted else pa.ipc.open_file(file)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _is_file(file: pa.NativeFile) -> bool:
    file.seek(0)
    head = file.read(len(_MAGIC))
    file.seek(0)
    return bool(head == _MAGIC)


class Writer:
    """Writes the file format, which is also a stream behind its first eight bytes."""

    def __init__(self, file: IO[bytes], shape: Shape) -> None:
        self._gathered = Gathered(shape)
        self._writer = pa.ipc.new_file(file, self._gathered.schema)
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
