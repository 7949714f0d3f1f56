"""Record: one Kafka record as bytes, and where it stood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["Header", "Outgoing", "Record", "RecordLike"]

Header = tuple[str, bytes | None]

# A record to be written: timestamp (ms since the epoch), key, value, headers. A plain tuple: a million a second are made.
Outgoing = tuple[int, bytes | None, bytes | None, list[Header]]


class RecordLike(Protocol):
    """What the pipeline reads of a record. aiokafka's parsed record has it as it is, so none is copied."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


class Record(NamedTuple):
    """A record outside Kafka: in tests, in files, as a dead letter. `timestamp` is in ms since the epoch, UTC."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[Header] = ()
    timestamp: int = 0
    partition: int = 0
    offset: int = 0
