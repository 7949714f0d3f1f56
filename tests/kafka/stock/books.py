"""Who has finished what, kept by stock Faust and by Penstock, driven by one script: a log, a reader, an order of finishing.

A book reads one partition of a log whose offsets the test gives. Only the edge is made up (what the client fetches and what
the broker stores); the bookkeeping under test is Faust's `Consumer` as it is installed, and Penstock's `Tracker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import faust
from faust.transport.consumer import Consumer
from faust.types import TP, ConsumerMessage

from penstock.transports.tracker import Span, Tracker

__all__ = ["Book", "FaustBook", "PenstockBook"]

TOPIC = "events"
FETCH = 10  # records that the client hands over at once


class Book(Protocol):
    """`stored` is what the broker holds as committed, `read` the offsets that were handed out for processing, in order."""

    stored: int
    read: list[int]

    async def fetch(self, *, moved_after: int | None = None) -> None:
        """Reads the log from the client's position to its end; with `moved_after`, the group rebalances after so many records."""

    async def finish(self, *offsets: int) -> None:
        """These are processed."""

    async def finish_unsent(self, offset: int) -> None:
        """This one is processed, but its output waits in the client: the broker is slow."""

    async def checkpoint(self, *, refused: bool = False) -> None:
        """Commits what may be committed; `refused`: the broker says no."""


def _nowhere(*_: Any, **__: Any) -> Any:
    raise AssertionError("a book has no broker")


class FaustBook(Consumer):
    """Stock Faust's consumer, reading `log`."""

    def __init__(self, log: list[int]) -> None:
        app: Any = faust.App("book", broker="kafka://nowhere", store="memory://")
        app.consumer_generation_id = 1
        app.topics._acking_topics.add(TOPIC)
        self.stored = 0
        self.read: list[int] = []
        self._log = log
        self._position = 0
        self._moved_after: int | None = None
        self._refused = False
        self._messages: dict[int, ConsumerMessage] = {}
        super().__init__(app.transport, self._deliver, _nothing, _nothing)  # type: ignore[arg-type]  # Faust's messages are these
        self.tp = TP(TOPIC, 0)
        self._set_active_tps({self.tp})
        app._consumer = self

    async def fetch(self, *, moved_after: int | None = None) -> None:
        self._moved_after = moved_after
        self._stopped.clear()
        await self._drain_messages(self)

    async def _getmany(self, active_partitions: Any, timeout: float) -> Mapping[TP, list[int]]:
        # As aiokafka does: what is handed over is behind the position, whatever becomes of it.
        records = [offset for offset in self._log if offset >= self._position][:FETCH]
        if not records:
            self._stopped.set()
            return {}
        self._position = records[-1] + 1
        return {self.tp: records}

    async def _deliver(self, message: ConsumerMessage) -> None:
        self.track_message(message)
        self._messages[message.offset] = message
        self.read.append(message.offset)
        if len(self.read) == self._moved_after:
            self.app.consumer_generation_id += 1
            self._stopped.set()

    async def finish(self, *offsets: int) -> None:
        for offset in offsets:
            self.ack(self._messages[offset])

    async def finish_unsent(self, offset: int) -> None:
        buffer: Any = self.app.producer.buffer
        buffer.app = self.app
        await buffer.start()
        try:
            _SlowTopic(self.app).send_soon(value=b"output")
            await self.finish(offset)
            await self.checkpoint()
        finally:
            buffer.pending._queue.clear()
            await buffer.stop()

    async def checkpoint(self, *, refused: bool = False) -> None:
        self._refused = refused
        await self.commit()

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        if self._refused:
            return False  # what Faust's driver returns for aiokafka's CommitFailedError
        self.stored = offsets[self.tp]
        return True

    def assignment(self) -> set[TP]:
        return {self.tp}

    def highwater(self, tp: TP) -> int:
        return self._log[-1] + 1

    def _to_message(self, tp: TP, record: int) -> ConsumerMessage:
        return ConsumerMessage(TOPIC, 0, record, 0.0, 0, None, None, b"", None)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    # What a script never comes to.
    subscribe = seek_to_committed = position = earliest_offsets = _nowhere
    highwaters = seek_wait = _seek = create_topic = topic_partitions = key_partition = _nowhere


class _SlowTopic(faust.Topic):
    """A topic whose broker takes longer to answer than the 100 ms that Faust's buffer is given to empty."""

    async def publish_message(self, fut: Any, wait: bool = False) -> Any:
        await asyncio.Event().wait()


async def _nothing(*_: Any) -> None:
    """What Faust would do about a rebalance is not under test."""


class PenstockBook:
    """Penstock's tracker, reading `log` as its transport does: from the expected position on, one record a span."""

    def __init__(self, log: list[int]) -> None:
        self.stored = 0
        self.read: list[int] = []
        self._log = log
        self._partition = (TOPIC, 0)
        self._spans: dict[int, Span] = {}
        self._tracker = Tracker()
        self._tracker.assign({self._partition: 0})

    async def fetch(self, *, moved_after: int | None = None) -> None:
        start = self._tracker.expected(self._partition)
        assert start is not None
        for offset in [offset for offset in self._log if offset >= start]:
            span = self._tracker.take(self._partition, start, offset + 1)
            self._tracker.begin(span)
            self._spans[offset], start = span, offset + 1
            self.read.append(offset)
            if len(self.read) == moved_after:
                self._tracker.assign({self._partition: self.stored})
                return

    async def finish(self, *offsets: int) -> None:
        for offset in offsets:
            self._tracker.finish(self._spans[offset])

    async def finish_unsent(self, offset: int) -> None:
        await self.checkpoint()  # a span is finished by the delivery of its outputs, so there is nothing to say yet

    async def checkpoint(self, *, refused: bool = False) -> None:
        offsets, epoch = self._tracker.committable(), self._tracker.epoch
        if offsets and not refused:
            self.stored = offsets[self._partition]
            self._tracker.committed(offsets, epoch)
