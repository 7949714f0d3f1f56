"""A static member proves its identity with every request: of two workers with one `group_instance_id`, the earlier one ends.

aiokafka names the identity when it joins, and neither in its heartbeats nor in its commits. The broker then answers the earlier of two
workers with "unknown member", it joins again, takes the identity back, and both go on without end, each with the other's records. With the
identity, the answer is FENCED_INSTANCE_ID: a newer member has taken it. That is also how a worker that was started again takes over
from one that hangs, so the earlier one has to go.

Private parts of aiokafka 0.14.0 that are touched, all of them in this file: `AIOKafkaConsumer._coordinator`; its `_send_req` (replaced);
the fields of `HeartbeatRequest` and `OffsetCommitRequest`; the table `kafka_errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import BrokerResponseError, kafka_errors
from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetCommitRequest_v3, OffsetCommitResponse_v3
from aiokafka.protocol.group import HeartbeatRequest, HeartbeatRequest_v1, HeartbeatResponse_v1
from aiokafka.protocol.types import Array, Int32, Int64, Schema, String

__all__ = ["Fenced", "identified"]

_TEXT: Final = String("utf-8")


class Fenced(BrokerResponseError):  # type: ignore[misc]  # aiokafka gives its errors no types
    """Another member has joined with this one's identity; aiokafka does not know this answer."""

    errno = 82
    message = "FENCED_INSTANCE_ID"


kafka_errors.setdefault(Fenced.errno, Fenced)


def identified(consumer: AIOKafkaConsumer, instance: str, fenced: Callable[[], None]) -> None:
    """From now on the started consumer sends its identity, and `fenced` is called when another member has taken it.

    Brokers before 2.3 have no static members and are asked as before.
    """
    coordinator: Any = consumer._coordinator
    send = coordinator._send_req

    async def named(request: Any) -> Any:
        if type(request) is HeartbeatRequest:
            request = _Heartbeat(request, instance)
        elif type(request) is OffsetCommitRequest:
            request = _OffsetCommit(request, instance)
        answer = await send(request)
        if Fenced.errno in _codes(answer):
            fenced()
        return answer

    coordinator._send_req = named


def _codes(answer: Any) -> set[int]:
    if isinstance(answer, OffsetCommitResponse_v3):
        return {code for _, partitions in answer.topics for _, code in partitions}
    return {getattr(answer, "error_code", 0)}


class _HeartbeatResponse(HeartbeatResponse_v1):  # type: ignore[misc]  # untyped, as all of aiokafka's below
    API_VERSION = 3


class _HeartbeatRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = _HeartbeatResponse
    SCHEMA = Schema(("group", _TEXT), ("generation_id", Int32), ("member_id", _TEXT), ("group_instance_id", _TEXT))


class _Heartbeat(Request[HeartbeatRequest_v1 | _HeartbeatRequest]):  # type: ignore[misc]
    API_KEY = 12

    def __init__(self, plain: Any, instance: str) -> None:
        self._plain, self._instance = plain, instance

    def build(self, request_struct_class: type[Any]) -> Any:
        plain = self._plain
        if request_struct_class is not _HeartbeatRequest:
            return plain.build(request_struct_class)
        return _HeartbeatRequest(plain._group, plain._generation_id, plain._member_id, self._instance)


class _OffsetCommitResponse(OffsetCommitResponse_v3):  # type: ignore[misc]
    API_VERSION = 7


class _OffsetCommitRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 8
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetCommitResponse
    SCHEMA = Schema(
        ("group", _TEXT),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            Array(
                ("topic", _TEXT),
                ("partitions", Array(("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", _TEXT))),
            ),
        ),
    )


class _OffsetCommit(Request[OffsetCommitRequest_v3 | _OffsetCommitRequest]):  # type: ignore[misc]
    API_KEY = 8

    def __init__(self, plain: Any, instance: str) -> None:
        self._plain, self._instance = plain, instance

    def build(self, request_struct_class: type[Any]) -> Any:
        plain = self._plain
        if request_struct_class is not _OffsetCommitRequest:
            return plain.build(request_struct_class)
        topics = [(topic, [(number, offset, -1, text) for number, offset, text in partitions]) for topic, partitions in plain._topics]
        return _OffsetCommitRequest(plain._consumer_group, plain._consumer_group_generation_id, plain._consumer_id, self._instance, topics)
