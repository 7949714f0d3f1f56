"""Dead letters: records that cannot go on, as they came, with the reason in headers that Kafka Streams uses too (KIP-1034)."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from penstock.errors import RecordError
from penstock.parcel import Parcel
from penstock.record import Header, RecordLike

__all__ = ["ID", "OWN", "dead_letters"]

OWN = "penstock-"  # headers that describe an output; those of an earlier topology are replaced
ID = f"{OWN}id"  # the event's id: of an output and of a dead letter alike
LONGEST_ID = 4096  # characters of an event's id that a dead letter repeats: it has to fit where its record fitted
TRACE_LIMIT = 8192  # characters of a stack trace in a dead letter


def dead_letters(
    topic: str, came_from: tuple[str, int], failed: Sequence[tuple[RecordLike, RecordError]], ids: Sequence[str] | None = None
) -> Parcel:
    """Returns the records of the partition `came_from`, for the dead-letter topic `topic`.

    Where `ids` is None, an id is the position; so is one of more than LONGEST_ID characters, which the record's value holds already.
    """
    inputs = [record for record, _ in failed]
    extra = []
    for at, (record, error) in enumerate(failed):
        id = f"{came_from[0]}:{came_from[1]}:{record.offset}" if ids is None or len(ids[at]) > LONGEST_ID else ids[at]
        extra.append([*record.headers, *_reasons(came_from, record, error), (ID, id.encode())])
    return Parcel(topic, came_from[1], inputs, [record.value for record in inputs], extra=extra, dead=True)


def _reasons(came_from: tuple[str, int], record: RecordLike, error: RecordError) -> list[Header]:
    kind = type(error)
    trace = "".join(traceback.format_exception(error))[-TRACE_LIMIT:]
    return [
        ("__streams.errors.exception", f"{kind.__module__}.{kind.__qualname__}".encode()),
        ("__streams.errors.stacktrace", trace.encode(errors="replace")),
        ("__streams.errors.message", str(error).encode(errors="replace")),
        ("__streams.errors.topic", came_from[0].encode()),
        ("__streams.errors.partition", b"%d" % came_from[1]),
        ("__streams.errors.offset", b"%d" % record.offset),
        (f"{OWN}stage", error.where.encode()),
    ]
