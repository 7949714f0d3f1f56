"""Answers: the events of one source, and what becomes of them, for a caller that waits: no topics, no loop, no offsets.

Programs, the service and the adapters to other engines score with it. The steps of a chunk are those of a worker (`score`). Where a sink
writes the topic of another source, its outputs go through that source's stage as well, encoded and decoded as between two workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from penstock.batch import Array, Failure
from penstock.engine import Output
from penstock.engine.observe import Observers
from penstock.errors import RecordError, SchemaWanted
from penstock.parcel import Columns, chosen
from penstock.pipeline.ports import Program
from penstock.pipeline.score import Chunk, Pass, Pipeline, Written
from penstock.record import Record, RecordLike
from penstock.telemetry.metrics import Metrics
from penstock.topology.wiring import OutputField
from penstock.transports.memory import Memory, MemorySink

__all__ = ["Answer", "Answered", "Answers", "begun"]


class Answer(NamedTuple):
    """The outputs to one sink: `values` as the sink writes them, or `columns` by field, each `[N, ...]`; `rows` they answer."""

    rows: Sequence[int]
    values: list[bytes]
    columns: Mapping[str, Array]


class Answered(NamedTuple):
    """What became of the rows: an Answer per sink, by name, and per row that failed, in any stage, its first failure.

    A row that is in no sink and no failure was skipped: by its source's envelope, or by the sinks' `when`.
    """

    answers: Mapping[str, Answer]
    failures: tuple[Failure, ...]


_Part = tuple[Written, Sequence[int]]  # what was written of a chunk, and the numbers of its rows


class Answers:
    """The stages of a program that the events of one source go through. Used by one thread at a time.

    `outputs` are by the name of the sink, in the order of the stages; `reads` are the fields of the events that they need. `generation` is
    the program's place in the control log. Raises ValueError for a source that the program does not have.
    """

    def __init__(
        self,
        program: Program,
        source: str,
        *,
        generation: int = 0,
        chunk_rows: int = 256,
        metrics: Metrics | None = None,
        observers: Observers | None = None,
    ) -> None:
        if source not in program.plan.stages:
            raise ValueError(f"{program.plan.topology} has no source {source!r}; it has {', '.join(program.plan.stages)}")
        metrics = metrics or Metrics()
        first, topics = program.plan.stages[source], set[str]()
        self._stages: list[Pipeline] = []
        for name, stage in program.plan.stages.items():  # in an order in which each stands after those that feed it
            if stage is first or stage.wired.source.topic in topics:
                topics |= {output.emit.sink.topic for output in stage.outputs}
                self._stages.append(
                    Pipeline(
                        program, name, sink=_ANYWHERE, generation=generation, chunk_rows=chunk_rows, metrics=metrics, observers=observers
                    )
                )
        self.source = first.wired.source
        self.reads = {column.field for one in first.wired.inputs for column in one.columns}
        self._topic = self.source.topic
        self._read = {one.stage.wired.source.topic for one in self._stages[1:]}
        self.generation = generation
        self.outputs: Mapping[str, Output] = {output.emit.sink.name: output for one in self._stages for output in one.stage.outputs}

    @property
    def sinks(self) -> list[str]:
        """The sinks that the events reach, in the order of their stages."""
        return [*self.outputs]

    def run(self, rows: Sequence[RecordLike], *, columns: bool = False) -> Answered:
        """Scores the rows, records or a Table, and returns the answers: encoded, or with `columns` as arrays.

        Never raises for what is in a row. Raises TransportError when a schema registry has to be asked, and does not answer.
        """
        first = self._stages[0]
        if len(self._stages) == 1 and 0 < len(rows) <= min(first.chunk_rows, first.table_rows):  # one chunk, as most calls have
            written, failures = first.answer(begun(first, Chunk(rows, ((self._topic, 0, len(rows)),))), columns=columns)
            if not failures and not columns and all(one.rows is None for one in written):
                answers = zip(self.outputs, written, strict=True)
                return Answered({name: Answer(range(len(rows)), [*one.values], {}) for name, one in answers}, ())
            there: dict[str, list[_Part]] = {name: [(one, range(len(rows)))] for name, one in zip(self.outputs, written, strict=True)}
            failed = {one.row: one.error for one in reversed(failures)}
        else:
            there, failed = self._through(rows, columns=columns)
        made = {name: _answer(self.outputs[name], found, failed, columns=columns) for name, found in there.items()}
        return Answered(made, tuple(Failure(row, failed[row]) for row in sorted(failed)))

    def _through(self, rows: Sequence[RecordLike], *, columns: bool) -> tuple[dict[str, list[_Part]], dict[int, RecordError]]:
        """Returns what the chunks wrote in all stages, by sink, and the first failure of each row that has one."""
        parts: dict[str, list[_Part]] = {name: [] for name in self.outputs}
        failed: dict[int, RecordError] = {}
        waiting: dict[str, list[tuple[Record, int]]] = {self._topic: []}
        for pipeline in self._stages:
            topic = pipeline.stage.wired.source.topic
            records: Sequence[RecordLike] = [record for record, _ in waiting[topic]] if pipeline is not self._stages[0] else rows
            numbers: Sequence[int] = [row for _, row in waiting[topic]] if pipeline is not self._stages[0] else range(len(rows))
            for chunk in pipeline.chunks([((topic, 0), records)] if len(records) else []):
                here, numbers = numbers[: chunk.rows], numbers[chunk.rows :]
                passing = begun(pipeline, chunk)
                written, failures = pipeline.answer(passing, columns=columns)
                for output, one in zip(pipeline.stage.outputs, written, strict=True):
                    parts[output.emit.sink.name].append((one, here))
                    if output.emit.sink.topic in self._read:
                        encoded = pipeline.encode(output, passing) if columns else one
                        failures += encoded.failures
                        ahead = waiting.setdefault(output.emit.sink.topic, [])
                        ahead += _records(pipeline, output, passing, encoded, here)
                for failure in failures:
                    failed.setdefault(here[failure.row], failure.error)
        return parts, failed


def _records(pipeline: Pipeline, output: Output, passing: Pass, written: Written, numbers: Sequence[int]) -> Iterator[tuple[Record, int]]:
    """Yields the outputs as the records that another stage reads, each with the row that it answers."""
    if written.values:
        for parcel, those in pipeline.address(output, passing, written):
            for (stamp, key, value, headers), row in zip(parcel.records, those, strict=True):
                yield Record(parcel.topic, value, key, headers, stamp), numbers[row]


def _answer(output: Output, parts: Sequence[_Part], failed: Mapping[int, RecordError], *, columns: bool) -> Answer:
    """Returns what the chunks wrote together, without the rows that failed for another sink."""
    if len(parts) == 1 and parts[0][0].rows is None and not failed and not columns:  # nothing to put together, as most calls are
        return Answer(parts[0][1], [*parts[0][0].values], {})
    rows = [row for written, numbers in parts for row in (numbers if written.rows is None else (numbers[at] for at in written.rows))]
    values: Sequence[bytes]
    if columns:
        there = [written.values for written, _ in parts if isinstance(written.values, Columns)]
        values = Columns.joined(there) if there else Columns(0, {field.name: _empty(field) for field in output.emit.fields})
    else:
        values = [value for written, _ in parts for value in written.values]
    if failed and not failed.keys().isdisjoint(rows):
        good = [at for at, row in enumerate(rows) if row not in failed]
        rows, values = [rows[at] for at in good], chosen(values, good)
    return Answer(rows, [], values.columns) if isinstance(values, Columns) else Answer(rows, [*values], {})


def _empty(field: OutputField) -> Array:
    kind = np.dtype(object) if field.dtype == "string" else np.dtype(field.dtype)
    return np.empty((0, *(axis or 0 for axis in field.shape)), kind)


def begun(pipeline: Pipeline, chunk: Chunk) -> Pass:
    """Returns the decoded chunk. A schema that is not known yet is fetched."""
    while True:
        try:
            return pipeline.begin(chunk)
        except SchemaWanted as wanted:
            wanted.fetch()


_ANYWHERE: Final = MemorySink(Memory(1))  # for the limits and partitions of outputs: it takes any size, and has one partition
