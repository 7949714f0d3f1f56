"""What a client knows of its cluster, on a real broker: it finds the cluster again by its first list, and creates nothing by asking."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.protocol.metadata import MetadataRequest, MetadataResponse_v0

from penstock.settings import Settings
from penstock.testing import Broker, create_topics, unique
from penstock.transports.kafka.connection import Admin, aiokafka_arguments
from penstock.transports.kafka.metadata import steady
from penstock.transports.kafka.sink import KafkaSink

pytestmark = pytest.mark.broker


def test_client_whose_known_brokers_are_gone_asks_those_that_it_was_given(broker: Broker) -> None:
    """As after a rolling restart: the last answer named a broker that does not come back, and the configured ones answer."""
    topic = unique("metadata")
    create_topics(broker, {topic: 3})
    settings = Settings(brokers=f"127.0.0.1:1,{broker.bootstrap}")

    async def main() -> None:
        owner = steady(AIOKafkaConsumer(topic, **aiokafka_arguments(settings), group_id=None, auto_offset_reset="earliest"))
        await owner.start()
        try:
            client = owner._client
            client.cluster.update_metadata(MetadataResponse_v0([(7, "127.0.0.1", 2)], []))
            for connection in list(client._conns.values()):
                connection.close()
            client._conns.clear()
            assert await client.force_metadata_update()
            assert {one.nodeId for one in client.cluster.brokers()} != {7}
            assert client.cluster.partitions_for_topic(topic) == {0, 1, 2}
        finally:
            await owner.stop()

    asyncio.run(main())


def test_no_request_lets_the_broker_create_a_topic(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where brokers create topics that clients ask for, one that was deleted under a worker would come back, empty."""
    missing = unique("missing")
    settings = Settings(brokers=broker.bootstrap)
    asked: list[bool | None] = []
    send = AIOKafkaConnection.send

    def watched(connection: AIOKafkaConnection, request: Any, *more: Any, **named: Any) -> Any:
        if isinstance(request, MetadataRequest) and request._topics != []:  # an empty list asks for the brokers alone
            asked.append(request._allow_auto_topic_creation)
        return send(connection, request, *more, **named)

    monkeypatch.setattr(AIOKafkaConnection, "send", watched)

    async def main() -> None:
        consumer = steady(AIOKafkaConsumer(**aiokafka_arguments(settings), group_id=None))
        await consumer.start()
        sink = KafkaSink(settings, {})
        await sink.start()
        try:
            for client in (consumer._client, sink.client.client):
                client.add_topic(missing)
                await client.force_metadata_update()
        finally:
            await consumer.stop()
            await sink.stop()

    asyncio.run(main())
    assert len(asked) >= 2
    assert set(asked) == {False}
    assert missing not in Admin(settings).partitions()


def test_connection_that_is_opened_while_the_client_closes_is_closed_too(broker: Broker) -> None:
    """Else its socket would stay open, and Python would say so in the log of a worker that was stopped while it joined its group."""

    async def main() -> None:
        owner = steady(AIOKafkaConsumer(**aiokafka_arguments(Settings(brokers=broker.bootstrap)), group_id=None))
        await owner.start()
        client = owner._client
        (node, *_) = (one.nodeId for one in client.cluster.brokers())
        opened = asyncio.ensure_future(client._get_conn(node, group=ConnectionGroup.COORDINATION))
        await asyncio.sleep(0)
        await owner.stop()
        assert await opened is None
        assert not any(connection.connected() for connection in client._conns.values())

    asyncio.run(main())
