"""Pipeline: the steps from the records of one stage to its outputs, between taking and sending.

1. decode       bytes to columns; a record that is not an event fails
2. execute      the plan's nodes; rows on which a model fails, fail
3. encode       columns to the sinks' bytes; an output that cannot be written, or is larger than its topic takes, fails; where a
                number is not finite, it is a failure of the node that computed it
4. address      topic, partition, key, timestamp, headers and id of each output
5. dead-letter  the failed records, as they came, with the reason in their headers

The loop (`delivery`) sends and then acknowledges. Nothing here waits, and nothing here raises because of a record.

An event's **id** is what its source's `id` field holds; without one it is the id that it entered the topology with: of a topic
that the same topology writes, the header of its record, else its position TOPIC:PARTITION:OFFSET. It travels as the header
`penstock-id` of outputs and dead letters.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple, cast

import msgspec
import numpy as np

from penstock.batch import Array, Batch, Failure, Origin, Table
from penstock.codecs.cloudevents import CONTENT_TYPE, MARK
from penstock.engine import Execution, Output
from penstock.engine.observe import Observers
from penstock.engine.split import Split, of_candidate
from penstock.errors import EncodeError, InferenceError, RecordError
from penstock.native import native
from penstock.parcel import Parcel, chosen
from penstock.pipeline.letters import (
    EVENT,
    EXPERIMENT,
    FELL,
    ID,
    JOIN,
    LIVE,
    MATCH,
    MODELS,
    OWN,
    PROPENSITY,
    SOURCE,
    STAGES,
    VARIANT,
    Address,
    dead_letters,
    fitting,
)  # fmt: skip
from penstock.pipeline.ports import Program
from penstock.pipeline.trial import Candidate, arm_headers
from penstock.record import Header, Position, RecordLike, Unreadable
from penstock.state import States
from penstock.telemetry.metrics import Metrics, NodeMeter
from penstock.topology.wiring import Matched
from penstock.transports.base import UNLIMITED, Refused, Sink
from penstock.transports.tracker import Partition

__all__ = ["Chunk", "Pass", "Pipeline", "Written"]

logger = logging.getLogger(__name__)

_HEADERS, _KEY = attrgetter("headers"), attrgetter("key")  # with map, they cost half as much as a comprehension
OFFSET = 19  # digits of the largest offset
LEAST_LETTER = 16_384  # bytes
_THERE = "join?.there"  # of records that a join has put together: whether it had an answer
TRACES = 64  # of earlier stages, whose headers are kept
_TRIAL = (EXPERIMENT, VARIANT, PROPENSITY, FELL)
AROUND = 256  # bytes of an output beside its key, its value, and its headers' texts: lengths, counts, the batch's own header


_Trace = tuple[bytes, bytes]  # the models and the generations of the stages before


class Chunk(msgspec.Struct, frozen=True):
    """Rows that go through the models together: a piece of a large span, or several small spans.

    `places` gives the topic, the partition and the number of records of each run of records. `recalled` is as in `Origin`: of records that
    were scored before.
    """

    records: Sequence[RecordLike]
    places: tuple[tuple[str, int, int], ...]
    recalled: Mapping[str, Array] = {}

    @property
    def rows(self) -> int:
        return len(self.records)

    def part(self, start: int, end: int) -> Chunk:
        """Returns the rows from `start` to `end`, `end` not included."""
        places, at = [], 0
        for topic, partition, count in self.places:
            if (inside := min(end, at + count) - max(start, at)) > 0:
                places.append((topic, partition, inside))
            at += count
        return Chunk(self.records[start:end], tuple(places), {name: column[start:end] for name, column in self.recalled.items()})

    def pick(self, rows: Sequence[int]) -> Chunk:
        """Returns these rows; they ascend."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return self.part(rows[0], rows[-1] + 1)
        ends = [*accumulate(count for _, _, count in self.places)]
        counts = Counter(bisect_right(ends, row) for row in rows)
        places = tuple((*self.places[run][:2], count) for run, count in sorted(counts.items()))
        return Chunk([self.records[row] for row in rows], places, {name: column[[*rows]] for name, column in self.recalled.items()})

    def position(self, row: int) -> Position:
        """Returns the place of a row's record."""
        (place,) = self.part(row, row + 1).places
        return Position(place[0], place[1], self.records[row].offset)


