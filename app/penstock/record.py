"""Record: one Kafka record as bytes, and its Position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

__all__ = ["Header", "Outgoing", "Position", "Record", "RecordLike", "Unreadable"]

Header = tuple[str, bytes | None]

# A record to be written: timestamp (ms since the epoch), key, value, headers. A plain tuple: a million a second are made.
Outgoing = tuple[int, bytes | None, bytes | None, list[Header]]


class RecordLike(Protocol):
    """The attributes of a record that the pipeline reads. aiokafka's parsed record has them, so it is not copied."""

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

    @property
    def position(self) -> Position:
        return Position(self.topic, self.partition, self.offset)


class Unreadable(NamedTuple):
    """Positions [offset, end) of a topic whose bytes, `value`, are no record, and why: it goes to the dead letters as it is."""

    offset: int
    end: int
    timestamp: int
    value: bytes
    reason: str
    key: bytes | None = None
    headers: Sequence[Header] = ()


class Position(NamedTuple):
    """The place of a record, written TOPIC:PARTITION:OFFSET."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str, separator: str = ":") -> Position:
        """Parses the text that `str` writes; topic names contain neither ":" nor "/". Raises ValueError for any other text."""
        topic, *numbers = text.split(separator)
        if not topic or len(numbers) != 2 or not all(one.isascii() and one.isdecimal() and len(one) < 20 for one in numbers):
            raise ValueError(
                f"{text!r} is not a position: write TOPIC{separator}PARTITION{separator}OFFSET, such as scores{separator}0{separator}42"
            )
        return cls(topic, int(numbers[0]), int(numbers[1]))

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"
