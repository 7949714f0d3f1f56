"""Dead letters: records that cannot go on, as they came, with the reason in headers that Kafka Streams uses too (KIP-1034).

Every letter fits: where its record is too large for the dead-letter topic, the record's headers, its key and at last the end of its
value are left out, and the header `penstock-truncated` shows what there was: `value=BYTES;sha256=HEX;key=BYTES;headers=BYTES`.

A letter names what failed: `penstock-topology`, `-generation` and `-models` as outputs do, `penstock-variant` (which of the
generation's plans), `penstock-stage` (read, decode, a node's name, encode or send), and where a node failed, `penstock-node`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import structs

from penstock.errors import InferenceError, RecordError
from penstock.parcel import Cause, Parcel
from penstock.record import Header, RecordLike

__all__ = [
    "CANDIDATE", "EVENT", "EXPERIMENT", "FELL", "ID", "JOIN", "LIVE", "MATCH", "MODELS", "NODE", "OWN", "PROPENSITY", "SCHEMA", "SOURCE",
    "STAGE", "STAGES", "TRUNCATED", "VARIANT", "Address", "dead_letters", "fitting",
]  # fmt: skip

OWN = "penstock-"  # headers that describe an output; those of an earlier topology are replaced
ID = f"{OWN}id"  # the event's id: of an output and of a dead letter alike
TRUNCATED = f"{OWN}truncated"
STAGE = f"{OWN}stage"
NODE = f"{OWN}node"
VARIANT = f"{OWN}variant"
EXPERIMENT = f"{OWN}experiment"  # the release on trial, of a row that is in the trial
PROPENSITY = f"{OWN}propensity"  # the probability with which its unit was assigned as it was
FELL = f"{OWN}fell-back"  # the variant that it was assigned to, and that could not answer
MODELS = f"{OWN}models"
JOIN = f"{OWN}join"  # which members of a join were used, and its deadline
MATCH = f"{OWN}match"  # of a pair: the position of the right event, TOPIC/PARTITION/OFFSET; empty where a left one has no partner
SCHEMA = f"{OWN}schema"  # between two stages: which types the record has
SOURCE = f"{OWN}source"  # the position of the input
EVENT = f"{OWN}event"  # behind the first stage: the position at which the event has entered the topology
STAGES = f"{OWN}stages"  # of a topology that is cut into stages: the generation that each has scored with
EXCEPTION = "__streams.errors.exception"  # the first of our headers: what precedes it is the record's own
LIVE = "live"  # the variants: the plan that answers what no other does,
CANDIDATE = "candidate"  # and the one on trial
LONGEST = 1024  # characters of a reason, and of an event's id, that a dead letter repeats: it has to fit where its record fitted
LEAST_PART = 256  # bytes of headers or a key that are small enough to stay, whatever is cut


class Address(NamedTuple):
    """Where dead letters go, and what their headers say of the program that failed: topology, generation, model versions, variant."""

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
    place = [("__streams.errors.topic", topic.encode()), ("__streams.errors.partition", b"%d" % partition), *address.about]
    extra = []
    known: dict[tuple[type[RecordError], str], tuple[Header, list[Header]]] = {}  # most letters have the same cause: made once
    counts: dict[tuple[type[RecordError], str], int] = {}
    for at, (record, error) in enumerate(failed):
        id = f"{topic}:{partition}:{record.offset}" if ids is None or len(ids[at]) > LONGEST else ids[at]
        cause = type(error), error.where
        if cause not in known:
            known[cause] = _named(*cause)
            counts[cause] = 0
        counts[cause] += 1
        exception, step = known[cause]
        extra.append(
            [
                *record.headers,
                exception,
                ("__streams.errors.message", _short(str(error))),
                ("__streams.errors.offset", b"%d" % record.offset),
                *place,
                *step,
                (ID, id.encode(errors="replace")),
            ]
        )
    inputs = [record for record, _ in failed]
    causes = tuple(Cause(where, kind.__name__, count) for (kind, where), count in counts.items())
    return Parcel(address.topic, partition, inputs, [record.value for record in inputs], extra=extra, dead=True, causes=causes)


def _named(kind: type[RecordError], where: str) -> tuple[Header, list[Header]]:
    """Returns the header that names the class of the error, and those that name the step."""
    step = where.encode(errors="replace")
    node = [(NODE, step)] if issubclass(kind, InferenceError) else []
    return (EXCEPTION, f"{kind.__module__}.{kind.__qualname__}".encode()), [(STAGE, step), *node]


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