class Pass:
    """A chunk on its way through the steps: computed results are not computed again."""

    __slots__ = ("chunk", "execution", "ids")

    def __init__(self, chunk: Chunk, execution: Execution | Split, ids: list[str] | None) -> None:
        self.chunk = chunk
        self.execution = execution
        self.ids = ids


class Written(NamedTuple):
    """The outputs of a chunk to one sink: values, keys if the sink sets them, row numbers (None: all rows), and the failures.

    Where columns were asked for, the values are `Columns`, unless there are no rows.
    """

    values: Sequence[bytes]
    keys: list[bytes] | None
    rows: list[int] | None
    failures: tuple[Failure, ...]


class Pipeline:
    """One stage of a program, with everything that is the same for all its records made once.

    `generation` is the program's place in the control log, which every output's headers carry, and `candidate` what is on trial in it.
    `sink` gives the partition of an output whose key it sets, and the size limit of each topic.
    """

    def __init__(
        self,
        program: Program,
        stage: str,
        *,
        sink: Sink,
        generation: int = 0,
        candidate: Candidate | None = None,
        chunk_rows: int = 256,
        metrics: Metrics | None = None,
        observers: Observers | None = None,
    ) -> None:
        self.stage = program.plan.stages[stage]
        self.port = program.ports[stage]
        self.chunk_rows = chunk_rows * self.port.decoder.spread
        self.table_rows = chunk_rows * self.port.table.spread
        self.metrics = metrics or Metrics()
        self.observers = observers or Observers()
        windows = {node.name for node in self.stage.nodes if node.stateful}
        self._recognises = bool(windows and self.port.behind)  # events that the stage before writes again
        gather = self.stage.wired.gather
        self.matches = isinstance(gather, Matched)
        self.remembers = frozenset(gather.remembers if isinstance(gather, Matched) else windows)
        self._generation = generation
        cells = {node.name: self.metrics.node(node.name, node.version) for node in self.stage.nodes}
        self._candidate = candidate
        self._divided = None if candidate is None else candidate.beside(program.plan, stage)
        if self._divided is not None and candidate is not None:
            cells |= {of_candidate(node.name): self.metrics.node(node.name, node.version) for node in self._divided.candidate.nodes}
            self._read_by_candidate = candidate.program.ports[stage]
        self._meter = NodeMeter(cells)
        self._sink = sink
        self._topology = program.plan.topology
        self._about: tuple[Header, ...] = (
            (f"{OWN}topology", self._topology.encode()),
            (f"{OWN}generation", b"%d" % generation),
            *(said := _scored_with(program, stage, generation)),
        )
        # The headers about an output that differ by the arm of its row.
        self._arms: tuple[tuple[Header, ...], ...] = ()
        if self._divided is not None and candidate is not None:
            self._arms = arm_headers(candidate, (said, _scored_with(candidate.program, stage, generation)))
        self._traces: dict[tuple[_Trace, int | None], tuple[Header, ...]] = {}
        about = (*self._about, (VARIANT, LIVE.encode()))
        self._letters = Address(self.port.source.dead_letter, about)
        self._letters_of = {topic: Address(one.source.dead_letter, about) for topic, one in self.port.inputs.items()}

    def chunks(self, spans: Iterable[tuple[Partition, Sequence[RecordLike]]]) -> Iterator[Chunk]:
        """Splits large spans and joins small ones, so that a chunk holds at most `chunk_rows` rows.

        Tables, and what is unreadable, stay alone.
        """
        group: list[tuple[Partition, Sequence[RecordLike]]] = []
        rows = 0
        for place, records in spans:
            table = type(records) is Table
            alone = table or (len(records) > 0 and isinstance(records[0], Unreadable))
            limit = self.table_rows if table else self.chunk_rows
            for at in range(0, len(records), limit):
                piece = records if len(records) <= limit else records[at : at + limit]
                if group and (rows + len(piece) > limit or alone):
                    yield _chunk(group)
                    group, rows = [], 0
                group.append((place, piece))
                rows = limit if alone else rows + len(piece)
        if group:
            yield _chunk(group)

    def begin(self, chunk: Chunk, states: States | None = None) -> Pass:
        """Step 1, and the events' ids. `states` are what the nodes remember."""
        began = time.perf_counter()
        events = [_trace(headers)[1][0][1] or b"" for headers in map(_HEADERS, chunk.records)] if self._recognises else None
        batch = self.port.decode(chunk.records) if len(self.stage.wired.inputs) == 1 else self._gathered_before(chunk)
        batch = batch.with_origin(Origin(chunk.records, chunk.places, events, chunk.recalled))
        passing = Pass(chunk, self._execution(batch, chunk, states), self._identify(batch, chunk))
        self.metrics.decode_seconds.inc(time.perf_counter() - began)
        if skipped := chunk.rows - batch.size - len(batch.failures):
            self.metrics.skipped.inc(skipped)
        return passing

    def complete(self, passing: Pass, *, isolate: bool = True) -> list[Parcel]:
        """Steps 2 to 5. `isolate` as in `engine.Execution`: after InferenceError, a second call continues where it was raised."""
        batch = self._execute(passing, isolate=isolate)  # 2
        began = time.perf_counter()
        parcels, failures = self._written(passing)
        if isinstance(tried := passing.execution, Split):
            while failures and tried.fall_back(failures):
                parcels, failures = self._written(passing)
            batch = tried.batch
            assert self._candidate is not None, "nothing else divides a stage"
            for outcome, rows in self._candidate.tally.take(tried, failures, passing.chunk.position, self._writable).items():
                self.metrics.trial_rows.labels(outcome).inc(rows)
        if failures:
            parcels += self._bury(passing, failures)  # 5
        self._count(batch, failures, began, tried if isinstance(tried, Split) else None)
        return parcels

    def _written(self, passing: Pass) -> tuple[list[Parcel], list[Failure]]:
        """Steps 3 and 4: what can be written of a chunk that was executed, and what failed, then or before."""
        batch = passing.execution.batch
        failures = [*batch.failures]
        parcels: list[Parcel] = []
        for output in self.stage.outputs:
            written = self._encode(output, batch)  # 3
            failures += written.failures
            for parcel, numbers in self.address(output, passing, written):  # 4
                fitting, large = self._fitting(parcel, numbers)
                failures += large
                if len(fitting):
                    parcels.append(fitting)
        return parcels, failures

    def answer(self, passing: Pass, *, columns: bool = False) -> tuple[list[Written], list[Failure]]:
        """Steps 2 and 3, for a caller that waits: what was written to each output of the stage, in their order, and what failed.

        With `columns`, fields stay the arrays that a value would be made of, and are refused as their sink refuses them.
        """
        batch = self._execute(passing)
        began = time.perf_counter()
        written = [self._encode(output, batch, columns=columns) for output in self.stage.outputs]
        failures = [*batch.failures]
        for one in written:
            failures += one.failures
        self._count(batch, failures, began)
        return written, failures

    def encode(self, output: Output, passing: Pass) -> Written:
        """Step 3 for one output of a chunk that was executed."""
        return self._encode(output, passing.execution.batch)

    def _execute(self, passing: Pass, *, isolate: bool = True) -> Batch:
        began = time.perf_counter()
        if not passing.execution.next:
            self._meter.start(began)
        batch = passing.execution.run(isolate=isolate, tell=self._meter)
        self.metrics.execute_seconds.inc(time.perf_counter() - began)
        return batch

    def _writable(self, batch: Batch) -> set[int]:
        """Returns the numbers of the rows that all outputs can be written of."""
        bad = {one.row for output in self.stage.outputs for one in self._encode(output, batch).failures}
        return {*(range(batch.size) if batch.rows is None else batch.rows.tolist())} - bad

    def _count(self, batch: Batch, failures: Sequence[Failure], began: float, tried: Split | None = None) -> None:
        """Notes what became of the chunk, and shows it to the observers: where something is on trial, what the live plan has answered."""
        if len(failures) > len(batch.failures):
            blamed = {
                one.row: one.error.where for one in reversed(failures[len(batch.failures) :]) if isinstance(one.error, InferenceError)
            }
            self._meter.blame(blamed.values())
        self._meter.count()
        self.metrics.encode_seconds.inc(time.perf_counter() - began)
        if self.observers:
            shown = batch if tried is None else tried.by_live
            self.observers.saw(self.stage, shown, failures, generation=self._generation)

    def paired(self, chunk: Chunk, batch: Batch) -> Pass:
        """Returns rows that a match has put together as if they had been decoded, with the ids of their left events."""
        return self.gathered(chunk, batch, self._identify(batch, chunk))

    def gathered(self, chunk: Chunk, batch: Batch, ids: list[str] | None) -> Pass:
        """Returns rows that a join has put together as if they had been decoded. `ids` None: each is the record's position."""
        whole = batch.with_origin(Origin(chunk.records, chunk.places, recalled=_whole(batch, chunk)))
        return Pass(chunk, self._execution(whole, chunk), ids)

    def _execution(self, batch: Batch, chunk: Chunk, states: States | None = None) -> Execution | Split:
        if self._divided is None:
            return Execution(self.stage, batch, states)
        hopeless = self._candidate is not None and self._candidate.tally.hopeless
        return Split(self._divided, batch, chunk.rows, states, lambda rows: self._again(chunk, rows), hopeless=hopeless)

    def _again(self, chunk: Chunk, rows: Sequence[int]) -> Batch:
        """Returns records as the candidate reads them."""
        return self._read_by_candidate.decode(_inputs(chunk.records, rows)).placed(rows, {})

    def knows(self, chunk: Chunk) -> bool:
        """Whether `begin` finds the columns of the chunk: those that a join has put together are not in its records, but recalled."""
        inputs = self.stage.wired.inputs
        return len(inputs) == 1 or all(column.name in chunk.recalled for one in inputs for column in one.columns)

    def _gathered_before(self, chunk: Chunk) -> Batch:
        """Returns rows that a join has put together before. Raises ValueError for columns that it did not have (`knows`)."""
        if not self.knows(chunk):
            raise ValueError(f"the stage {self.stage.wired.name} joins, and these records are not put together")
        there = chunk.recalled[_THERE]
        at = np.flatnonzero(there)
        columns = {name: column[at] for name, column in chunk.recalled.items() if name != _THERE}
        error = InferenceError("its join had no answer")
        return Batch(len(at), columns, at, tuple(Failure(row, error) for row in np.flatnonzero(~there).tolist()))

    def process(self, chunk: Chunk) -> list[Parcel]:
        """Steps 1 to 5."""
        return self.complete(self.begin(chunk))

    # -- 1 ---------------------------------------------------------------------------------------------------------

    def _identify(self, batch: Batch, chunk: Chunk) -> list[str] | None:
        """Returns the id of each input row; None when every id is the position."""
        if self.port.id is None or not batch.size:
            return self._inherited(chunk) if self.port.chained else None
        found = batch.columns[self.port.id].tolist()
        if not isinstance(found[0], str):
            found = [None if one is None else str(one) for one in found]
        if batch.rows is None and None not in found:
            return list(found)
        ids = self._inherited(chunk) or _positions(chunk)
        for row, id in zip(range(batch.size) if batch.rows is None else batch.rows.tolist(), found, strict=True):
            if id is not None:
                ids[row] = id
        return ids

    def _inherited(self, chunk: Chunk) -> list[str] | None:
        """Returns the ids in the headers of events that this topology wrote."""
        if not self.port.chained or not any(map(_HEADERS, chunk.records)):
            return None
        ids = _positions(chunk)
        ours = f"{OWN}topology", self._topology.encode()
        for row, headers in enumerate(map(_HEADERS, chunk.records)):
            if ours in headers and (came := dict(headers).get(ID)):
                ids[row] = came.decode(errors="replace")
        return ids

    # -- 3 ---------------------------------------------------------------------------------------------------------

    def _encode(self, output: Output, batch: Batch, *, columns: bool = False) -> Written:
        if output.emit.when is not None and batch.size:
            written = batch.columns[output.emit.when]
            batch = batch if written.all() else batch.take(np.flatnonzero(written))
        if not batch.size:
            return Written([], None, [], ())
        picked, sink = [pick(batch.columns) for pick in output.picks], output.emit.sink.name
        values, errors = (self.port.columns if columns else self.port.encoders)[sink].encode(picked)
        keys = None
        if output.key is not None:
            found = output.key(batch.columns).tolist()
            keys = [_key(key) for key in found]
            if None in found:
                reason = f"the key of the sink {sink} is null"
                errors = {**errors, **{at: EncodeError(reason) for at, key in enumerate(found) if key is None}}
        rows = None if batch.rows is None else batch.rows.tolist()
        if not errors:
            return Written(values, keys, rows, ())
        numbers = range(batch.size) if rows is None else rows
        left = [at for at in range(batch.size) if at not in errors]
        return Written(
            chosen(values, left),
            None if keys is None else [keys[at] for at in left],
            [numbers[at] for at in left],
            tuple(Failure(numbers[at], error) for at, error in self._blamed(output, batch, errors)),
        )

    def _blamed(self, output: Output, batch: Batch, errors: Mapping[int, RecordError]) -> Iterator[tuple[int, RecordError]]:
        """Yields the errors; where a number that a node computed is not finite, an error of that node, which names the others alike."""
        given = {column.name for one in self.stage.wired.inputs for column in one.columns}
        made = {field.name: field.part.column for field in output.emit.fields if field.part.column not in given}
        nodes = {name: name.partition(".")[0] for name in batch.columns if name not in given}
        floats = [name for name in nodes if batch.columns[name].dtype.kind == "f"]
        fine = {name: np.isfinite(batch.columns[name].reshape(batch.size, -1)) for name in floats}
        for at, error in errors.items():
            if not isinstance(error, EncodeError) or error.field not in made:
                yield at, error
                continue
            node = nodes[made[error.field]]
            others = dict.fromkeys(nodes[name] for name in floats if nodes[name] != node and not fine[name][at].all())
            also = f"; nor is an output of {', '.join(others)}" if others else ""
            yield at, InferenceError(f"{error}{also}", where=node)

    def _fitting(self, parcel: Parcel, numbers: Sequence[int]) -> tuple[Parcel, list[Failure]]:
        """Returns the parcel without the outputs that no batch of their topic takes, and these as failures."""
        limit = self._sink.limit(parcel.topic)
        if limit >= UNLIMITED or _weight(parcel) <= limit:
            return parcel, []
        large = [at for at in range(len(parcel)) if not self._fits(parcel.part(at, at + 1), limit)]
        if not large:
            return parcel, []
        reason = f"the output is larger than {parcel.topic} takes ({limit} bytes: its max.message.bytes)"
        return parcel.without(large), [Failure(numbers[at], EncodeError(reason)) for at in large]

    def _fits(self, one: Parcel, limit: int) -> bool:
        return _weight(one) <= limit or self._sink.fits(one)

    # -- 4 ---------------------------------------------------------------------------------------------------------

    def address(self, output: Output, passing: Pass, written: Written) -> Iterator[tuple[Parcel, Sequence[int]]]:
        """Outputs keep their input's key, timestamp and partition, unless the sink has a key; our headers, then the input's.

        Yields each parcel with the row numbers of its outputs.
        """
        values, keys, rows, _ = written
        chunk, topic = passing.chunk, output.emit.sink.topic
        if rows is None and keys is None and len(chunk.places) == 1:
            place = chunk.places[0][:2]
            yield self._parcel(topic, place[1], place, chunk.records, values, None, passing.ids, self._arms_of(passing)), range(len(values))
            return
        groups: dict[tuple[int, int], list[int]] = {}
        runs = [run for run, (_, _, count) in enumerate(chunk.places) for _ in range(count)]
        numbers = range(chunk.rows) if rows is None else rows
        for at, number in enumerate(numbers):
            run = runs[number]
            partition = chunk.places[run][1] if keys is None else self._sink.partition_for(topic, keys[at])
            groups.setdefault((run, partition), []).append(at)
        for (run, partition), ats in groups.items():
            those = [numbers[at] for at in ats]
            inputs = _inputs(chunk.records, those)
            own = None if keys is None else [keys[at] for at in ats]
            ids = None if passing.ids is None else [passing.ids[number] for number in those]
            arms = self._arms_of(passing, those)
            yield self._parcel(topic, partition, chunk.places[run][:2], inputs, chosen(values, ats), own, ids, arms), those

    def _arms_of(self, passing: Pass, rows: Sequence[int] | None = None) -> list[int] | None:
        """Returns the arm of each row, by default of all records; None where nothing is on trial."""
        if not isinstance(passing.execution, Split):
            return None
        arms = passing.execution.arms
        return cast(list[int], (arms if rows is None else arms[np.asarray(rows, np.intp)]).tolist())

    def _parcel(
        self,
        topic: str,
        partition: int,
        place: tuple[str, int],
        inputs: Sequence[RecordLike],
        values: Sequence[bytes],
        keys: Sequence[bytes] | None,
        ids: Sequence[str] | None,
        arms: Sequence[int] | None,
    ) -> Parcel:
        passing = _passing if self.port.events is None else _passing_events
        bare = isinstance(inputs, Table) or not any(map(_HEADERS, inputs))  # the rows of a table have no headers
        extra = None if bare else [passing(headers) for headers in map(_HEADERS, inputs)]
        about, variants, which = self._about, self._arms, arms
        if self.port.behind and extra is not None:
            found = [_trace(headers, arms is None) for headers in map(_HEADERS, inputs)]
            traces = {trace for trace, _ in found}
            if len(traces) == 1 and arms is None:
                (trace,) = traces
                about = self._along(trace, None)
                extra = [[*event, *own] for (_, event), own in zip(found, extra, strict=True)]
            else:  # a release has become active in an earlier stage, or one is on trial in this one
                about, variants, which = self._about[:2], (), None
                said: Sequence[int | None] = [None] * len(found) if arms is None else arms
                extra = [[*self._along(trace, arm)[2:], *event, *own] for (trace, event), arm, own in zip(found, said, extra, strict=True)]
        elif arms is not None:
            about = self._about[:2]
        if self.matches and extra is not None:
            extra = [[(MATCH, dict(headers)[MATCH]), *own] for headers, own in zip(map(_HEADERS, inputs), extra, strict=True)]
        if (mark := self.port.writes.get(topic)) is not None:
            about = (*about, mark)
        origin = SOURCE, f"{place[0]}/{place[1]}/".encode()
        return Parcel(
            topic,
            partition,
            inputs,
            values,
            keys,
            about,
            origin,
            (ID, f"{place[0]}:{place[1]}:"),
            ids,
            extra,
            variants=variants,
            which=which,
        )

    def _along(self, trace: _Trace, arm: int | None) -> tuple[Header, ...]:
        """Returns the headers about an output, with what the earlier stages have said of themselves."""
        found = self._traces.get((trace, arm))
        if found is None:
            if len(self._traces) >= TRACES:
                self._traces.clear()
            (topology, generation, *others) = self._about
            ((_, models), (_, stages), *trial) = others if arm is None else self._arms[arm]
            joined = [b",".join(filter(None, (before, own))) for before, own in zip(trace, (models, stages), strict=True)]
            found = self._traces[trace, arm] = (topology, generation, (MODELS, joined[0]), (STAGES, joined[1]), *trial)
        return found

    # -- 5 ---------------------------------------------------------------------------------------------------------

    def _bury(self, passing: Pass, failures: Iterable[Failure]) -> Iterator[Parcel]:
        chunk, ids = passing.chunk, passing.ids
        first: dict[int, RecordError] = {}  # a record that several sinks refuse is one dead letter, not several
        for failure in failures:
            first.setdefault(failure.row, failure.error)
        start = 0
        for topic, partition, count in chunk.places:
            rows = [row for row in sorted(first) if start <= row < start + count]
            if rows:
                failed = [(chunk.records[row], first[row]) for row in rows]
                named = None if ids is None else [ids[row] for row in rows]
                yield self._cut(dead_letters(self._address(topic), (topic, partition), failed, named))
            start += count

    def came_from(self, letters: Parcel) -> Partition:
        """Returns the partition that had the records of these dead letters."""
        topics = (topic for topic, one in self.port.inputs.items() if one.source.dead_letter == letters.topic)
        return next(topics, self.port.source.topic), letters.partition

    def _address(self, topic: str) -> Address:
        return self._letters_of.get(topic, self._letters)

    def _cut(self, letters: Parcel) -> Parcel:
        limit = self._sink.limit(letters.topic)
        if limit >= UNLIMITED or _weight(letters) <= limit:
            return letters
        return fitting(letters, lambda one: self._fits(one, limit), limit)

    def bury(self, refused: Sequence[Refused], now_ms: int, *, cut: bool = False) -> list[Parcel]:
        """Returns dead letters for outputs that their topic has refused, one for each input.

        A dead letter that was refused itself is stamped `now_ms`, and with `cut` reduced to LEAST_LETTER bytes.
        """
        letters: dict[tuple[str, int], Parcel] = {}
        for parcel, reason in refused:
            if parcel.dead:
                letters["", len(letters)] = fitting(parcel, lambda _: not cut, LEAST_LETTER, now_ms=now_ms)
                continue
            assert parcel.identity is not None  # every output has one
            place, (record,) = parcel.identity[1], parcel.inputs
            topic, partition, _ = place.split(":")
            failed = [(record, EncodeError(reason, where="send"))]
            letters[place, record.offset] = self._cut(dead_letters(self._address(topic), (topic, int(partition)), failed, parcel.ids))
        return [*letters.values()]


