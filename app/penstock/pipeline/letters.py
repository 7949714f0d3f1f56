"""Dead letters: records that cannot go on, as they came, with the reason in headers that Kafka Streams uses too (KIP-1034).

Every letter fits: where its record is too large for the dead-letter topic, the record's headers, its key and at last the end of its
value are left out, and the header `penstock-truncated` shows what there was: `value=BYTES;sha256=HEX;key=BYTES;headers=BYTES`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import structs

from penstock.errors import RecordError
from penstock.parcel import Parcel
from penstock.record import Header, RecordLike

__all__ = ["ID", "OWN", "TRUNCATED", "Address", "dead_letters", "fitting"]

OWN = "penstock-"  # headers that describe an output; those of an earlier topology are replaced
ID = f"{OWN}id"  # the event's id: of an output and of a dead letter alike
TRUNCATED = f"{OWN}truncated"
LONGEST = 1024  # characters of a reason, and of an event's id, that a dead letter repeats: it has to fit where its record fitted
LEAST_PART = 256  # bytes of headers or a key that are small enough to stay, whatever is cut


class Address(NamedTuple):
    """Where dead letters go, and what their headers say of the program that failed: topology, generation, model versions."""

    topic: str
    about: tuple[Header, ...]


class _Letter(NamedTuple):
    """The record that a letter was made from, with the parts that fit."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


def dead_letters(
    address: Address, came_from: tuple[str, int], failed: Sequence[tuple[RecordLike, RecordError]], ids: Sequence[str] | None = None
) -> Parcel:
    """Returns the records of the partition `came_from` as dead letters.

    Where `ids` is None, an id is the position; so is one of more than LONGEST characters, which the record's value holds already.
    """
    topic, partition = came_from
    # The exception begins what is ours: what precedes it is the record's own.
    place = [("__streams.errors.topic", topic.encode()), ("__streams.errors.partition", b"%d" % partition), *address.about]
    extra = []
    for at, (record, error) in enumerate(failed):
        id = f"{topic}:{partition}:{record.offset}" if ids is None or len(ids[at]) > LONGEST else ids[at]
        kind = type(error)
        extra.append(
            [
                *record.headers,
                ("__streams.errors.exception", f"{kind.__module__}.{kind.__qualname__}".encode()),
                ("__streams.errors.message", _short(str(error))),
                ("__streams.errors.offset", b"%d" % record.offset),
                *place,
                (f"{OWN}stage", error.where.encode(errors="replace")),
                (ID, id.encode(errors="replace")),
            ]
        )
    inputs = [record for record, _ in failed]
    return Parcel(address.topic, partition, inputs, [record.value for record in inputs], extra=extra, dead=True)


def _short(reason: str) -> bytes:
    return (reason if len(reason) <= LONGEST else f"{reason[:LONGEST]}…").encode(errors="replace")


def fitting(letters: Parcel, fits: Callable[[Parcel], bool], limit: int, *, now_ms: int | None = None) -> Parcel:
    """Returns the letters; each one that does not fit is cut to at most `limit` bytes. `now_ms` is their new timestamp, if given."""
    if now_ms is not None:
        again = [_Letter(one.offset, now_ms, one.key, one.value, one.headers) for one in letters.inputs]
        letters = structs.replace(letters, inputs=again)
    large = [at for at in range(len(letters)) if not fits(letters.part(at, at + 1))]
    if not large:
        return letters
    inputs, values, extra = [*letters.inputs], [*letters.values], [*(letters.extra or ())]
    for at in large:
        inputs[at], values[at], extra[at] = _cut(inputs[at], values[at], extra[at], limit)
    return structs.replace(letters, inputs=inputs, values=values, extra=extra)


def _cut(record: RecordLike, value: bytes | None, headers: Sequence[Header], limit: int) -> tuple[RecordLike, bytes | None, list[Header]]:
    theirs, ours = headers[: len(record.headers)], headers[len(record.headers) :]
    held, whole, key = _bytes(theirs), value or b"", record.key or b""
    note = f"value={len(whole)};sha256={hashlib.sha256(whole).hexdigest()};key={len(key)};headers={held}"
    room = max(0, limit - _bytes(ours) - 4 * LEAST_PART)
    letter = _Letter(record.offset, record.timestamp, record.key if len(key) <= LEAST_PART else None, None)
    kept = theirs if held <= LEAST_PART else ()
    return letter, None if value is None else value[:room], [*kept, *ours, (TRUNCATED, note.encode())]


def _bytes(headers: Sequence[Header]) -> int:
    return sum(4 * len(name) + len(value or b"") + 16 for name, value in headers)
