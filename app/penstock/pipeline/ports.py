"""Ports: where a stage meets its topics. Bytes become columns and columns become bytes here, so that the engine knows no format.

Ports are made for one plan, since columns follow its models' signatures; a release that is prepared has both (`Program`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, Protocol

import numpy as np
from msgspec.structs import replace

from penstock.batch import Array, Batch, Failure, Table
from penstock.codecs import BesideDecoder, ColumnEncoder, Decoder, Encoder, TableDecoder, Writers, decoder, encoder
from penstock.codecs.cloudevents import CloudEvents
from penstock.codecs.container import container_schema
from penstock.codecs.framing import framed
from penstock.engine import Plan
from penstock.errors import DecodeError
from penstock.pipeline.letters import SCHEMA
from penstock.record import Header, RecordLike, Unreadable
from penstock.schema import Column, Missing, Schema
from penstock.signature import Tensor
from penstock.topology import wiring
from penstock.topology.envelopes import GONE, operation
from penstock.topology.spec import Source

__all__ = ["Port", "Program", "Writes", "ports", "tensors"]

Writes = Literal["json", "avro", "columns"]

_ROW = attrgetter("row")
_VALUE, _HEADERS = attrgetter("value"), attrgetter("headers")  # with map, they cost half as much as a comprehension

_NOBODYS: Final = "no stage of this topology has written it"
_OTHERS: Final = "the stage before has written it with other fields than are read here: of another file, or of versions with other types"


class Described(Protocol):
    """The form of a topology's events: schemas and the writers of values and keys by source, schemas and frames by sink."""

    @property
    def schemas(self) -> Mapping[str, Schema]: ...
    @property
    def sink_schemas(self) -> Mapping[str, Schema]: ...
    @property
    def writers(self) -> Mapping[str, Writers]: ...
    @property
    def key_writers(self) -> Mapping[str, Writers]: ...
    @property
    def frames(self) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class Port:
    """The decoder and the encoders of one stage.

    `encoders` are by sink name, and so are `columns`, which keep outputs as columns for a caller that asks for them. `id` is the column
    with the events' ids, None where the source names no field; `chained` is whether a sink of the same topology writes the source's
    topic: such events keep the ids that they entered with; `behind` is whether an earlier stage of the same graph wrote them. `beside`
    makes the columns that are not in the values, where there are any; `changes` and `events` open the source's envelope and skip what is
    not read. Between two stages, `wrote` is the mark that a record has to have, and `writes` has that of outputs, by topic.
    A stage that joins has a port per input, by topic, in `inputs`; this one is that of the first.
    """

    source: Source
    decoder: Decoder
    table: TableDecoder
    encoders: Mapping[str, Encoder]
    columns: Mapping[str, Encoder]
    id: str | None
    chained: bool
    behind: bool = False
    beside: BesideDecoder | None = None
    changes: Changes | None = None
    events: CloudEvents | None = None
    wrote: bytes = b""
    writes: Mapping[str, Header] = field(default_factory=dict)
    inputs: Mapping[str, Port] = field(default_factory=dict)

    def decode(self, records: Sequence[RecordLike]) -> Batch:
        """Returns the records' columns, and a Failure for each record that is not an event. Rows of a Table are columns already.

        Records that the source's envelope says to skip are in neither.
        """
        if type(records) is Table:  # an abstract class answers `isinstance` in Python
            batch = self.table.decode(records)
            return batch if self.changes is None else self.changes.of_table(batch, records)
        if records and isinstance(records[0], Unreadable):
            return self._unreadable(records)
        if self.events is not None:
            bare, rows, errors = self.events.open(records)
            return self._decode(bare).placed(rows, errors)
        if self.wrote and (strange := self._strange(records)):
            rows = [row for row in range(len(records)) if row not in strange]
            return self._decode([records[row] for row in rows]).placed(rows, strange)
        return self._decode(records)

    def _strange(self, records: Sequence[RecordLike]) -> dict[int, DecodeError]:
        """Returns the records that the stage before has not written, or with versions whose outputs are of other types."""
        mark = SCHEMA, self.wrote
        rows = [row for row, headers in enumerate(map(_HEADERS, records)) if mark not in headers]
        return {row: DecodeError(_OTHERS if SCHEMA in dict(records[row].headers) else _NOBODYS) for row in rows}

    def _decode(self, records: Sequence[RecordLike]) -> Batch:
        if self.source.format.endswith("-confluent") and any(map(_HEADERS, records)):
            values = [framed(one.value, one.headers) for one in records]
        else:
            values = list(map(_VALUE, records))
        batch = self.decoder.decode(values)
        if self.changes is not None:
            batch = self.changes.without_gone(batch, values)
        return batch if self.beside is None else self._joined(batch, *self.beside.decode(records))

    def _joined(self, batch: Batch, columns: Mapping[str, Array], errors: Mapping[int, DecodeError]) -> Batch:
        """Returns the batch with the columns beside its values, without the rows in `errors`."""
        rows = np.arange(batch.size) if batch.rows is None else batch.rows
        whole = batch.with_columns({name: column if batch.rows is None else column[rows] for name, column in columns.items()})
        failed = {at: errors[row] for at, row in enumerate(rows.tolist()) if row in errors} if errors else {}
        return replace(joined := whole.fail(failed), failures=tuple(sorted(joined.failures, key=_ROW)))

    def _unreadable(self, records: Sequence[RecordLike]) -> Batch:
        """Returns a batch of no rows, with a Failure for each of these `Unreadable`s."""
        failures = tuple(Failure(row, DecodeError(getattr(one, "reason", ""), where="read")) for row, one in enumerate(records))
        return replace(self.decoder.decode([]), rows=np.empty(0, np.int64), failures=failures)


