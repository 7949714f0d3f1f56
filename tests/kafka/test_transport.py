"""Kafka keeps the contract of a transport: source and sink as they are, without their host."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.structs import TopicPartition

from penstock.record import Record
from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.testing import Broker, create_topics, produce, read_all, unique
from penstock.testing.check_transport import check_transport
from penstock.transports.base import Sink, Source
from penstock.transports.kafka.connection import TopicInfo
from penstock.transports.kafka.sink import KafkaSink
from penstock.transports.kafka.source import KafkaSource

pytestmark = pytest.mark.broker


class Placing(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """What a host does at an assignment, and no more."""

    def __init__(self, source: KafkaSource) -> None:
        self.source = source
        self.placed = asyncio.Event()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.source.positions.revoke()

    async def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        await self.source.place(lambda: True)
        self.placed.set()


@dataclasses.dataclass
class OnKafka:
    """Two partitions; a group that has one member at a time."""

    broker: Broker
    settings: Settings
    input: str
    output: str
    group: str
    partitions: int = 2

    async def fill(self, partition: int, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(produce, self.broker, [Record(self.input, value, partition=partition) for value in values])

    async def open_source(self) -> Source:
        source = KafkaSource(self.settings, self.group, metrics=Metrics())
        await source.start(RoundRobinPartitionAssignor)
        listener = Placing(source)
        source.subscribe([self.input], listener)
        await asyncio.wait_for(listener.placed.wait(), 30)
        return source

    async def close_source(self, source: Source) -> None:
        assert isinstance(source, KafkaSource)
        await source.stop()

    async def open_sink(self) -> Sink:
        sink = KafkaSink(self.settings, {self.output: TopicInfo(self.partitions, 5000)})
        await sink.start()
        return sink

    async def close_sink(self, sink: Sink) -> None:
        assert isinstance(sink, KafkaSink)
        await sink.stop()

    async def read(self, partition: int) -> list[bytes | None]:
        records = await asyncio.to_thread(read_all, self.broker, self.output)
        return [record.value for record in records if record.partition == partition]


def test_kafka_keeps_the_contract(broker: Broker) -> None:
    input, output = unique("transport-in"), unique("transport-out")
    create_topics(broker, {input: 2, output: 2})
    rig = OnKafka(broker, Settings(brokers=broker.bootstrap), input, output, unique("transport"))
    asyncio.run(check_transport(rig))
