"""Ports: where a stage meets its topics. Bytes become columns and columns become bytes here, so that the engine knows no format.

Ports are made for one plan, since columns follow its models' signatures; a release that is prepared has both (`Program`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

import numpy as np
from msgspec.structs import replace

from penstock.batch import Batch, Failure, Table
from penstock.codecs import Decoder, Encoder, TableDecoder, Writers, decoder, encoder
from penstock.codecs.framing import framed
from penstock.engine import Plan
from penstock.errors import DecodeError
from penstock.record import RecordLike, Unreadable
from penstock.schema import Schema
from penstock.signature import Tensor
from penstock.topology import wiring
from penstock.topology.spec import Source

__all__ = ["Port", "Program", "ports"]

_VALUE, _HEADERS = attrgetter("value"), attrgetter("headers")  # with map, they cost half as much as a comprehension


class Described(Protocol):
    """What the events of a topology look like: schemas and their writers by source name, schemas and frames by sink name."""

    @property
    def schemas(self) -> Mapping[str, Schema]: ...
    @property
    def sink_schemas(self) -> Mapping[str, Schema]: ...
    @property
    def writers(self) -> Mapping[str, Writers]: ...
    @property
    def frames(self) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class Port:
    """The decoder and the encoders of one stage.

    `encoders` are by sink name. `id` is the column with the events' ids, None where the source names no field; `chained` is
    whether a sink of the same topology writes the source's topic: such events keep the ids that they entered with.
    """

    source: Source
    decoder: Decoder
    table: TableDecoder
    encoders: Mapping[str, Encoder]
    id: str | None
    chained: bool

    def decode(self, records: Sequence[RecordLike]) -> Batch:
        """Returns the records' columns, and a Failure for each record that is not an event. Rows of a Table are columns already."""
        if isinstance(records, Table):
            return self.table.decode(records)
        if records and isinstance(records[0], Unreadable):
            return self._unreadable(records)
        if self.source.format == "avro-confluent" and any(map(_HEADERS, records)):
            return self.decoder.decode([framed(one.value, one.headers) for one in records])
        return self.decoder.decode(list(map(_VALUE, records)))

    def _unreadable(self, records: Sequence[RecordLike]) -> Batch:
        """Returns a batch of no rows, with a Failure for each of these `Unreadable`s."""
        failures = tuple(Failure(row, DecodeError(getattr(one, "reason", ""), where="read")) for row, one in enumerate(records))
        return replace(self.decoder.decode([]), rows=np.empty(0, np.int64), failures=failures)


@dataclass(frozen=True, slots=True)
class Program:
    """A plan, and by stage name the ports that it was made with: everything that turns records into outputs."""

    plan: Plan
    ports: Mapping[str, Port]


def ports(wired: wiring.Wiring, described: Described) -> dict[str, Port]:
    """Returns the port of each stage, by name.

    Raises SchemaError for a format that cannot hold its fields.
    """
    written = {sink.topic for sink in wired.topology.sinks}
    return {stage.name: _port(stage, written, described) for stage in wired.stages}


def _port(stage: wiring.Stage, written: set[str], described: Described) -> Port:
    (only,) = stage.inputs
    source, schema = only.source, described.schemas[only.source.name]
    return Port(
        source=source,
        decoder=decoder(source.format, schema, only.columns, max_bytes=source.max_bytes, writers=described.writers.get(source.name)),
        table=TableDecoder(schema, only.columns),
        encoders={emit.sink.name: _encoder(emit, described) for emit in stage.emits},
        id=only.id,
        chained=source.topic in written,
    )


def _encoder(emit: wiring.Emit, described: Described) -> Encoder:
    sink, fields = emit.sink, [Tensor(field.name, field.dtype, field.shape) for field in emit.fields]
    return encoder(sink.format, fields, described.sink_schemas.get(sink.name), frame=described.frames.get(sink.name, b""))
