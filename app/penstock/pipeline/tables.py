"""A table on its way in: the records of its topic become rows, tombstones and deletions remove them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock.batch import Array, Batch, Table
from penstock.pipeline.ports import Described, Port, ports
from penstock.record import RecordLike
from penstock.schema import Schema
from penstock.state import Rows
from penstock.topology.spec import Table as Spec
from penstock.topology.spec import Topology
from penstock.topology.tables import TIME, columns_of, key_column
from penstock.topology.wiring import Input, Stage, Wiring
from penstock.windows import keys_of

__all__ = ["Strange", "TableReader", "table_reader"]


class Strange(NamedTuple):
    """A record that is no row of its table, and why. The row of its key stays as it was."""

    record: RecordLike
    reason: str


class TableReader:
    """Reads the records of a table into `rows`, in the order of their topic.

    A record that has the key of an earlier one, but another key of the table, replaces the row of that one.
    """

    def __init__(self, table: Spec, schema: Schema, port: Port, rows: Rows) -> None:
        self.table, self.rows = table, rows
        self._port, self._keys = port, [key_column(number) for number in range(len(table.keyed_by))]
        time = None if table.time is None else schema.field(table.time)
        self._scale = 0 if time is None else 1000 if time.unit == "us" else 1
        self._owned: dict[bytes, bytes] | None = {} if table.key else None  # by the record's key; without fields it is the table's

    def __len__(self) -> int:
        return len(self.rows)

    def apply(self, records: Sequence[RecordLike]) -> list[Strange]:
        """Applies records, and returns those that are no rows. Raises SchemaWanted before it has changed anything."""
        if type(records) is Table:  # columns already, all of them rows
            written, batch = [*range(len(records))], self._port.decode(records)
        else:
            written = [at for at, one in enumerate(records) if one.value is not None]
            batch = self._port.decode([records[at] for at in written]) if written else Batch(0)
        rows = np.array(written, np.int64) if batch.rows is None else np.array(written, np.int64)[batch.rows]
        strange = {written[one.row]: str(one.error) for one in batch.failures}
        kept = {*rows.tolist(), *strange}
        gone = [at for at in range(len(records)) if at not in kept]
        self._replace(batch, rows, [records[at] for at in rows.tolist()], gone, records)
        return [Strange(records[at], reason) for at, reason in strange.items()]

    def _replace(self, batch: Batch, rows: Array, of: Sequence[RecordLike], gone: Sequence[int], records: Sequence[RecordLike]) -> None:
        """Puts and removes in the order of the topic: `rows` and `gone` are positions in the records."""
        keys = keys_of([batch.columns[name] for name in self._keys]) if batch.size else []
        times = (batch.columns[TIME] // self._scale).tolist() if self._scale and batch.size else [one.timestamp for one in of]
        at = 0
        for end in (*gone, len(records)):
            upto = int(np.searchsorted(rows, end))
            if upto > at:
                self._own(keys[at:upto], of[at:upto], times[at:upto])
                columns = {name: column[at:upto] for name, column in batch.columns.items()}
                self.rows.put(keys[at:upto], times[at:upto], columns)
            at = upto
            if end < len(records):
                self._remove(records[end])

    def _own(self, keys: Sequence[bytes], records: Sequence[RecordLike], times: Sequence[int]) -> None:
        if self._owned is None:
            return
        for key, record, time in zip(keys, records, times, strict=True):
            if record.key is not None:
                before = self._owned.get(record.key)
                if before is not None and before != key:
                    self.rows.remove(before, time)
                self._owned[record.key] = key

    def _remove(self, record: RecordLike) -> None:
        if record.key is None:
            return
        key = record.key if self._owned is None else self._owned.pop(record.key, None)
        if key is not None:
            self.rows.remove(key, record.timestamp)


def table_reader(topology: Topology, name: str, described: Described) -> TableReader:
    """Returns what reads a table of a topology into separate rows; `described` has the schemas and writers of tables, by their names."""
    table, schema = next(one for one in topology.tables if one.name == name), described.schemas[name]
    stage = Stage(name, (Input(table, columns_of(table, schema)),), (), ())
    columns = next(one.columns for one in topology.lookups if one.table == name)
    return TableReader(table, schema, ports(Wiring(topology, (stage,)), described)[name], Rows(columns, table.history_ms))
