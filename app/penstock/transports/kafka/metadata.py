"""What a client knows of its cluster: the brokers that it was given are never forgotten, and no request of ours creates a topic.

aiokafka asks only the brokers of its last answer. When these go and others come back, as in a rolling restart, it would ask in
vain without end, although the ones that it was configured with answer: then the bootstrap list is asked again (KIP-899). And it lets
brokers create a topic that it asks for: one that was deleted under a running worker would come back empty, with the brokers' defaults.

A broker that refuses a connection is left alone for a moment that doubles up to `CALM`: aiokafka's tasks would try some hundred
times per second.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaConsumer._client`; of `AIOKafkaClient`:
`_metadata_update` and `_get_conn` (replaced), `close` (wrapped), `_conns`, `_sync_task`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from io import BytesIO
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakSet

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v4, MetadataRequest_v5
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

__all__ = ["MAX_AGE_MS", "Described", "cluster_of", "describe", "steady"]

logger = logging.getLogger(__name__)

MAX_AGE_MS = 30_000  # metadata is asked for again; aiokafka's default is five minutes, in which a new partition is not read
CALM: Final = 1.0  # seconds; the longest pause between two tries to connect to a broker that refuses
_BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)
_NONE: Final = bytes(16)  # no id
_silent: WeakSet[AIOKafkaClient] = WeakSet()  # clients that no broker has answered, the last time that they asked

C = TypeVar("C")


class Described(NamedTuple):
    """A topic as a broker describes it: its id ("" where brokers have none), and the leader of each partition, None without one."""

    id: str
    leaders: Mapping[int, int | None]


def steady(owner: C) -> C:
    """Returns the consumer or producer, whose client from now on asks and connects as described above."""
    client: Any = getattr(owner, "_client", None) or getattr(owner, "client")  # noqa: B009  one has the first, the other the second
    client._metadata_update = partial(_update, client)
    client._get_conn = calm = _Calm(client._get_conn)
    client.close = calm.closing(client.close)
    return owner


async def describe(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Described] | None:
    """Returns those of the topics that a broker knows and that may be seen; None when no broker answers."""
    answer = await _ask(client, _Describe(topics))
    if answer is None or not answer.brokers:
        return None
    found = {}
    for code, name, *rest in answer.topics:
        if not code:
            id = rest[0].hex() if answer.API_VERSION >= _DescribeResponse.API_VERSION and rest[0] != _NONE else ""
            partitions = next(one for one in rest if isinstance(one, list))
            found[name] = Described(id, {number: None if leader == -1 else leader for _, number, leader, *_ in partitions})
    return found


async def cluster_of(client: AIOKafkaClient) -> str | None:
    """Returns the id of the cluster; None when no broker answers."""
    answer = await _ask(client, MetadataRequest([], allow_auto_topic_creation=False))
    return None if answer is None else str(getattr(answer, "cluster_id", "") or "")


async def _update(client: AIOKafkaClient, cluster: Any, topics: Collection[str] | None) -> bool:
    """Returns whether `cluster` was brought up to date. See `AIOKafkaClient._metadata_update`."""
    answer = await _ask(client, MetadataRequest(list(topics) if topics else None, allow_auto_topic_creation=False))
    if answer is None:
        level = logging.DEBUG if client in _silent else logging.WARNING  # once: a program may wait for brokers for days
        logger.log(level, "no broker answers for metadata: neither those of the last answer nor %s", client.hosts)
        _silent.add(client)
        cluster.failed_update(None)
        return False
    _silent.discard(client)
    if not answer.brokers:
        return False
    cluster.update_metadata(answer)
    if _BOOTSTRAP in client._conns and client.cluster.brokers():
        client._conns.pop(_BOOTSTRAP).close()
    return True


async def _ask(client: AIOKafkaClient, request: Any) -> Any:
    """Returns the first answer to a request that every broker can answer; None without one."""
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
                return await connection.send(request)
            except (KafkaError, TimeoutError) as error:
                logger.debug("no metadata from node %s: %r", node, error)
    return None


async def _from_the_list(client: AIOKafkaClient) -> bool:
    """Returns whether one of the brokers that the client was given has described the cluster anew."""
    if client._sync_task is None:  # it is being closed, or was not started
        return False
    try:
        await client.bootstrap()
    except KafkaConnectionError:
        return False
    return True


class _Calm:
    """`AIOKafkaClient._get_conn`, with a pause before a broker that could not be reached is tried again.

    A connection that is opened while the client closes is closed too: aiokafka closes only those that were open then.
    """

    def __init__(self, connect: Any) -> None:
        self._connect = connect
        self._closed = False
        self._pauses: dict[Any, tuple[float, float]] = {}  # by connection: until when it is left alone, and how long the pause is

    async def __call__(self, node: Any, **options: Any) -> Any:
        place = (node, *options.values())
        until, pause = self._pauses.get(place, (0.0, 0.0))
        if (left := until - time.monotonic()) > 0:
            await asyncio.sleep(left)
        connection = await self._connect(node, **options)
        if self._closed:
            if connection is not None:
                connection.close()
            return None
        if connection is None:
            pause = min(max(pause * 2, 0.05), CALM)
            self._pauses[place] = time.monotonic() + pause, pause
        else:
            self._pauses.pop(place, None)
        return connection

    def closing(self, close: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """Returns `AIOKafkaClient.close` for a client with this."""

        async def closed() -> None:
            self._closed = True
            await close()

        return closed


# -- the request that names the ids of topics, which aiokafka does not have ----------------------------------------------------------


class _Id:
    """16 bytes."""

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)

    @classmethod
    def repr(cls, value: bytes) -> str:
        return value.hex()


_TEXT: Final = CompactString("utf-8")


class _DescribeResponse(Response):  # type: ignore[misc]  # untyped, as all of aiokafka's below
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields))),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", _TEXT),
                ("topic_id", _Id),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("operations", Int32),
        ("tags", TaggedFields),
    )


class _DescribeRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _DescribeResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Id), ("topic", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("cluster_operations", Boolean),
        ("topic_operations", Boolean),
        ("tags", TaggedFields),
    )


class _Describe(Request[MetadataRequest_v4 | MetadataRequest_v5 | _DescribeRequest]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[Any]) -> Any:
        if request_struct_class is _DescribeRequest:
            return _DescribeRequest([(_NONE, name, {}) for name in self._topics], False, False, False, {})
        return request_struct_class(self._topics, False)