class Changes:
    """Drops the changes of a database that leave no row, and tombstones.

    `column` holds each change's operation; `operations` decodes it alone, for rows that fail because they have no row.
    """

    def __init__(self, column: Column, operations: Decoder) -> None:
        self._column, self._field = column.name, column.field
        self._operations = operations

    def of_table(self, batch: Batch, table: Table) -> Batch:
        """Returns the batch of a table without the rows, and without the failures, of changes that leave no row."""
        operations = table.columns.get(self._field)
        gone = () if operations is None else [row for row, what in enumerate(operations.tolist()) if what in GONE]
        if not gone:
            return batch
        rows = np.arange(batch.size) if batch.rows is None else batch.rows
        left = batch.take(np.flatnonzero(~np.isin(rows, gone)))
        return replace(left, failures=tuple(one for one in batch.failures if one.row not in {*gone}))

    def without_gone(self, batch: Batch, values: Sequence[bytes | None]) -> Batch:
        """Returns the batch of these values without the rows, and without the failures, of changes that leave no row."""
        operations = batch.columns[self._column].tolist()
        left = np.array([at for at, what in enumerate(operations) if what not in GONE], np.intp)
        if len(left) < batch.size:
            batch = batch.take(left)
        if not batch.failures:
            return batch
        suspects = [failure for failure in batch.failures if values[failure.row] is not None]
        alone = self._operations.decode([values[failure.row] for failure in suspects])
        rows = range(len(suspects)) if alone.rows is None else alone.rows.tolist()
        kept = {one.row: one for one in suspects}
        for at, what in zip(rows, alone.columns[self._column].tolist(), strict=True):
            if what in GONE:
                del kept[suspects[at].row]
        good = np.arange(batch.size) if batch.rows is None else batch.rows
        return replace(batch, rows=good, failures=tuple(kept.values()))


@dataclass(frozen=True, slots=True)
class Program:
    """A plan, and by stage name the ports that it was made with: everything that turns records into outputs.

    `staged` is whether the topology is cut into stages: then outputs name the generation of each.
    """

    plan: Plan
    ports: Mapping[str, Port]
    staged: bool = False


