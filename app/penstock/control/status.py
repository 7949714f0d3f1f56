"""What workers tell about themselves on the status topic, which Kafka compacts by key: the last word of each key stays.

Two kinds of records:

- `worker/ID`: how the worker is, again every few seconds and at once when something changes. A worker that stops takes its
  record away (an empty value); one that was killed is told by the age of its last word.
- `boundary/TOPIC/PARTITION/OFFSET`: from this input offset on, the worker scored with this generation, until the next boundary
  of the partition. One is written whenever a worker begins with a partition, and at each change of generation.
"""

from __future__ import annotations

from typing import Annotated, Final, cast

import msgspec

from penstock.errors import ControlError

__all__ = ["Boundary", "Place", "Progress", "Status", "WorkerStatus", "encode", "key_of", "parse"]

VERSION: Final = 1


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker stands in a partition of its input. `lag` is None while the end of the log is not known."""

    position: Annotated[int, msgspec.Meta(description="The next offset to take.")]
    lag: int | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a release is on this worker. `state` is one of `lifecycle.State`, `detail` what is being done or what went wrong."""

    id: str
    state: str
    detail: str = ""
    since: str = ""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="worker"):
    """One worker, now. Times are RFC 3339, UTC."""

    worker: str
    topology: str
    host: str
    pid: int
    started: str
    time: str
    generation: Annotated[int, msgspec.Meta(description="The generation that it scores with.")]
    wanted: Annotated[int, msgspec.Meta(description="The generation that the control log has in force.")]
    ready: Annotated[bool, msgspec.Meta(description="Partitions assigned, models warm, outputs writable.")]
    models: dict[str, str] = {}
    partitions: dict[str, Place] = {}
    releases: list[Progress] = []
    refused: Annotated[dict[str, int], msgspec.Meta(description="Control messages that meant nothing here, by reason.")] = {}
    problems: Annotated[list[str], msgspec.Meta(description="What a person should look at.")] = []
    unsigned: Annotated[bool, msgspec.Meta(description="Takes control messages without a signature: for development only.")] = False
    version: int = VERSION


class Boundary(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="boundary"):
    """From `offset` on, `worker` scored this partition with `generation`."""

    topic: str
    partition: int
    offset: int
    generation: int
    worker: str
    time: str
    version: int = VERSION


Status = WorkerStatus | Boundary

_DECODER: Final = msgspec.json.Decoder(Status)
_ENCODER: Final = msgspec.json.Encoder()


def key_of(status: Status) -> bytes:
    """The record's key."""
    if isinstance(status, WorkerStatus):
        return f"worker/{status.worker}".encode()
    return f"boundary/{status.topic}/{status.partition}/{status.offset}".encode()


def encode(status: Status) -> bytes:
    """The record's value."""
    return _ENCODER.encode(status)


def parse(data: bytes) -> Status:
    """The value of a status record. Raises ControlError: a stranger may have written there."""
    try:
        return cast(Status, _DECODER.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ControlError(f"not a status record: {error}") from error
