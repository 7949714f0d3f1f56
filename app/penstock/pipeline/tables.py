"""A table on its way in: the records of its topic become rows, tombstones and deletions remove them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from penstock.batch import Batch, Table
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

    A record that has the key of an earlier one, but another key of the table, replaces the row of that one. Of two records with one key of
    the table, the later one counts, and only its removal removes the row.
    """

    def __init__(self, table: Spec, schema: Schema, port: Port, rows: Rows) -> None:
        self.table, self.rows = table, rows
        self._port, self._keys = port, [key_column(number) for number in range(len(table.keyed_by))]
        time = None if table.time is None else schema.field(table.time)
        self._scale = 0 if time is None else 1000 if time.unit == "us" else 1
        self._keys_of: dict[bytes, bytes] | None = {} if table.key else None  # by the record's key; without fields it is the table's
        self._held_by: dict[bytes, bytes] = {}  # by the table's key: the record that has written its row last

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
        gone = dict.fromkeys(at for at in range(len(records)) if at not in kept)
        keys = keys_of([batch.columns[name] for name in self._keys]) if batch.size else []
        of = [records[at] for at in rows.tolist()]
        times = (batch.columns[TIME] // self._scale).tolist() if self._scale and batch.size else [one.timestamp for one in of]

        def put(begin: int, end: int) -> None:
            if end > begin:
                self.rows.put(keys[begin:end], times[begin:end], {name: column[begin:end] for name, column in batch.columns.items()})

        begin = 0
        for end, key, time in self._removals(records, gone, rows.tolist(), keys, times):
            put(begin, end)
            self.rows.remove(key, time)
            begin = end
        put(begin, batch.size)
        return [Strange(records[at], reason) for at, reason in strange.items()]

    def _removals(
        self, records: Sequence[RecordLike], gone: Collection[int], rows: Sequence[int], keys: Sequence[bytes], times: Sequence[int]
    ) -> Iterator[tuple[int, bytes, int]]:
        """Yields before which of the rows, a key of the table is removed, and from when (ms) on. `rows` and `gone` are positions."""
        if self._keys_of is None:
            for at in gone:
                if (key := records[at].key) is not None:
                    yield bisect_left(rows, at), key, records[at].timestamp
            return
        number = 0
        for at, record in enumerate(records):
            is_row = number < len(rows) and rows[number] == at
            if record.key is None:
                number += is_row
                continue
            before = self._keys_of.get(record.key)
            if is_row:
                key, number = keys[number], number + 1
                if before is not None and before != key and self._held_by.get(before) == record.key:
                    del self._held_by[before]
                    yield number - 1, before, times[number - 1]
                self._keys_of[record.key] = key
                self._held_by[key] = record.key
            elif at in gone and before is not None:
                del self._keys_of[record.key]
                if self._held_by.get(before) == record.key:
                    del self._held_by[before]
                    yield number, before, record.timestamp


def table_reader(topology: Topology, name: str, described: Described) -> TableReader:
    """Returns what reads a table of a topology into separate rows; `described` has the schemas and writers of tables, by their names."""
    table, schema = next(one for one in topology.tables if one.name == name), described.schemas[name]
    stage = Stage(name, (Input(table, columns_of(table, schema)),), (), ())
    columns = next(one.columns for one in topology.lookups if one.table == name)
    return TableReader(table, schema, ports(Wiring(topology, (stage,)), described)[name], Rows(columns, table.history_ms))
