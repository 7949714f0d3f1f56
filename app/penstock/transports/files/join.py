"""The parts of a topic as one file, in the order of the input."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from penstock.transports.files.ndjson import packing, unpacked
from penstock.transports.files.places import Place
from penstock.transports.files.sink import Output

__all__ = ["join"]


def join(output: Output, parts: Sequence[Place], whole: Place) -> None:
    """Writes the parts, which stay, to the file `whole`; without parts, a file without outputs."""
    writer = output.format.module.Writer
    if output.format.name in ("parquet", "arrow"):
        _columns(output, parts, whole)
        return
    with whole.create() as file, packing(file, output.ending) as packed:
        head = _Counted(packed)
        writer(head, output.shape)  # each part begins with the same
        for part in parts:
            with part.open() as given, unpacked(given, part) as content:
                content.read(head.size)
                shutil.copyfileobj(content, packed, 1 << 20)


class _Counted:
    """A file that counts what is written to it."""

    def __init__(self, file: Any) -> None:
        self._file, self.size = file, 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


def _columns(output: Output, parts: Sequence[Place], whole: Place) -> None:
    import pyarrow as pa  # these: lines are joined without them
    import pyarrow.parquet as pq

    from penstock.transports.files.columns import schema_of

    schema = schema_of(output.shape)
    with whole.create() as file:
        if output.format.name == "arrow":
            with pa.ipc.new_file(file, schema) as writer:
                for part in parts:
                    with part.native() as native, pa.ipc.open_file(native) as reader:
                        for at in range(reader.num_record_batches):
                            writer.write_batch(reader.get_batch(at))
            return
        with pq.ParquetWriter(file, schema) as writer:
            for part in parts:
                with part.native() as native, pq.ParquetFile(native) as reader:
                    for at in range(reader.num_row_groups):
                        writer.write_table(reader.read_row_group(at, use_threads=False))
