"""S3: a lock that fetching and the rebalance listener share stops a consumer for good. Not Faust's mistake, but an easy one to make.

aiokafka's `getmany` waits for a rebalance to end, and the rebalance waits for the listener: so whoever holds a lock across
`getmany` that the listener wants, waits for itself. Penstock's loop holds none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.abc import ConsumerRebalanceListener

from penstock.record import Record
from penstock.testing.broker import Broker
from penstock.testing.topics import create_topics, produce, unique
from tests.kafka.stock.scenarios import staged
from tests.kafka.stock.workers import IMPLEMENTATIONS


class _Locked(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """Guards its bookkeeping with the lock under which records are fetched."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self.called = asyncio.Event()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.called.set()
        async with self._lock:
            pass

    async def on_partitions_assigned(self, assigned: Any) -> None:
        pass


@asynccontextmanager
async def _consumer(broker: Broker, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, group_id=group, auto_offset_reset="earliest", session_timeout_ms=3000, heartbeat_interval_ms=200
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _joined_while_fetching(broker: Broker, *, under_lock: bool) -> bool:
    """Whether a consumer still gets records after a second one has joined its group."""
    topic, group, lock = unique("lock"), unique("group"), asyncio.Lock()
    create_topics(broker, {topic: 2})
    listener = _Locked(lock)
    async with _consumer(broker, group) as first, _consumer(broker, group) as second:
        first.subscribe([topic], listener=listener)
        await first.getmany(timeout_ms=3000)
        listener.called.clear()

        async def fetch() -> None:
            while True:
                if under_lock:
                    async with lock:
                        records = await first.getmany(timeout_ms=200)
                else:
                    records = await first.getmany(timeout_ms=200)
                if records:
                    return

        fetching = asyncio.create_task(fetch())
        second.subscribe([topic])
        await asyncio.wait_for(listener.called.wait(), 15)
        produce(broker, [Record(topic, b"event", partition=partition) for partition in (0, 1)])
        done, _ = await asyncio.wait({fetching}, timeout=5)
        fetching.cancel()
        return bool(done)


@pytest.mark.broker
def test_a_lock_across_a_fetch_stops_a_consumer_for_good(broker: Broker) -> None:
    assert not asyncio.run(_joined_while_fetching(broker, under_lock=True))


@pytest.mark.broker
def test_without_the_lock_it_goes_on(broker: Broker) -> None:
    """What stops the consumer above is the lock, not the test."""
    assert asyncio.run(_joined_while_fetching(broker, under_lock=False))


@pytest.mark.broker
def test_penstock_goes_on_when_a_worker_joins_while_it_waits_for_records(broker: Broker, tmp_path: Path) -> None:
    with staged(IMPLEMENTATIONS["penstock"], broker, tmp_path, 2) as stage:
        stage.start("a")
        stage.start("b")
        stage.wait_answered(stage.send("ok", partition=0) + stage.send("ok", partition=1))