def _chunk(pieces: Sequence[tuple[Partition, Sequence[RecordLike]]]) -> Chunk:
    places = tuple((topic, partition, len(records)) for (topic, partition), records in pieces)
    return Chunk(pieces[0][1] if len(pieces) == 1 else [record for _, records in pieces for record in records], places)


def _whole(batch: Batch, chunk: Chunk) -> dict[str, Array]:
    """Returns the columns of the batch for all records of the chunk, and which of these have them."""
    there = np.ones(chunk.rows, bool)
    if batch.rows is None:
        return {**batch.columns, _THERE: there}
    there = np.isin(np.arange(chunk.rows), batch.rows)
    made = {_THERE: there}
    for name, column in batch.columns.items():
        made[name] = np.zeros((chunk.rows, *column.shape[1:]), column.dtype)
        made[name][batch.rows] = column
    return made


def _inputs(records: Sequence[RecordLike], rows: Sequence[int]) -> Sequence[RecordLike]:
    return records.take(np.asarray(rows, np.intp)) if isinstance(records, Table) else [records[row] for row in rows]


def _positions(chunk: Chunk) -> list[str]:
    return [*Origin(chunk.records, chunk.places).positions]


def _weight(parcel: Parcel) -> int:
    """Returns the bytes of the outputs, and never less: values, keys, ids and headers are nearly all that they depend on."""
    weight = _weigh(parcel) + (AROUND + sum(len(name) + len(value or b"") for name, value in parcel.common)) * len(parcel)
    for title, place in filter(None, (parcel.origin, parcel.identity)):
        weight += (len(title) + len(place) + OFFSET) * len(parcel)  # both begin with the input topic's name, which may be long
    if parcel.ids is not None:
        weight += 4 * sum(map(len, parcel.ids))  # a character of UTF-8 has at most four bytes
    weight += max((sum(len(name) + len(value or b"") + 10 for name, value in one) for one in parcel.variants), default=0) * len(parcel)
    if parcel.extra is not None:
        weight += sum(4 * len(name) + len(value or b"") + 10 for headers in parcel.extra for name, value in headers)
    return weight


