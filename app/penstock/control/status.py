"""What workers tell about themselves on the status topic, which Kafka compacts by key: the last word of each key stays.

Two kinds of records:

- `worker/ID`: how the worker is, again every few seconds and at once when something changes. A worker that stops takes its
  record away (an empty value); one that was killed is told by the age of its last word.
- `boundary/TOPIC/PARTITION/OFFSET`: from this input offset on, the worker scored with this generation, until the next boundary
  of the partition. One is written whenever a worker begins with a partition, and at each change of generation.

Nobody signs here, so a reader believes little: texts are for people, and are read as one line that steers no terminal.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import msgspec

from penstock.control.messages import UNPRINTABLE
from penstock.errors import ControlError

__all__ = ["Boundary", "Place", "Progress", "Status", "WorkerStatus", "encode", "json_schema", "key_of", "parse"]

VERSION: Final = 1

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Version = Annotated[int, msgspec.Meta(ge=1, le=VERSION)]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a worker stands in a partition of its input. `lag` is None while the end of the log is not known."""

    position: Annotated[Whole, msgspec.Meta(description="The next offset to take.")]
    lag: Whole | None = None


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
    pid: Whole
    started: str
    time: str
    generation: Annotated[Whole, msgspec.Meta(description="The generation that it scores with.")]
    wanted: Annotated[Whole, msgspec.Meta(description="The generation that the control log has in force.")]
    ready: Annotated[bool, msgspec.Meta(description="Partitions assigned, models warm, outputs writable.")]
    models: dict[str, str] = {}
    partitions: dict[str, Place] = {}
    releases: list[Progress] = []
    refused: Annotated[dict[str, Whole], msgspec.Meta(description="Control messages that meant nothing here, by reason.")] = {}
    problems: Annotated[list[str], msgspec.Meta(description="What a person should look at.")] = []
    unsigned: Annotated[bool, msgspec.Meta(description="Takes control messages without a signature: for development only.")] = False
    reads: Annotated[int, msgspec.Meta(ge=1, le=2**31, description="The newest version of control messages that it reads; absent: 1.")] = 1
    version: Version = VERSION


class Boundary(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="boundary"):
    """From `offset` on, `worker` scored this partition with `generation`."""

    topic: str
    partition: Whole
    offset: Whole
    generation: Whole
    worker: str
    time: str
    version: Version = VERSION


Status = WorkerStatus | Boundary


class _Versioned(msgspec.Struct):
    version: int = VERSION


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
    """The value of a status record. Raises ControlError: a stranger may have written there; `.code` is `newer` or `malformed`."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version > VERSION:
            raise ControlError(f"a status of version {version}; this Penstock reads up to {VERSION}: upgrade it", code="newer")
        return cast(Status, msgspec.convert(_plain(msgspec.json.decode(data)), Status))
    except (ValueError, RecursionError) as error:  # what msgspec raises are ValueErrors
        raise ControlError(f"not a status record: {error}", code="malformed") from error


def _plain(value: Any) -> Any:
    """The value with a blank for each control character in its texts."""
    if isinstance(value, str):
        return UNPRINTABLE.sub(" ", value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {_plain(name): _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def json_schema() -> dict[str, Any]:
    """What a status looks like, as a JSON Schema (draft 2020-12), published in `schemas/status.schema.json`."""
    (shape,), definitions = msgspec.json.schema_components([Status])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock status record",
        "description": "What a record of a status topic says.",
        **shape,
        "$defs": definitions,
    }
