"""What a client knows of its cluster: the brokers that it was given are never forgotten, and no request of ours creates a topic.

aiokafka asks only the brokers of its last answer. When these go and others come back, as in a rolling restart, it would ask in
vain without end, although the ones that it was configured with answer: then the bootstrap list is asked again (KIP-899). And it lets
brokers create a topic that it asks for: one that was deleted under a running worker would come back empty, with the brokers' defaults.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaConsumer._client`; of `AIOKafkaClient`:
`_metadata_update` (replaced), `_get_conn`, `_conns`, `_sync_task`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from functools import partial
from typing import Any, TypeVar

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest

__all__ = ["MAX_AGE_MS", "steady"]

logger = logging.getLogger(__name__)

MAX_AGE_MS = 30_000  # metadata is asked for again; aiokafka's default is five minutes, in which a new partition is not read
_BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)

C = TypeVar("C")


def steady(owner: C) -> C:
    """Returns the consumer or producer, whose client from now on asks as described above."""
    client: Any = getattr(owner, "_client", None) or getattr(owner, "client")  # noqa: B009  one has the first, the other the second
    client._metadata_update = partial(_update, client)
    return owner


async def _update(client: AIOKafkaClient, cluster: Any, topics: Collection[str] | None) -> bool:
    """Returns whether `cluster` was brought up to date. See `AIOKafkaClient._metadata_update`."""
    request = MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False)
    for again in (False, True):
        if again and not await _from_the_list(client):
            break
        nodes: list[Any] = [broker.nodeId for broker in client.cluster.brokers()]
        nodes += [_BOOTSTRAP[0]] if _BOOTSTRAP in client._conns else []
        random.shuffle(nodes)
        for node in nodes:
            connection = await client._get_conn(node)
            if connection is None:
                continue
            try:
                answer = await connection.send(request)
            except (KafkaError, TimeoutError) as error:
                logger.debug("no metadata from node %s: %r", node, error)
                continue
            if not answer.brokers:
                return False
            cluster.update_metadata(answer)
            if _BOOTSTRAP in client._conns and client.cluster.brokers():
                client._conns.pop(_BOOTSTRAP).close()
            return True
    logger.warning("no broker answers for metadata: neither those of the last answer nor %s", client.hosts)
    cluster.failed_update(None)
    return False


async def _from_the_list(client: AIOKafkaClient) -> bool:
    """Returns whether one of the brokers that the client was given has described the cluster anew."""
    if client._sync_task is None:  # it is being closed, or was not started
        return False
    try:
        await client.bootstrap()
    except KafkaConnectionError:
        return False
    return True