def ports(
    wired: wiring.Wiring,
    described: Described,
    *,
    json: Collection[str] = (),
    writes: Writes | None = None,
    marks: Mapping[str, bytes] = MappingProxyType({}),
) -> dict[str, Port]:
    """Returns the port of each stage, by name. The stages in `json` read JSON, whatever the format of their source.

    `marks` are those of the records between two stages, by node. `writes` is the form of all outputs, whatever the formats of
    the sinks: JSON, datums of `container_schema`, or columns.
    Raises SchemaError for a format that cannot hold its fields.
    """
    written = {sink.topic for sink in wired.topology.sinks}
    return {stage.name: _port(stage, written, described, marks, json=stage.name in json, writes=writes) for stage in wired.stages}


def _port(
    stage: wiring.Stage, written: set[str], described: Described, marks: Mapping[str, bytes], *, json: bool, writes: Writes | None
) -> Port:
    if len(stage.inputs) > 1:
        pieces = [dataclasses.replace(stage, inputs=(one,)) for one in stage.inputs]
        members = [_port(one, written, described, marks, json=json, writes=writes) for one in pieces]
        return dataclasses.replace(members[0], inputs={one.source.topic: one for one in members})
    (only,) = stage.inputs
    source = dataclasses.replace(only.source, format="json") if json else only.source
    schema = described.schemas[source.name]

    def make(schema: Schema, columns: Sequence[Column], *, of: Mapping[str, Writers] = described.writers) -> Decoder:
        writers = of.get(source.name)
        return decoder(source.format, schema, columns, max_bytes=source.max_bytes, coerce=source.coerce, writers=writers)

    beside = [column for column in only.columns if schema.is_beside(column.field)]
    inside = [column for column in only.columns if not schema.is_beside(column.field)]
    changes = None
    if source.envelope == "debezium":
        what = Column("(operation)", operation(schema) or "", "string", missing=Missing("fill", None))
        inside.append(what)
        # In JSON, the operation is read whatever the rest of a deletion looks like.
        alone = schema.alone(what.field) if source.format in ("json", "json-confluent") else schema
        changes = Changes(what, make(alone, [what]))
    events = None
    if source.envelope == "cloudevents":
        read = [column.field.removeprefix("ce.") for column in beside if column.field.partition(".")[0] == "ce"]
        events = CloudEvents(read, source.types, json=source.format.startswith("json"), max_bytes=source.max_bytes)
    return Port(
        source=source,
        decoder=make(schema, inside),
        table=TableDecoder(schema, only.columns),
        encoders={emit.sink.name: _encoder(emit, described, writes) for emit in stage.emits},
        columns={emit.sink.name: _encoder(emit, described, "columns") for emit in stage.emits},
        id=only.id,
        chained=source.topic in written,
        behind=only.behind != "",
        beside=BesideDecoder(schema, beside, partial(make, of=described.key_writers)) if beside else None,
        changes=changes,
        events=events,
        wrote=marks.get(only.behind, b""),
        writes={emit.sink.topic: (SCHEMA, marks[emit.sink.name]) for emit in stage.emits if emit.sink.name in marks},
    )


def tensors(emit: wiring.Emit) -> list[Tensor]:
    """Returns the fields of a sink's outputs."""
    return [Tensor(field.name, field.dtype, field.shape) for field in emit.fields]


def _encoder(emit: wiring.Emit, described: Described, writes: Writes | None) -> Encoder:
    sink, fields = emit.sink, tensors(emit)
    schema = described.sink_schemas.get(sink.name)
    if writes == "columns":
        return ColumnEncoder(fields, schema)
    if writes == "json":
        return encoder("json", fields, schema)
    if writes == "avro":
        return encoder("avro", fields, container_schema(sink.name, fields, schema))
    gaps = [field.name for field in emit.fields if field.missing.action == "fill"]
    return encoder(sink.format, fields, schema, frame=described.frames.get(sink.name, b""), gaps=gaps)
