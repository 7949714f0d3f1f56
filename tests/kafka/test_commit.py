"""A commit that the broker does not answer."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from penstock.settings import Settings
from penstock.telemetry import Metrics
from penstock.testing import Broker, create_topics, unique
from penstock.transports.kafka.source import KafkaSource
from tests.kafka.test_transport import Placing

pytestmark = pytest.mark.broker


@pytest.mark.broker("pause")
def test_a_commit_that_hangs_ends_with_its_assignment(broker: Broker) -> None:
    """Else it would be repeated under the next generation, and could set back what the next owner has committed."""
    topic = unique("uncommitted")
    create_topics(broker, {topic: 1})

    async def main() -> None:
        source = KafkaSource(Settings(brokers=broker.bootstrap), unique("group"), metrics=Metrics())
        await source.start(RoundRobinPartitionAssignor)
        listener = Placing(source)
        source.subscribe([topic], listener)
        await asyncio.wait_for(listener.placed.wait(), 30)
        assert await source.store({(topic, 0): 0})
        broker.pause()
        try:
            storing = asyncio.ensure_future(source.store({(topic, 0): 0}))
            await asyncio.sleep(0.1)
            assert not storing.done()
            source.revoke()
            assert not await asyncio.wait_for(storing, 5)
        finally:
            broker.resume()
        await source.stop()

    asyncio.run(main())
