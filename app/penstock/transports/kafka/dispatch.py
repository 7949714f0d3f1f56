"""Sends record batches in the turn of the event loop in which they were made, when no earlier batch has to go first.

aiokafka's sender is a task that a new batch wakes. It looks for what may be sent, starts a task for each request, and is
woken again when one is done: at low rates that costs as much as the requests themselves. Here the caller that offers the
batches sends the request through `direct`, or the answer that they had to wait for does. aiokafka still assigns sequence
numbers and handles every exception: a broker without a connection, a leader that is not known, a batch that waits for a
retry, an answer that contains an error, or no answer. A batch that is refused because of one of its records is divided here.

The rule that keeps the order: nothing is sent here to a broker for which aiokafka's sender has a batch, waiting or under way.
A batch that was offered before that moment goes to the sender too, behind its batch. A later one waits until the sender has no batch.

The rule that keeps a worker from sending for partitions of another: a batch is sent only while the span that it is offered `under` is held,
here and by aiokafka's sender. Until then it waits; when its assignment has ended it is dropped, as `Lapsed`. One batch per
partition is exempt: one that was sent before, and is sent again because its answer was lost. Its sequence number is used, so the
broker takes nothing else in its place; and if it did arrive, the broker drops the second one.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaProducer._sender`, `._message_accumulator` and
`._txn_manager`; its `._sequence_numbers`; the table `kafka_errors`; `Sender._in_flight`, `._muted_partitions`,
`._request_timeout_ms` and `._fail_all`; `SendProduceReqHandler`; `MessageAccumulator._batches`, `._pending_batches`, `._batch_ttl`,
`._closed`, `._exception`, `._cluster`, `._wakeup`, `._waiter_future` and `.drain_by_nodes` (replaced: it leaves out what is not held).
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Set
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    BrokerResponseError,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    kafka_errors,
)
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.protocol.produce import ProduceResponse_v7
from aiokafka.structs import TopicPartition

from penstock.transports.base import Lapsed, Refused, Sent
from penstock.transports.kafka.direct import Direct, Line
from penstock.transports.kafka.encode import RecordBatch
from penstock.transports.kafka.wire import PRODUCE, parse_produce, produce_request
from penstock.transports.tracker import Span

__all__ = ["Dispatcher"]


class InvalidRecord(BrokerResponseError):  # type: ignore[misc]  # aiokafka gives its errors no types
    """A record that its topic does not take; aiokafka does not know this answer."""

    errno = 87
    message = "INVALID_RECORD"


kafka_errors.setdefault(InvalidRecord.errno, InvalidRecord)

# The answers that a record causes: its neighbours are taken without it.
_REASONS: Final[dict[Any, str]] = {
    kafka_errors[87]: "{topic} refuses the output as invalid (87 INVALID_RECORD): a topic that is compacted takes no record without a key",
    InvalidTimestampError: "{topic} refuses the output's timestamp (32 INVALID_TIMESTAMP): see its message.timestamp.*.max.ms",
    MessageSizeTooLargeError: "the output is larger than {topic} takes (10 MESSAGE_TOO_LARGE: its max.message.bytes)",
}


REQUEST_BYTES: Final = 16 << 20  # of one request, unless a single batch is larger; further batches wait for its answer
AGAIN: Final = 0.05  # seconds after which what is not held is looked at again


class _Offer(NamedTuple):
    batch: RecordBatch
    sent: Sent
    under: Span | None

    @property
    def lapsed(self) -> bool:
        return self.under is not None and not self.under.current

    @property
    def held(self) -> bool:
        return self.under is None or self.under.held


class _Message(MessageBatch):  # type: ignore[misc]  # aiokafka is untyped
    """An offer, as aiokafka's sender takes one."""

    def __init__(self, tp: TopicPartition, offer: _Offer, ttl: float) -> None:
        super().__init__(tp, offer.batch, ttl, 0)
        self.offer = offer


