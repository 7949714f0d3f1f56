"""A table on its way in: the records of its topic become rows, tombstones and deletions remove them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from penstock.batch import Batch, Table
from penstock.pipeline.ports import Described, Port, ports
from penstock.record import RecordLike
from penstock.schema import Schema
from penstock.state import Change, Rows
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
    """Reads the records of a table into `rows`, in the order of their topic."""

    def __init__(self, table: Spec, schema: Schema, port: Port, rows: Rows) -> None:
        self.table, self.rows = table, rows
        self._port, self._keys = port, [key_column(number) for number in range(len(table.keyed_by))]
        time = None if table.time is None else schema.field(table.time)
        self._scale = 0 if time is None else 1000 if time.unit == "us" else 1
        self._owned = not all(schema.is_beside(name) for name in table.keyed_by)  # a record's key is not the table's

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
        strange = {written[one.row]: _reason(str(one.error)) for one in batch.failures}
        kept = {*rows.tolist(), *strange}
        changes = dict(zip(rows.tolist(), self._written(batch, [records[at] for at in rows.tolist()]), strict=True))
        gone = [at for at in range(len(records)) if at not in kept]
        for at, owner in zip(gone, self._owners_of([records[at] for at in gone]), strict=True):
            if owner is None:
                strange[at] = "it removes a row, and its key names none"
            else:
                changes[at] = Change(owner, None, records[at].timestamp)
        self.rows.apply([changes[at] for at in sorted(changes)], batch.columns)
        return [Strange(records[at], strange[at]) for at in sorted(strange)]

    def _written(self, batch: Batch, records: Sequence[RecordLike]) -> Iterator[Change]:
        if not batch.size:
            return
        keys = keys_of([batch.columns[name] for name in self._keys])
        times = (batch.columns[TIME] // self._scale).tolist() if self._scale else [one.timestamp for one in records]
        for key, time, record in zip(keys, times, records, strict=True):
            yield Change(record.key if self._owned and record.key is not None else key, key, time)

    def _owners_of(self, removals: Sequence[RecordLike]) -> Sequence[bytes | None]:
        """Returns whose rows these records remove; None where a record does not say it."""
        if self._owned or not self.table.key or not removals:
            return [one.key for one in removals]
        assert self._port.beside is not None, "the table's key is in the keys of its records"
        columns, errors = self._port.beside.decode(removals)
        keys = keys_of([columns[name] for name in self._keys])
        return [None if row in errors else key for row, key in enumerate(keys)]


def _reason(text: str) -> str:
    """Returns the reason of a failure without the advice for sources: a table has no `missing`."""
    return text.partition(", and the topology gives no value")[0]


def table_reader(topology: Topology, name: str, described: Described) -> TableReader:
    """Returns what reads a table of a topology into separate rows; `described` has the schemas and writers of tables, by their names."""
    table, schema = next(one for one in topology.tables if one.name == name), described.schemas[name]
    stage = Stage(name, (Input(table, columns_of(table, schema)),), (), ())
    columns = next(one.columns for one in topology.lookups if one.table == name) or ()
    return TableReader(table, schema, ports(Wiring(topology, (stage,)), described)[name], Rows(columns, table.history_ms))