def _weigh(parcel: Parcel) -> int:
    """Returns the bytes of the values and keys."""
    if native is not None:
        try:
            return native.weigh(parcel.inputs, parcel.keys, parcel.values)
        except (TypeError, ValueError):
            pass  # an uncommon form
    keys = map(_KEY, parcel.inputs) if parcel.keys is None else parcel.keys
    return sum(map(len, filter(None, parcel.values))) + sum(map(len, filter(None, keys)))


def _scored_with(program: Program, stage: str, generation: int) -> tuple[Header, ...]:
    """Returns the headers that name the versions of a program."""
    versions = ",".join(f"{node}={version}" for node, version in program.plan.versions.items())
    return (MODELS, versions.encode()), *([(STAGES, f"{stage}={generation}".encode())] if program.staged else [])


def _trace(headers: Sequence[Header], trial: bool = True) -> tuple[_Trace, list[Header]]:
    """Returns the models and the stages that earlier stages name, and the headers with where the event entered and how it was joined.

    With `trial`, also how an earlier stage has assigned it.
    """
    said = dict(headers)
    event: list[Header] = [(EVENT, said.get(EVENT) or said.get(SOURCE) or b"")]
    event += [(name, said[name]) for name in (JOIN, MATCH, *(_TRIAL if trial else ())) if name in said]
    return (said.get(MODELS) or b"", said.get(STAGES) or b""), event


def _passing(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if not header[0].startswith(OWN)]


def _passing_events(headers: Sequence[Header]) -> list[Header]:
    """Returns the headers of a CloudEvent that its outputs have too: not those by which they would be taken for that event."""
    return [header for header in _passing(headers) if not header[0].startswith(MARK) and header[0].lower() != CONTENT_TYPE]


def _key(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