class Dispatcher:
    """Sends the batches of a started, idempotent producer without its sender, as long as the order allows it."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._sender = producer._sender
        self._accumulator = producer._message_accumulator
        self._state = producer._txn_manager
        self._direct = Direct(producer.client)
        self._offers: dict[TopicPartition, _Offer] = {}  # not sent yet
        self._ours: set[int] = set()  # brokers with a request of ours under way
        self._deaf: set[int] = set()  # brokers that do not support our version
        self._moved: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._drain = self._accumulator.drain_by_nodes
        self._accumulator.drain_by_nodes = self._drain_held

    async def room(self, topic: str, partition: int, under: Span | None = None) -> None:
        """Waits until the partition's last batch was sent, and the sender has no batch for its broker. That is the back-pressure.

        Waits also while `under` is not held, but not when its assignment has ended.

        Raises KafkaTimeoutError when the brokers take nothing for as long as a request may take.
        """
        tp = TopicPartition(topic, partition)
        patience = self._sender._request_timeout_ms / 1000
        while True:
            if tp in self._offers:
                self.push()
            if under is not None and not under.held:
                if not under.current:
                    return
                self._look_again()
            elif tp not in self._offers and self._leader(tp) not in self._with_sender() - self._deaf:
                return
            try:
                async with asyncio.timeout(patience):
                    await self._progress()
            except TimeoutError as error:
                raise KafkaTimeoutError(f"{topic}/{partition}: nothing could be sent for {patience:g} s") from error

    async def flush(self) -> None:
        """Waits until no offered batch is left here. aiokafka's sender flushes those that were left to it."""
        self.push()
        while self._offers or self._ours:
            await self._progress()

    async def _progress(self) -> None:
        """Waits until a batch was sent or answered, here or by aiokafka's sender."""
        if self._moved is None or self._moved.done():
            self._moved = asyncio.get_running_loop().create_future()
        theirs = [batch.future for batch in self._accumulator._pending_batches]
        theirs += [batch.future for batches in self._accumulator._batches.values() for batch in batches]
        await asyncio.wait((self._moved, *theirs), return_when=asyncio.FIRST_COMPLETED)

    def _progressed(self) -> None:
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def _with_sender(self) -> set[int | None]:
        """Returns the brokers for which aiokafka's sender has batches.

        A batch that is sent here waits for all of the sender's batches to its broker, or it would starve them.
        """
        accumulator = self._accumulator
        brokers: set[int | None] = self._sender._in_flight - self._ours
        if accumulator._batches or accumulator._pending_batches:
            brokers |= {self._leader(tp) for tp in accumulator._batches} | {self._leader(one.tp) for one in accumulator._pending_batches}
        return brokers

    def offer(self, batch: RecordBatch, topic: str, partition: int, sent: Sent, under: Span | None = None) -> bool:
        """Adds the batch, for which there must be room, as a part of `sent`; `push` sends it.

        Returns False when the producer's `send_batch` has to report the error, as for a partition that does not exist, or when
        the broker does not support our version.
        """
        tp, accumulator = TopicPartition(topic, partition), self._accumulator
        leader = self._leader(tp)
        if accumulator._closed or accumulator._exception is not None or not self._state.has_pid() or leader in self._deaf:
            return False
        if leader is None and partition not in (accumulator._cluster.partitions_for_topic(topic) or ()):
            return False
        sent.add()
        self._offers[tp] = _Offer(batch, sent, under)
        return True

    def push(self) -> None:
        """Sends what may be sent, in one request per broker. A batch that has to wait is sent when the answer that it waits for arrives."""
        requests: dict[int, dict[TopicPartition, _Offer]] = {}
        sizes: dict[int, int] = {}
        with_sender = self._with_sender() | {None}
        for tp, offer in tuple(self._offers.items()):
            leader = self._leader(tp)
            if offer.lapsed:
                del self._offers[tp]
                offer.sent.settle(Lapsed())
            elif not offer.held:
                self._look_again()
            elif leader is None or leader in with_sender:
                self._leave(tp)
            elif leader not in self._ours and tp not in self._sender._muted_partitions:
                size = sizes[leader] = sizes.get(leader, 0) + offer.batch.size()
                if size <= REQUEST_BYTES or leader not in requests:
                    requests.setdefault(leader, {})[tp] = self._offers.pop(tp)
        for node, offers in requests.items():
            line = self._direct.line(node, PRODUCE)
            if line is None:
                if self._direct.deaf(node, PRODUCE):
                    self._deaf.add(node)
                self._offers.update(offers)
                for tp in offers:
                    self._leave(tp)
            elif line.full:
                self._offers.update(offers)
                line.drained = self.push
            else:
                self._send(line, node, offers)
        self._progressed()

    def _look_again(self) -> None:
        """A lease ends and begins without a call to this: what is not held is looked at from time to time."""
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN, self._look)

    def _look(self) -> None:
        self._again = None
        self.push()
        self._wake()

    def _drain_held(self, ignore_nodes: Any, muted_partitions: Set[TopicPartition] = frozenset()) -> Any:
        """See `MessageAccumulator.drain_by_nodes`. Drops what has lapsed; what is not held counts as muted."""
        waiting = self._accumulator._batches
        withheld = set()
        for tp, messages in tuple(waiting.items()):
            for message in tuple(messages):
                if type(message) is _Message and message.offer.lapsed and not message.retry_count:
                    messages.remove(message)
                    message.drain_ready()
                    message.failure(Lapsed())
            if not messages:
                del waiting[tp]
            elif type(messages[0]) is _Message and not messages[0].offer.held and not messages[0].offer.lapsed:
                withheld.add(tp)
        if withheld:
            self._look_again()
        return self._drain(ignore_nodes, muted_partitions | withheld)

    def _leader(self, tp: TopicPartition) -> int | None:
        leader: int | None = self._accumulator._cluster.leader_for_partition(tp)
        return None if leader == -1 else leader

    def _leave(self, tp: TopicPartition) -> None:
        """Leaves a partition's batch to aiokafka's sender."""
        self._accumulator._batches[tp].append(self._message(tp, self._offers.pop(tp)))
        self._wake()

    def _message(self, tp: TopicPartition, offer: _Offer) -> _Message:
        """Returns the batch as aiokafka's sender takes one."""
        message = _Message(tp, offer, self._accumulator._batch_ttl)
        message.future.add_done_callback(lambda _: self._settle(message))
        return message

    def _settle(self, message: _Message) -> None:
        """Settles a batch that aiokafka's sender has handled. One that was refused because of a record is divided until that one is found.

        aiokafka calls this before its sender goes on, so the pieces go first, and with the sequence numbers that the broker still expects.
        """
        future, (batch, sent, under) = message.future, message.offer
        error = None if future.cancelled() else future.exception()
        if type(error) not in _REASONS:
            sent.settle_with(future)
            return
        tp, sequences = message.tp, self._state._sequence_numbers
        sequences[tp] -= batch.record_count()
        if batch.record_count() == 1:
            sent.refused.append(Refused(batch.parcels[0], _REASONS[type(error)].format(topic=tp.topic)))
            sent.settle()
        else:
            sent.add()
            waiting = self._accumulator._batches[tp]
            for half in reversed(batch.halves()):
                waiting.appendleft(self._message(tp, _Offer(half, sent, under)))
        self._wake()
        self._progressed()

    def _wake(self) -> None:
        if self._accumulator._batches:
            self._accumulator._wakeup(self._accumulator._waiter_future)

    # -- a request of ours -----------------------------------------------------------------------------------------

    def _send(self, line: Line, node: int, offers: dict[TopicPartition, _Offer]) -> None:
        sender, state = self._sender, self._state
        topics: dict[str, list[tuple[int, bytearray]]] = {}
        for tp, (batch, _, _) in offers.items():
            batch._set_producer_state(state.producer_id, state.producer_epoch, state.sequence_number(tp))
            state.increment_sequence_number(tp, batch.record_count())
            topics.setdefault(tp.topic, []).append((tp.partition, batch._build()))

        def answered(data: bytes, at: int) -> None:
            try:
                parts = parse_produce(data, at)
            except ValueError as problem:
                lost(KafkaConnectionError(str(problem)))
                return
            if len(parts) != len(offers) or any(part.error for part in parts):
                self._start(node, offers, ProduceResponse_v7.decode(io.BytesIO(data[at:])))
                return
            for offer in offers.values():
                offer.sent.settle()
            self._free(node, offers)

        def lost(error: KafkaError) -> None:
            self._start(node, offers, error)

        self._ours.add(node)
        sender._in_flight.add(node)
        sender._muted_partitions.update(offers)
        line.call(PRODUCE, produce_request(topics, timeout_ms=sender._request_timeout_ms), answered, lost)

    def _free(self, node: int, offers: dict[TopicPartition, _Offer]) -> None:
        self._ours.discard(node)
        self._sender._in_flight.discard(node)
        self._sender._muted_partitions.difference_update(offers)
        if self._offers:
            self.push()
        self._wake()
        self._progressed()

    # -- what aiokafka's sender handles -------------------------------------------------------------------------------

    def _start(self, node: int, offers: dict[TopicPartition, _Offer], outcome: Any) -> None:
        if self._sender.sender_task.done():  # no task is left that could send them again
            for offer in offers.values():
                offer.sent.settle(outcome if isinstance(outcome, KafkaError) else KafkaConnectionError("the producer was stopped"))
            self._ours.discard(node)
            self._progressed()
            return
        task = asyncio.create_task(self._conclude(node, offers, outcome))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _conclude(self, node: int, offers: dict[TopicPartition, _Offer], outcome: Any) -> None:
        """Has aiokafka handle an answer or an error: fail batches, send them again, look for their new leader."""
        pending = self._accumulator._pending_batches
        messages: dict[TopicPartition, _Message] = {}
        for tp, offer in offers.items():
            message = messages[tp] = self._message(tp, offer)
            message.drain_ready()  # it has been sent, so it keeps its sequence number
            pending.add(message)
            message.future.add_done_callback(lambda _, message=message: pending.discard(message))
        handler = SendProduceReqHandler(self._sender, messages)
        handler._client = _Known(handler._client, outcome)
        await handler.do(node)
        await asyncio.sleep(0)  # what was refused is divided before anything else goes to its partition
        self._free(node, offers)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Fails all batches after an unexpected error, as the sender does after a request."""
        self._tasks.discard(task)
        self._sender._fail_all(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            for offer in self._offers.values():
                offer.sent.settle(error)
            self._offers.clear()
            self._ours.clear()
            self.push()


class _Known:
    """A client that returns an answer that has already arrived."""

    def __init__(self, client: Any, outcome: Any) -> None:
        self._client = client
        self._outcome = outcome

    async def send(self, node: int, request: Any) -> Any:
        if isinstance(self._outcome, KafkaError):
            raise self._outcome
        return self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
