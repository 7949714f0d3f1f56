"""The reports of workers on the status topic, which Kafka compacts by key: the last record of each key stays.

Two kinds of records:

- `worker/ID`: the state of the worker, every few seconds and at once when something changes. A worker that stops deletes its
  record (an empty value); a killed worker is recognised by the age of its last report.
- `boundary/TOPIC/PARTITION/OFFSET`, with `/STAGE` behind it for a stage that runs apart: from this input offset on, the worker scored with
  this generation, until the next boundary of the partition. One is written whenever a worker begins with a partition, and at each change
  of generation.

A worker signs both with the key of its membership (`trust.member`), in a header of the record. Readers trust little also then: texts are
for people, and control characters in them become blanks.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, cast

import msgspec

from penstock.errors import ControlError
from penstock.tame import UNPRINTABLE

__all__ = [
    "Boundary",
    "Cause",
    "DeadLetters",
    "Place",
    "Progress",
    "Refused",
    "Status",
    "WorkerStatus",
    "encode",
    "json_schema",
    "key_of",
    "parse",
]

VERSION: Final = 1

Whole = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Version = Annotated[int, msgspec.Meta(ge=1, le=VERSION)]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The position of a worker in a partition of its input. `lag`, in records, is None while the end of the log is not known."""

    position: Annotated[Whole, msgspec.Meta(description="The next offset to take.")]
    lag: Whole | None = None
    slowed: Annotated[bool, msgspec.Meta(description="Slowed to `dead_letter_rate`: too many of its records fail.")] = False


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The progress of a release on this worker. `state` is one of `lifecycle.State`; `detail` is the current work or the error."""

    id: str
    state: str
    detail: str = ""
    since: str = ""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """Dead letters with the same cause: since the worker started, and recently."""

    step: Annotated[str, msgspec.Meta(description="The step that failed: read, decode, a node's name, encode or send.")]
    reason: Annotated[str, msgspec.Meta(description="The class of the error.")]
    total: Whole
    recent: Whole = 0


class DeadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of a worker. What is recent lies within the last `seconds`, in which it finished `records` records."""

    seconds: Annotated[float, msgspec.Meta(ge=0, description="The time that `recent` and `records` cover, at most about a minute.")]
    records: Whole
    causes: list[Cause] = []

    @property
    def share(self) -> float:
        """The share of the recent records that became dead letters, 0 to 1."""
        recent = sum(one.recent for one in self.causes)
        return min(recent / max(self.records, 1), 1.0)

    def per_second(self, count: int) -> float:
        """Returns the rate of a recent count."""
        return count / self.seconds if self.seconds else 0.0


class Refused(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of the control log that this worker did not accept. `code` is that of the refusal, or `rejected`."""

    offset: Whole
    code: str
    why: str = ""


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="worker"):
    """One worker, now. Times are RFC 3339, UTC."""

    worker: str
    topology: str
    host: str
    pid: Whole
    started: str
    time: str
    generation: Annotated[Whole, msgspec.Meta(description="The generation that it scores with.")]
    wanted: Annotated[Whole, msgspec.Meta(description="The active generation of the control log.")]
    ready: Annotated[bool, msgspec.Meta(description="Partitions assigned, models warm, outputs writable.")]
    models: dict[str, str] = {}
    partitions: dict[str, Place] = {}
    releases: list[Progress] = []
    refused: Annotated[dict[str, Whole], msgspec.Meta(description="Control messages that were refused here, by reason.")] = {}
    refusals: Annotated[list[Refused], msgspec.Meta(description="The last entries that were not accepted here.")] = []
    trusts: Annotated[Whole | None, msgspec.Meta(description="Keys that are trusted here for this topology; absent: not known.")] = None
    problems: Annotated[list[str], msgspec.Meta(description="Problems that a person should look at.")] = []
    dead_letters: Annotated[DeadLetters | None, msgspec.Meta(description="Absent: an older worker, which does not count them.")] = None
    unsigned: Annotated[bool, msgspec.Meta(description="Accepts control messages without a signature: for development only.")] = False
    reads: Annotated[int, msgspec.Meta(ge=1, le=2**31, description="The newest version of control messages that it reads; absent: 1.")] = 1
    role: Annotated[str, msgspec.Meta(description="`service` when it answers requests; absent: it reads partitions.")] = ""
    stage: Annotated[str, msgspec.Meta(description="The stage that it runs, of a topology that is cut; absent: what is not cut.")] = ""
    stages: Annotated[list[str], msgspec.Meta(description="All stages that have workers of their own, where the topology is cut.")] = []
    number: Annotated[Whole, msgspec.Meta(description="Its number among those of its process, from 1 on; absent: an older worker.")] = 0
    version: Version = VERSION


class Boundary(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="boundary"):
    """From `offset` on, `worker` scored this partition with `generation`; in the stage `stage`, where the topology is cut."""

    topic: str
    partition: Whole
    offset: Whole
    generation: Whole
    worker: str
    time: str
    stage: str = ""
    version: Version = VERSION


Status = WorkerStatus | Boundary


class _Versioned(msgspec.Struct):
    version: int = VERSION


_ENCODER: Final = msgspec.json.Encoder()


def key_of(status: Status) -> bytes:
    """Returns the record's key."""
    if isinstance(status, WorkerStatus):
        return f"worker/{status.worker}".encode()
    return f"boundary/{status.topic}/{status.partition}/{status.offset}{f'/{status.stage}' if status.stage else ''}".encode()


def encode(status: Status) -> bytes:
    """Returns the record's value."""
    return _ENCODER.encode(status)


def parse(data: bytes) -> Status:
    """Parses a status record. Raises ControlError for any other content; `.code` is `newer` or `malformed`."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version > VERSION:
            raise ControlError(f"a status of version {version}; this Penstock reads up to {VERSION}: upgrade it", code="newer")
        return cast(Status, msgspec.convert(_plain(msgspec.json.decode(data)), Status))
    except (ValueError, RecursionError) as error:  # msgspec raises ValueErrors
        raise ControlError(f"not a status record: {error}", code="malformed") from error


def _plain(value: Any) -> Any:
    """Returns the value with a blank for each control character in its texts."""
    if isinstance(value, str):
        return UNPRINTABLE.sub(" ", value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {_plain(name): _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema (draft 2020-12) of a status, published in `schemas/status.schema.json`."""
    (shape,), definitions = msgspec.json.schema_components([Status])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Penstock status record",
        "description": "The value of a status topic's record.",
        **shape,
        "$defs": definitions,
    }
