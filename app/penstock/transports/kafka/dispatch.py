"""Puts record batches on the wire in the turn of the event loop in which they were made, when nothing is in the way.

aiokafka's sender is a task that is woken by a new batch, looks what may be sent, starts a task for each request and is
woken again when one is done: at low rates that costs as much as the requests themselves. Here the request is started
by whoever brings the batches. Its sending, its answer, retries and sequence numbers are aiokafka's, and so is
everything that is out of the ordinary: a broker that still has a request under way, a leader that is not known, a
batch that waits to be sent again.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaProducer._sender`, `._message_accumulator` and
`._txn_manager`; `Sender._in_flight`, `._muted_partitions`, `._send_produce_req` and `._fail_all`; `MessageAccumulator._batches`,
`._batch_ttl`, `._closed`, `._exception`, `._cluster`, `._pop_batch`, `._wakeup` and `._waiter_future`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.structs import TopicPartition

from penstock.transports.kafka.encode import RecordBatch

__all__ = ["Dispatcher"]


class Dispatcher:
    """Sends the batches of a started, idempotent producer without its sender, as long as nothing is in the way."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._sender = producer._sender
        self._accumulator = producer._message_accumulator
        self._state = producer._txn_manager
        self._offered: list[TopicPartition] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, batch: RecordBatch, topic: str, partition: int) -> asyncio.Future[Any] | None:
        """Takes the batch; its future is done when the broker has acknowledged it, and must not be cancelled.

        None when something is in the way. Then the producer's own `send_batch` knows what to do, and keeps the order.
        """
        tp, accumulator = TopicPartition(topic, partition), self._accumulator
        if accumulator._closed or accumulator._exception is not None or tp in accumulator._batches or self._free_leader(tp) is None:
            return None
        message = MessageBatch(tp, batch, accumulator._batch_ttl, 0)
        accumulator._batches[tp].append(message)
        if not self._offered:
            self._start(self._dispatch())
        self._offered.append(tp)
        future: asyncio.Future[Any] = message.future
        return future

    def _free_leader(self, tp: TopicPartition) -> int | None:
        """The broker that the partition's next batch may be sent to now."""
        leader: int | None = self._accumulator._cluster.leader_for_partition(tp)
        if leader in (None, -1) or leader in self._sender._in_flight or tp in self._sender._muted_partitions or not self._state.has_pid():
            return None
        return leader

    async def _dispatch(self) -> None:
        """One request for each broker, with all that was offered for it. What cannot go now is left to the sender."""
        accumulator, sender = self._accumulator, self._sender
        requests: dict[int, dict[TopicPartition, MessageBatch]] = {}
        for tp in self._offered:
            if tp in accumulator._batches and (leader := self._free_leader(tp)) is not None:
                requests.setdefault(leader, {})[tp] = accumulator._pop_batch(tp)
        self._offered.clear()
        if not requests:
            return
        for node, batches in requests.items():
            sender._in_flight.add(node)
            sender._muted_partitions.update(batches)
        *others, (node, batches) = requests.items()
        for other in others:
            self._start(sender._send_produce_req(*other))
        await sender._send_produce_req(node, batches)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """As the sender does after a request: an error that nothing has foreseen fails all batches; else what waits is sent."""
        self._tasks.discard(task)
        self._sender._fail_all(task)
        if self._accumulator._batches:
            self._accumulator._wakeup(self._accumulator._waiter_future)
