"""Delivery: the one loop from taking to acknowledging, on every transport.

A group of spans goes through these steps; between any two of them, and between chunks, it waits while the source's lease does not hold:

1. begin      the spans whose assignment still holds; the others were dropped
2. score      in chunks (`score`), each in one slice of the event loop's time, or in a thread when it is expected to take long; a chunk
              with an event whose schema is not known here waits until it is fetched (docs/decisions/0025-schemas-from-a-registry.md)
3. send       outputs and dead letters, in order
4. go on      with the next group, while
5. remember   when the outputs are acknowledged, what the group has changed in the states of its nodes goes to their changelogs
6. finish     this one waits for its acknowledgements: then the strategy (`commit`) finishes its spans

Its life, for one assignment after the other:

| state   | `submit`            | next                                                    |
|---------|---------------------|---------------------------------------------------------|
| open    | takes spans         | closing (`close`), ended (`terminate`)                  |
| closing | spans are dropped   | open, by the next assignment of the source's positions  |
| ended   | spans are dropped   | nothing                                                 |

The loop owns the back-pressure: spans that were taken and are not finished are bounded in number and bytes, what was taken and is not
stored in rows and time, and a source takes the next ones only when there is `room`. A partition whose records fail too often is slowed
by itself (`transports/throttle`). The loop has no clock and knows no broker: the source, the sink, the programs and the clock are
arguments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeVar, cast

import numpy as np

from penstock.batch import Array
from penstock.engine.observe import Observers
from penstock.errors import DeliveryFailed, InferenceError, SchemaWanted, SettingsError, TransportUnavailable
from penstock.joins import BOUNDS, Bounds
from penstock.parcel import Parcel
from penstock.pipeline.commit import Commit, as_refusal
from penstock.pipeline.joining import Joining, Ready
from penstock.pipeline.matching import Matching
from penstock.pipeline.ports import Program
from penstock.pipeline.remember import Remember
from penstock.pipeline.score import Chunk, Pass, Pipeline
from penstock.pipeline.trial import Candidate
from penstock.settings import Settings
from penstock.state import States
from penstock.telemetry import Metrics
from penstock.telemetry.families import Labels
from penstock.topology.wiring import Matched
from penstock.transports.base import Joinable, Lapsed, Refused, Sent, Sink, Source
from penstock.transports.throttle import Throttle
from penstock.transports.tracker import Partition, Span

__all__ = ["Delivery", "Fixed", "Pace", "Served"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_DEFAULT: Final = Settings()
COMMIT_SECONDS = 1.0  # without a commit, when as much is not committed as may be, is longer than a commit takes
LEASE_SECONDS = 1.0  # between two looks at the lease, which ends by the clock
SCHEMA_SECONDS = 0.1  # after the first try to fetch a schema; doubled after each, to LONGEST_PAUSE
LONGEST_PAUSE = 5.0
TICK = 0.01  # between two looks at rows that wait for others
EXPIRED = 1024  # events of a match that are removed at once: the loop goes on between
GROUP_SECONDS = 1.0  # a group should take no longer: rebalances and shutdowns wait for it


class Served(Protocol):
    """The active program, its generation, and what is on trial beside it."""

    @property
    def generation(self) -> int: ...
    @property
    def program(self) -> Program: ...
    @property
    def candidate(self) -> Candidate | None: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """The active program where there are no releases: always the same one, as generation 0."""

    program: Program
    generation: int = 0
    candidate: None = None

    def __call__(self) -> Fixed:
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much work is done at once, in rows, bytes and seconds. The defaults are those of the settings."""

    chunk_rows: int = _DEFAULT.chunk_rows
    group_rows: int = _DEFAULT.max_batch_rows
    in_flight: int = _DEFAULT.max_in_flight_batches
    in_flight_bytes: int = _DEFAULT.max_in_flight_bytes
    uncommitted_rows: int = _DEFAULT.max_uncommitted_rows
    uncommitted_seconds: float = _DEFAULT.commit_interval + _DEFAULT.session_timeout
    offload_after: float = _DEFAULT.offload_after_ms / 1000
    schema_seconds: float = _DEFAULT.broker_timeout / 2

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Returns the pace of the settings."""
        return cls(
            chunk_rows=settings.chunk_rows,
            group_rows=settings.max_batch_rows,
            in_flight=settings.max_in_flight_batches,
            in_flight_bytes=settings.max_in_flight_bytes,
            uncommitted_rows=settings.max_uncommitted_rows,
            uncommitted_seconds=settings.commit_interval + settings.session_timeout,  # a commit may be late, as a heartbeat may be
            offload_after=settings.offload_after_ms / 1000,
            schema_seconds=min(settings.broker_timeout, (settings.stall_timeout or math.inf) / 2),
        )


class Delivery:
    """The loop of one worker. `stages` names the stage that reads each topic: one that reads several joins them. `serving` returns the
    active program.

    `fail` is called with the error that ends the loop: one that no record causes. `begins(partition, offset, generation)` is called
    before a span is scored. `models` is held while a model runs: a session runs once at a time. `observers` receive
    the chunks, `buried` dead letters that were acknowledged. `throttle` counts those of each partition; the source keeps to it, too.
    `states` returns what nodes remember in this assignment, and `remember` writes it to changelogs.
    `clock` measures, in seconds; `wall` returns the seconds since the epoch, which records have in their timestamps.

    Raises SettingsError when source or sink lacks an ability that the strategy needs.
    """

    def __init__(
        self,
        source: Source,
        sink: Sink,
        commit: Commit,
        *,
        stages: Mapping[str, str],
        serving: Callable[[], Served],
        fail: Callable[[BaseException], None],
        pace: Pace = Pace(),
        metrics: Metrics | None = None,
        begins: Callable[[Partition, int, int], None] | None = None,
        models: asyncio.Lock | None = None,
        observers: Observers | None = None,
        buried: Callable[[Parcel], None] | None = None,
        throttle: Throttle | None = None,
        states: Callable[[], States] | None = None,
        remember: Remember | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        bounds: Bounds = BOUNDS,
    ) -> None:
        for end in (source, sink):
            if lacking := end.abilities.lacks(commit.needs):
                raise SettingsError(f"{type(commit).__name__} needs {' and '.join(lacking)}, which {type(end).__name__} does not offer")
        self.rows = pace.group_rows
        self.metrics = metrics or Metrics()
        self._source, self._sink, self._commit = source, sink, commit
        self._stages, self._serving, self._fail, self._begins = stages, serving, fail, begins
        self._pace, self._clock, self._wall, self._bounds = pace, clock, wall, bounds
        self._models = models or asyncio.Lock()
        self._observers, self._buried = observers, buried
        self._throttle = throttle or Throttle()
        alone = States()
        self._states, self._remember = states or (lambda: alone), remember or Remember(sink, {})
        self.waiting: dict[str, str] = {}  # by topic: which schema its events wait for, while the registry does not answer
        self._scorers: dict[str, _Scorer] = {}
        several = {stage for stage, topics in Counter(stages.values()).items() if topics > 1}
        # One group at a time: its two topics come at once, and what both have changed goes to the changelogs in one order.
        self._matches = {stage: asyncio.Lock() for stage in several if isinstance(self._gathers(stage), Matched)}
        self._joins = several - self._matches.keys()
        self._joinings: dict[str, Joining] = {}  # by stage
        self._ticks: asyncio.Future[None] | None = None
        self._asks = 0.0  # when the registry may be asked again for what waits
        self._forwarded = 0  # chunks of joined rows that are not acknowledged
        self._changed = asyncio.Event()  # a span has ended, or the assignment has changed
        self._ended = False
        self._since = clock()  # when nothing was left to store, or the last commit succeeded
        self._room = clock()  # when less was not committed than may be, or nothing could be
        self._burying: set[asyncio.Future[None]] = set()
        positions = source.positions
        positions.changed = self._changed.set
        self.metrics.state_keys.set_function(lambda: len(self._states()))
        self.metrics.window_rows.set_function(self._window_rows)
        self.metrics.in_flight_batches.set_function(lambda: positions.in_flight)
        self.metrics.in_flight_bytes.set_function(lambda: positions.in_flight_bytes)
        if self._joins:
            joinable = cast(Joinable, source)
            joinable.withheld, joinable.beyond = self._withheld, self._beyond
            self.metrics.join_waiting.set_function(self._waits)
        elif self._matches:
            cast(Joinable, source).withheld = self._withheld

    def _gathers(self, stage: str) -> object:
        found = self._serving().program.plan.stages.get(stage)
        return None if found is None else found.wired.gather

    # -- back-pressure ---------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        """Whether more may be taken: spans that were taken and are not finished are limited."""
        positions, pace = self._source.positions, self._pace
        return positions.in_flight < pace.in_flight and positions.in_flight_bytes < pace.in_flight_bytes and not self._full()

    def _full(self) -> bool:
        return self._source.positions.uncommitted >= self._pace.uncommitted_rows

    def uncommitted(self) -> str:
        """Returns why nothing more is taken until a commit succeeds; empty while more may be taken, or nothing could be committed."""
        positions, pace, now = self._source.positions, self._pace, self._clock()
        if not (committable := positions.committable()):
            self._since = now
        if not committable or not self._full():
            self._room = now
        late = now - self._since
        if late <= pace.uncommitted_seconds and now - self._room <= COMMIT_SECONDS:
            return ""
        count = positions.uncommitted
        return f"no commit has succeeded for {late:.0f} s ({count} records are not committed): nothing more is taken until one does"

    async def room(self) -> bool:
        """Waits until more may be taken. Returns False when the loop has ended, and nothing more is to be taken.

        Raises TransportUnavailable when the positions cannot be stored.
        """
        warned = False
        if self._matches and self._ticks is None:  # what was restored waits also when nothing comes
            self._ticks = asyncio.ensure_future(self._tick())
        while not self._ended:
            self._changed.clear()
            if (self._full() or self.uncommitted()) and await self.poll():
                continue
            reason = self.uncommitted()
            if not reason and self.has_room():
                break
            if reason and not warned:
                warned = True
                logger.warning("%s", reason)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COMMIT_SECONDS if self._full() else None):
                    await self._changed.wait()
        return not self._ended

    async def _held(self, span: Span) -> bool:
        """Waits while the lease does not hold. Returns False when the span's assignment, or the loop, has ended."""
        while not self._ended and span.current and not span.held:
            self._changed.clear()
            await self._changed.wait()
        return not self._ended and span.current

    # -- one group after the other -----------------------------------------------------------------------------------

    async def submit(self, spans: Sequence[Span]) -> None:
        """Runs steps 1 to 4 for spans of one topic, in groups. Raises TransportError when outputs cannot be sent."""
        if spans and (stage := self._stages[spans[0].partition[0]]) in self._joins:
            await self._join(self._joining(stage), spans)
            return
        turn = self._matches.get(stage) if spans else None
        for group in self._groups(spans):
            if self._ended:
                return
            async with turn or contextlib.nullcontext():
                await self._deliver(group)

    def _groups(self, spans: Sequence[Span]) -> Iterator[list[Span]]:
        """Yields groups of small spans, up to `rows` rows each; `rows` may change while this runs."""
        group: list[Span] = []
        count = 0
        for span in spans:
            if group and count + len(span.records) > self.rows:
                yield group
                group, count = [], 0
            group.append(span)
            count += len(span.records)
        if group:
            yield group

    async def _deliver(self, group: Sequence[Span]) -> None:
        began = self._clock()
        if not await self._held(group[0]):
            return
        spans = [span for span in group if not self._put_off(span) and span.begin()]  # 1
        if not spans:
            return
        scorer, states = self._scorer(spans), self._states()
        parcels: list[Parcel] = []
        first = True
        for chunk in scorer.pipeline.chunks((span.partition, span.records) for span in spans):  # 2
            if not first:
                await asyncio.sleep(0)
            first = False
            scored = await self._score(scorer, chunk, spans, states)
            if scored is None or not await self._held(spans[0]):  # a group is of one assignment, and this one has ended
                # They count rows whose outputs are not sent. States where nothing is remembered outlive the assignment.
                states.failed = states.failed or bool(scorer.pipeline.remembers)
                return
            parcels += scored
        self._slow(scorer.pipeline, [(span.partition, len(span.records)) for span in spans], parcels)
        if states.failed:  # an event that is in both groups would be answered here, as a replay, before the failed one is scored again
            return
        changes = self._remember.changes(states, scorer.pipeline.remembers, self._now_ms())
        sent = await self._sink.send(parcels, spans[0])  # 3
        taken = Sent(1)  # everything was acknowledged, be it as a dead letter
        sent.add_done_callback(lambda ended: self._taken(scorer.pipeline, spans[0], ended, taken))
        done = self._remember.send(states, changes, spans[0], taken) if changes else taken  # 5

        def ended(error: BaseException | None) -> None:
            try:
                if isinstance(error, Lapsed):
                    return  # the spans were dropped with their assignment
                if error is not None:
                    self._fail(error)
                else:
                    self._count(spans, parcels, sent.refused, self._clock() - began)
            except Exception as bug:  # noqa: BLE001  an error in a callback is reported nowhere else
                self._fail(bug)

        self._commit.done(spans, done, ended)  # 6

    # -- stages that join ------------------------------------------------------------------------------------------

    def _joining(self, stage: str) -> Joining:
        """Returns what waits in the stage, which joins."""
        if stage not in self._joinings:
            source = cast(Joinable, self._source)
            wired = self._serving().program.plan.stages[stage].wired
            most, positions = self._pace.in_flight_bytes, source.positions
            self._joinings[stage] = Joining(wired, self._bounds, self.metrics, positions, most, lambda: source.free, source.ended_at)
            self._ticks = self._ticks or asyncio.ensure_future(self._tick())
        return self._joinings[stage]

    def _withheld(self, partition: Partition) -> bool:
        stage = self._stages.get(partition[0], "")
        if stage in self._matches:
            return self._is_ahead(self._scorer_of(stage).matched, partition)
        joining = self._joinings.get(stage)
        return joining is not None and not joining.room(partition)

    def _beyond(self, partition: Partition, position: int) -> Array:
        stage = self._stages[partition[0]]
        return self._joining(stage).beyond(partition, position) if stage in self._joins else np.zeros(0, np.int64)

    def _waits(self) -> dict[Labels, float]:
        joinings = self._joinings.items()
        return {(stage, member): count for stage, joining in joinings for member, count in joining.waiting().items()}

    async def _join(self, joining: Joining, spans: Sequence[Span]) -> None:
        """Adds the records of the spans to those that wait, and sends what goes on."""
        for span in spans:
            if self._ended or not await self._held(span):
                return
            if self._put_off(span) or not span.begin():
                continue
            scorer, count = self._scorer([span]), len(span.records)
            for ready in joining.take(scorer.pipeline, span, self._now_ms()):
                await self._forward(joining, scorer, ready)
            self.metrics.records_in.inc(count)
            await asyncio.sleep(0)

    async def _tick(self) -> None:
        while not self._ended:
            await asyncio.sleep(TICK)
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001  this task is not awaited
                self._fail(error)
                return

    async def tick(self) -> None:
        """Sends on what is not waited for any longer: a timer calls it, where a stage joins or matches."""
        positions = self._source.positions
        for stage, turn in self._matches.items():
            if not positions.draining and positions.lease():
                async with turn:
                    await self._expire(stage)
        for stage, joining in [*self._joinings.items()]:
            if positions.draining or not positions.lease():
                continue
            scorer = self._scorer_of(stage)
            for ready in joining.due(scorer.pipeline, self._now_ms()):
                await self._forward(joining, scorer, ready)

    # -- stages that match -----------------------------------------------------------------------------------------

    def _read_to(self, matching: Matching, partition: Partition) -> int:
        """Returns up to which time a partition is read, in ms, by both clocks. Records that were taken and are not counted are not read."""
        source, now = cast(Joinable, self._source), self._now_ms()
        ended = 0 if source.positions.under_way(partition) else source.ended_at(partition)
        return min(max(matching.newest(self._states(), partition), ended), now) - matching.lateness

    def _is_ahead(self, matching: Matching, partition: Partition) -> bool:
        """Whether a partition is so far ahead of the one that it is matched with that what it holds would only wait in memory."""
        other = matching.other(partition)
        newest = min(matching.newest(self._states(), partition), self._now_ms())
        return newest - matching.reach > max(matching.newest(self._states(), other), self._read_to(matching, other))

    async def _expire(self, stage: str) -> None:
        """Removes what no partner can come for any more, and sends what goes on without one."""
        positions, states = self._source.positions, self._states()
        for number in sorted({number for topic, number in positions.partitions if self._stages.get(topic) == stage}):
            under = positions.here((self._scorer_of(stage).matched.topics[0], number))
            while under.current and not (positions.draining or self._ended or states.failed) and self._forwarded < self._pace.in_flight:
                scorer = self._scorer_of(stage)
                matching = scorer.matched
                left, right = (self._read_to(matching, (topic, number)) for topic in matching.topics)
                try:
                    passes = matching.over(states, number, (left, right), EXPIRED)
                except SchemaWanted as wanted:
                    if await self._fetch_beside(wanted, matching.topics[0]):
                        continue
                    return
                if passes is None:
                    break
                if not await self._send_on(scorer, states, under, passes):
                    return
                await asyncio.sleep(0)

    async def _fetch_beside(self, wanted: SchemaWanted, topic: str) -> bool:
        """Fetches a schema for what waits. Returns False when the registry does not answer: it is asked again after a while."""
        if self._clock() < self._asks:
            return False
        try:
            await asyncio.to_thread(wanted.fetch)
        except TransportUnavailable as error:
            self.waiting[topic] = f"{topic} waits for {wanted}: {error}"
            self._asks = self._clock() + LONGEST_PAUSE
            return False
        self.waiting.pop(topic, None)
        return True

    async def _send_on(self, scorer: _Scorer, states: States, under: Span, passes: Sequence[Pass]) -> bool:
        """Scores and sends rows that no record of now causes, and then what has changed. Returns False when the assignment has ended."""
        parcels: list[Parcel] = []
        self._forwarded += 1  # a drain waits for it: the next owner must find what has gone on gone
        try:
            for one in passes:
                found = await self._pass(scorer, one.chunk, under, states, one)
                if found is None or not await self._held(under) or states.failed:
                    states.failed = True  # rows are removed whose outputs are not sent
                    self._passed_on()
                    return False
                parcels += found
                self._slow(scorer.pipeline, [((topic, number), count) for topic, number, count in one.chunk.places], found)
            changes = self._remember.changes(states, scorer.pipeline.remembers, self._now_ms())
            sent = await self._sink.send(parcels, under)
        except BaseException:
            self._passed_on()
            raise
        taken = Sent(1)
        sent.add_done_callback(lambda ended: self._taken(scorer.pipeline, under, ended, taken))
        done = self._remember.send(states, changes, under, taken) if changes else taken

        def settled(ended: Sent) -> None:
            self._passed_on()
            try:
                error = ended.exception()
                if isinstance(error, Lapsed) or not under.current:
                    return
                if error is not None:
                    self._fail(as_refusal(error))
                else:
                    self._count_outputs(parcels, sent.refused)
            except Exception as bug:  # noqa: BLE001  an error in a callback is reported nowhere else
                self._fail(bug)

        done.add_done_callback(settled)
        return True

    async def _forward(self, joining: Joining, scorer: _Scorer, ready: Ready) -> None:
        """Scores rows that were put together, sends what comes of them, and frees their records when that is acknowledged."""
        under = ready.under
        self._forwarded += 1
        try:
            parcels = await self._pass(scorer, ready.passing.chunk, under, self._states(), ready.passing)
            if parcels is None or not await self._held(under):
                self._passed_on()
                return
            self._slow(scorer.pipeline, [((topic, number), count) for topic, number, count in ready.passing.chunk.places], parcels)
            sent = await self._sink.send(parcels, under)
        except BaseException:
            self._passed_on()
            raise
        taken = Sent(1)
        sent.add_done_callback(lambda ended: self._taken(scorer.pipeline, under, ended, taken))

        def settled(ended: Sent) -> None:
            self._passed_on()
            try:
                error = ended.exception()
                if isinstance(error, Lapsed) or not under.current:
                    return  # the spans were dropped with their assignment
                if error is not None:
                    self._fail(as_refusal(error))
                    return
                joining.settle(ready)
                self.metrics.batches.inc()
                self._count_outputs(parcels, sent.refused)
            except Exception as bug:  # noqa: BLE001  an error in a callback is reported nowhere else
                self._fail(bug)

        taken.add_done_callback(settled)

    def _passed_on(self) -> None:
        self._forwarded -= 1
        self._changed.set()

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    def _put_off(self, span: Span) -> bool:
        """Abandons the span while its partition is slowed: the source reads it again later. The other partitions go on."""
        if not self._throttle.delay(span.partition):
            return False
        span.abandon()
        return True

    def _slow(self, pipeline: Pipeline, taken: Iterable[tuple[Partition, int]], parcels: Sequence[Parcel]) -> None:
        """Counts what became dead letters of so many records of these partitions."""
        if not self._throttle.rate:
            return
        letters, records = Counter[Partition](), Counter[Partition]()
        for parcel in parcels:
            if parcel.dead:
                letters[pipeline.came_from(parcel)] += len(parcel)
        for partition, count in taken:
            records[partition] += count
        for partition, count in records.items():
            self._throttle.count(partition, letters[partition], count)

    def _taken(self, pipeline: Pipeline, under: Span, sent: Sent, taken: Sent) -> None:
        """Settles `taken` when the outputs were acknowledged; those that were refused become dead letters first."""
        if sent.refused and sent.exception() is None:
            task = asyncio.ensure_future(self._bury(pipeline, under, sent.refused, taken))
            self._burying.add(task)
            task.add_done_callback(self._burying.discard)
        else:
            taken.settle(sent.exception())

    async def _bury(self, pipeline: Pipeline, under: Span, refused: Sequence[Refused], taken: Sent) -> None:
        """Sends dead letters for what was refused. Their topic may refuse them too: they get another timestamp, and at last are cut."""
        try:
            new = pipeline.bury([one for one in refused if not one.parcel.dead], int(time.time() * 1000))
            letters = new + pipeline.bury([one for one in refused if one.parcel.dead], int(time.time() * 1000))
            for attempt in range(3):
                sent = await self._sink.send(letters, under)
                await sent.settled()
                refused = sent.refused
                if not refused:
                    self._report(new)  # `_count` reports the others
                    for parcel in new:
                        self._throttle.count(pipeline.came_from(parcel), len(parcel), 0)
                    taken.settle()
                    return
                letters = pipeline.bury(refused, int(time.time() * 1000), cut=attempt == 1)
            taken.settle(DeliveryFailed(f"{refused[0].parcel.topic} does not take a dead letter: {refused[0].reason}"))
        except Exception as error:  # noqa: BLE001  the waiting spans have to know
            taken.settle(error)

    def _window_rows(self) -> dict[Labels, float]:
        return {(node, mark): float(count) for node, counts in self._states().counts.items() for mark, count in counts.items()}

    def _scorer(self, spans: Sequence[Span]) -> _Scorer:
        """Returns the pipeline of the active program, for the whole group; a swap takes effect from the next group on."""
        scorer = self._scorer_of(self._stages[spans[0].partition[0]])
        if self._begins is not None:
            for span in spans:
                self._begins(span.partition, span.start, scorer.serving.generation)
        return scorer

    def _scorer_of(self, stage: str) -> _Scorer:
        serving = self._serving()
        scorer = self._scorers.get(stage)
        if scorer is None or scorer.serving is not serving:
            pipeline = Pipeline(
                serving.program,
                stage,
                sink=self._sink,
                generation=serving.generation,
                candidate=serving.candidate,
                chunk_rows=self._pace.chunk_rows,
                metrics=self.metrics,
                observers=self._observers,
            )
            scorer = self._scorers[stage] = _Scorer(serving, pipeline, 0.0 if scorer is None else scorer.row_seconds)
        return scorer

    async def _score(self, scorer: _Scorer, chunk: Chunk, spans: Sequence[Span], states: States) -> list[Parcel] | None:
        """Returns the parcels of the chunk, None when its spans were given up. It waits while the schema of an event is fetched."""
        while True:
            try:
                if scorer.pipeline.matches:
                    return await self._match(scorer, chunk, spans[0], states)
                return await self._pass(scorer, chunk, spans[0], states)
            except SchemaWanted as wanted:
                try:
                    if not await self._fetch(wanted, spans):
                        return None
                finally:
                    self.waiting.pop(spans[0].partition[0], None)

    async def _match(self, scorer: _Scorer, chunk: Chunk, under: Span, states: States) -> list[Parcel] | None:
        """Returns the parcels of the pairs that the chunk makes, None when the assignment of `under` has ended."""
        if not under.current:
            return None
        parcels: list[Parcel] = []
        for passing in scorer.matched.take(chunk, states, self._now_ms()):
            found = await self._pass(scorer, passing.chunk, under, states, passing)
            if found is None:
                return None
            parcels += found
            await asyncio.sleep(0)  # one key may have very many pairs
        return parcels

    async def _fetch(self, wanted: SchemaWanted, spans: Sequence[Span]) -> bool:
        """Fetches schemas. Returns False when the spans need them no longer: the assignment or the loop ends.

        Raises TransportUnavailable when the registry has not answered for `schema_seconds`.
        """
        began, pause, positions, topic = self._clock(), SCHEMA_SECONDS, self._source.positions, spans[0].partition[0]
        while not self._ended and spans[0].current:
            try:
                await asyncio.to_thread(wanted.fetch)
                return True
            except TransportUnavailable as error:
                self.waiting[topic] = f"{topic} waits for {wanted}: {error}"
                if positions.draining:  # the next owner reads them again
                    for span in spans:
                        span.abandon()
                    return False
                if self._clock() - began + pause > self._pace.schema_seconds:
                    raise
                if pause == SCHEMA_SECONDS:
                    logger.warning("%s", self.waiting[topic])
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            pause = min(pause * 2, LONGEST_PAUSE)
        return False

    async def _pass(self, scorer: _Scorer, chunk: Chunk, under: Span, states: States, joined: Pass | None = None) -> list[Parcel] | None:
        """Returns the parcels of the chunk, None when the assignment of `under` has ended.

        `states` are what its nodes remember; `joined` are its rows, where a join has put them together.
        """
        async with self._models:
            if not under.current:
                return None
            began = time.perf_counter()
            pipeline = scorer.pipeline
            if joined is not None:
                joined.execution.states = states
            if scorer.row_seconds * chunk.rows <= self._pace.offload_after:
                passing = joined or pipeline.begin(chunk, states)
                try:
                    parcels = pipeline.complete(passing, isolate=False)
                except InferenceError:
                    self.metrics.splits.inc()
                    self.metrics.offloaded.inc()
                    parcels = await asyncio.to_thread(states.counting(lambda: pipeline.complete(passing)))
            else:
                self.metrics.offloaded.inc()
                parcels = await asyncio.to_thread(states.counting(lambda: pipeline.complete(joined or pipeline.begin(chunk, states))))
            self._measure(scorer, (time.perf_counter() - began) / chunk.rows)
        return parcels

    def _measure(self, scorer: _Scorer, row_seconds: float) -> None:
        """Adapts how many rows make a group, so that one takes about GROUP_SECONDS at the most, of the slowest stage as well."""
        scorer.row_seconds += (row_seconds - scorer.row_seconds) * 0.2
        slowest = max(one.row_seconds for one in self._scorers.values())
        self.rows = max(1, min(self._pace.group_rows, int(GROUP_SECONDS / max(slowest, 1e-9))))

    def _count(self, spans: Sequence[Span], parcels: Sequence[Parcel], refused: Sequence[Refused], seconds: float) -> None:
        metrics = self.metrics
        rows = sum(len(span.records) for span in spans)
        metrics.batches.inc()
        metrics.records_in.inc(rows)
        metrics.batch_rows.observe(rows)
        metrics.batch_seconds.observe(seconds)
        self._count_outputs(parcels, refused)

    def _count_outputs(self, parcels: Sequence[Parcel], refused: Sequence[Refused]) -> None:
        outputs = sum(len(parcel) for parcel in parcels if not parcel.dead)
        late = sum(not one.parcel.dead for one in refused)  # outputs whose inputs `_bury` has reported as dead letters
        self.metrics.records_out.inc(outputs - late)
        self._report([parcel for parcel in parcels if parcel.dead])

    def _report(self, letters: Sequence[Parcel]) -> None:
        for parcel in letters:
            for step, reason, count in parcel.causes:
                self.metrics.dead_letters.labels(step, reason).inc(count)
            if self._buried is not None:
                self._buried(parcel)

    # -- the end of an assignment --------------------------------------------------------------------------------------

    async def poll(self) -> bool:
        """Stores positions: the runner's timer calls it. Returns True when some were stored."""
        stored = await self._commit.store()
        if stored:
            self._since = self._room = self._clock()
            self._changed.set()
        return stored

    async def close(self, patience: float, bound: float | None = None) -> None:
        """Waits until every span that was begun is finished, at most `patience` seconds, then stores positions. No span begins.

        Called when the assignment ends and when the worker stops. All of it takes at most `bound` seconds. A lease that does
        not hold ends the wait: what is under way cannot finish. The next owner reads again the spans that were not begun, and
        those that did not finish in time: the latter can cause at-least-once duplicates.
        """
        positions = self._source.positions
        positions.drain()
        began = self._clock()
        deadline = began + patience
        while (positions.working or self._forwarded) and positions.lease() and not self._ended and (left := deadline - self._clock()) > 0:
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, LEASE_SECONDS)):
                    await self._changed.wait()
        if positions.working and self._clock() >= deadline:
            logger.warning("%d batches were not finished in time and will be processed again", positions.working)
        try:
            async with asyncio.timeout(None if bound is None else max(bound - (self._clock() - began), 0.0)):
                await self._commit.store()
        except TimeoutError:
            logger.warning("the positions were not stored in time: what was not committed will be processed again")

    def terminate(self) -> None:
        """Ends the loop: spans that were begun will not finish, and `close` no longer waits for them. Finished ones can still be stored."""
        self._ended = True
        if self._ticks is not None:
            self._ticks.cancel()
        self._changed.set()


class _Scorer:
    """The pipeline of one stage, its pairs where it matches, and the measured seconds per row."""

    __slots__ = ("_matching", "pipeline", "row_seconds", "serving")

    def __init__(self, serving: Served, pipeline: Pipeline, row_seconds: float) -> None:
        self.serving = serving
        self.pipeline = pipeline
        self.row_seconds = row_seconds
        self._matching: Matching | None = None

    @property
    def matched(self) -> Matching:
        """The pairs of a stage that matches."""
        if self._matching is None:
            self._matching = Matching(self.pipeline, self.pipeline.metrics)
        return self._matching
