"""The delivery loop under every order of arrivals, acknowledgements, refusals, rebalances, pauses, swaps, stops and crashes.

The broker is the memory transport, the loop is the one that runs on Kafka, the model is a real one. The laws: what is stored was
acknowledged; what was read and not stored is read again; every event is answered at least once, and never by two generations
within one span; outputs of one partition come in the order of their events, as long as nothing crashes; nothing is sent while the
lease does not hold, and nothing of what was taken before another worker has taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from penstock import runtime
from penstock.errors import TransportUnavailable
from penstock.pipeline import AtLeastOnce, Delivery, Pace, Program
from penstock.record import Record
from penstock.registry.directory import DirectoryRegistry
from penstock.testing import models
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Partition, Span

PARTITIONS = 3
PACE = Pace(chunk_rows=3, group_rows=4, in_flight=6, in_flight_bytes=4000)
BAD = 9  # no row of the table: the model raises for the whole batch

TOPOLOGY = """\
topology: table
sources: {items: {topic: items, schema: item.avsc}}
nodes: {price: {kind: model, model: table@1, inputs: {x: item}}}
sinks: {prices: {topic: prices, fields: {item: item, price: price}}}
"""


@cache
def program() -> Program:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "item.avsc").write_text(json.dumps({"type": "record", "name": "Item", "fields": [{"name": "item", "type": "long"}]}))
        (folder / "table.yaml").write_text(TOPOLOGY)
        DirectoryRegistry(folder / "models").publish("table", models.gather([10, 20, 30]))
        return runtime.prepare(runtime.load(folder / "table.yaml", models=folder / "models", schemas=folder))


@dataclass(frozen=True)
class Serving:
    """What serves: the same program, under another generation after each swap."""

    generation: int
    program: Program
    candidate: None = None


class Loop(RuleBasedStateMachine):
    """One worker after the other over one broker."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.memory = Memory(PARTITIONS)
        self.sent: dict[Partition, int] = {("items", number): 0 for number in range(PARTITIONS)}
        self.serving = Serving(0, program())
        self.assigned = False
        self.crashed = False  # ever: then outputs may come twice, and out of order
        self.now = 0.0
        self.taken: list[Span] = []
        self.waiting: asyncio.Task[None] | None = None  # a submission that waits for the lease
        self.leased = True

    def teardown(self) -> None:
        self.forget()
        self.loop.close()

    def forget(self) -> None:
        """What a worker that is gone was about to do."""
        if self.waiting is not None:
            self.waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self.run(self.finish(self.waiting))
            self.waiting = None

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def finish(self, work: asyncio.Task[None]) -> None:
        await work

    async def turns(self, count: int = 12) -> None:
        """The event loop turns: whatever may go on goes on."""
        for _ in range(count):
            await asyncio.sleep(0)

    @initialize()
    def start(self) -> None:
        """A new worker. What the one before had not finished is lost with it."""
        self.forget()
        self.leased = True
        self.problems: list[BaseException] = []
        self.source = MemorySource(self.memory, ["items"])
        self.sink = MemorySink(self.memory)
        self.delivery = Delivery(
            self.source,
            self.sink,
            AtLeastOnce(self.source),
            stages={"items": "items"},
            serving=lambda: self.serving,
            fail=self.problems.append,
            pace=PACE,
            clock=lambda: self.now,
        )
        self.taken = []
        self.source.assign()
        self.assigned = True

    # -- the world ---------------------------------------------------------------------------------------------------

    @rule(partition=st.integers(0, PARTITIONS - 1), items=st.lists(st.sampled_from([0, 1, 2, BAD]), min_size=1, max_size=9))
    def events_arrive(self, partition: int, items: list[int]) -> None:
        for item in items:
            self.memory.append(Record("items", b'{"item":%d}' % item, timestamp=1, partition=partition))
            self.sent["items", partition] += 1

    @rule(late=st.booleans())
    def acknowledgements_come_at_once_or_late(self, late: bool) -> None:
        if late:
            self.sink.hold()
        else:
            self.sink.release()

    @precondition(lambda self: self.sink.held)
    @rule(data=st.data())
    def one_acknowledgement_comes(self, data: st.DataObject) -> None:
        """In any order."""
        at = data.draw(st.integers(0, len(self.sink.held) - 1))
        self.sink.held.pop(at).settle()

    def next_outputs_are_refused(self) -> None:
        self.sink.refuse()

    def next_store_fails(self) -> None:
        self.source.fails = TransportUnavailable("no answer")

    @rule()
    def models_are_swapped(self) -> None:
        self.serving = Serving(self.serving.generation + 1, program())

    @rule(trouble=st.sampled_from(["refused", "unstored", "crash", "stop"]))
    def trouble(self, trouble: str) -> None:
        """One rule, so that ordinary work is most of a run."""
        {
            "refused": self.next_outputs_are_refused,
            "unstored": self.next_store_fails,
            "crash": self.crash,
            "stop": self.stop,
        }[trouble]()

    @rule(ours=st.sets(st.sampled_from([("items", number) for number in range(PARTITIONS)]), min_size=1))
    def partitions_are_moved(self, ours: set[Partition]) -> None:
        """As a host does it: close, revoke, assign. What was under way may still be acknowledged afterwards."""
        self.drain()
        self.source.revoke()
        self.resume()
        self.source.lease(True)
        self.leased = True
        self.source.assign(ours)

    # -- pauses ------------------------------------------------------------------------------------------------------

    def written(self) -> int:
        return len(self.memory.records("prices")) + len(self.memory.records("items.dead-letter"))

    @precondition(lambda self: self.leased)
    @rule()
    def session_expires(self) -> None:
        """By the clock: perhaps another worker takes over, perhaps the next heartbeat succeeds."""
        self.source.lease(False)
        self.leased = False
        self.at_expiry = self.written()

    @precondition(lambda self: self.leased and not self.problems and self.waiting is None)
    @rule(turns=st.integers(0, 4), items=st.lists(st.sampled_from([0, 1, 2]), min_size=4, max_size=9))
    def session_expires_between_chunks(self, turns: int, items: list[int]) -> None:
        self.events_arrive(0, items)
        if self.delivery.has_room() and (spans := self.run(self.source.take(self.delivery.rows))):
            self.waiting = self.loop.create_task(self.delivery.submit(spans))
            self.run(self.turns(turns))
            self.session_expires()
            self.run(self.turns())

    @precondition(lambda self: not self.leased)
    @rule()
    def heartbeat_succeeds(self) -> None:
        self.source.lease(True)
        self.leased = True
        self.resume()

    @precondition(lambda self: not self.leased and self.assigned)
    @rule()
    def another_worker_takes_over(self) -> None:
        """It reads from what is stored, and this one learns of it later. What comes of the old assignment then: nothing."""
        self.crashed = True
        other = MemorySource(self.memory, ["items"])
        loop = Delivery(
            other,
            MemorySink(self.memory),
            AtLeastOnce(other),
            stages={"items": "items"},
            serving=lambda: self.serving,
            fail=self.problems.append,
            pace=PACE,
            clock=lambda: self.now,
        )
        other.assign()
        self.run(self.work(loop, other))
        self.run(loop.poll())
        stored, written = dict(self.memory.stored), self.written()
        self.sink.release()  # what had arrived before the pause
        self.run(self.turns())
        self.drain()
        self.source.revoke()
        self.resume()
        self.source.lease(True)
        self.leased = True
        self.run(self.turns())
        assert self.memory.stored == stored
        assert self.written() == written
        self.source.assign()

    def resume(self) -> None:
        """The submission that waited, if any, ends: its assignment has, or the lease holds again."""
        if self.waiting is not None:
            self.run(self.finish(self.waiting))
            self.waiting = None

    @invariant()
    def nothing_is_sent_without_the_lease(self) -> None:
        if not self.leased:
            self.run(self.turns())
            assert self.written() == self.at_expiry

    # -- the worker --------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.problems and self.leased and self.waiting is None)
    @rule(partition=st.integers(0, PARTITIONS - 1), items=st.lists(st.sampled_from([0, 1, 2, BAD]), min_size=1, max_size=9))
    def events_arrive_and_are_taken(self, partition: int, items: list[int]) -> None:
        self.events_arrive(partition, items)
        self.take_and_submit()

    @precondition(lambda self: not self.problems and self.leased and self.waiting is None)
    @rule()
    def events_are_refused_and_committed(self) -> None:
        self.events_arrive(0, [0, 1])
        self.sink.refuse()
        self.take_and_submit()
        self.commit()

    @precondition(lambda self: not self.problems and self.leased and self.waiting is None)
    @rule()
    def take_and_submit(self) -> None:
        if not self.delivery.has_room():
            return
        before = self.source.positions.in_flight
        spans = self.run(self.source.take(self.delivery.rows))
        assert self.source.positions.in_flight == before + len(spans)
        if spans:
            self.submit(spans)

    def submit(self, spans: list[Span]) -> None:
        """What comes out is of one generation, and nothing comes of spans that this worker no longer owns."""
        before, current = len(self.memory.records("prices")), [span for span in spans if span.current and not span.dropped]
        self.waiting = self.loop.create_task(self.delivery.submit(spans))
        if not self.leased:
            self.run(self.turns())
            return
        self.resume()
        written = self.memory.records("prices")[before:]
        assert current or not written
        assert {dict(record.headers)["penstock-generation"] for record in written} <= {b"%d" % self.serving.generation}

    @precondition(lambda self: not self.problems and self.leased and self.waiting is None)
    @rule()
    def take_and_drop(self) -> None:
        """Taken, and never submitted: the assignment ends before."""
        if self.delivery.has_room():
            self.taken += self.run(self.source.take(self.delivery.rows))

    @precondition(lambda self: self.taken and self.waiting is None)
    @rule(data=st.data())
    def submit_late(self, data: st.DataObject) -> None:
        """Perhaps of an assignment that has passed."""
        span = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        self.crashed = True  # spans of one partition that are submitted out of order answer out of order
        self.submit([span])

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1))).abandon()
        self.crashed = True

    @rule()
    def commit(self) -> None:
        with contextlib.suppress(TransportUnavailable):
            self.run(self.delivery.poll())

    def crash(self) -> None:
        """Gone from one moment to the next; what was not stored is done again by the next worker."""
        self.crashed = True
        self.start()

    def stop(self) -> None:
        """In order: what was begun is finished if it is acknowledged in time."""
        self.drain()
        if self.source.positions.unfinished():
            self.crashed = True
        self.start()

    def drain(self) -> None:
        if self.source.positions.working:
            self.crashed = True  # the deadline passes: its outputs are there, and nothing says so
        with contextlib.suppress(TransportUnavailable):
            self.run(self.delivery.close(0.0))
        if self.source.positions.committable():
            self.crashed = True  # finished, and not stored

    @precondition(lambda self: self.problems)
    @rule()
    def worker_ends_after_a_refusal(self) -> None:
        self.delivery.terminate()
        self.crash()

    # -- the laws ----------------------------------------------------------------------------------------------------

    def answered(self) -> dict[Partition, list[tuple[int, int]]]:
        """By input partition, the offset and the generation of each output, in the order in which they were written."""
        found: dict[Partition, list[tuple[int, int]]] = {}
        for record in self.memory.records("prices"):
            headers = {name: (value or b"").decode() for name, value in record.headers}
            topic, partition, offset = headers["penstock-source"].split("/")
            found.setdefault((topic, int(partition)), []).append((int(offset), int(headers["penstock-generation"])))
        return found

    def settled(self) -> dict[Partition, set[int]]:
        """Input offsets that have an output or a dead letter."""
        found: dict[Partition, set[int]] = {partition: {offset for offset, _ in outputs} for partition, outputs in self.answered().items()}
        for record in self.memory.records("items.dead-letter"):
            headers = {name: (value or b"").decode() for name, value in record.headers}
            place = headers["__streams.errors.topic"], int(headers["__streams.errors.partition"])
            found.setdefault(place, set()).add(int(headers["__streams.errors.offset"]))
        return found

    @invariant()
    def nothing_is_stored_that_was_not_answered(self) -> None:
        done = self.settled()
        for partition, offset in self.memory.stored.items():
            if partition in self.sent:
                assert set(range(offset)) <= done.get(partition, set()), f"{partition} stored {offset}"

    @invariant()
    def outputs_keep_their_order(self) -> None:
        if not self.crashed:
            for outputs in self.answered().values():
                offsets = [offset for offset, _ in outputs]
                assert offsets == sorted(set(offsets))

    async def work(self, delivery: Delivery, source: MemorySource) -> None:
        """Takes and delivers to the end of the input."""
        while await delivery.room() and (spans := await source.take(delivery.rows)):
            await delivery.submit(spans)

    def check_recovery(self) -> None:
        """Whatever has happened: a worker that is left in peace answers every event."""
        self.sink.release()
        self.start()
        self.run(self.work(self.delivery, self.source))
        self.run(self.delivery.poll())
        assert not self.problems
        done = self.settled()
        for partition, count in self.sent.items():
            assert done.get(partition, set()) == set(range(count)), "every event is answered, or dead"
            assert self.memory.stored.get(partition, 0) == count

    @rule()
    def peace(self) -> None:
        self.crashed = True  # what was under way is done once more
        self.check_recovery()


Loop.TestCase.settings = settings(stateful_step_count=40)
TestLoop = Loop.TestCase
