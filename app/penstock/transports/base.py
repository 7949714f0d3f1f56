"""The transport port: where records come from and where outputs go, for Kafka, for files and for memory alike.

The assumptions that the loop (`pipeline.delivery`) may make of a transport, and a transport of the loop:

1. A source yields spans in the order of each partition's positions, each exactly once, from its committed
   position on. It takes every span from its `positions` (a `Tracker`), which alone records what is under way.
2. A span carries its records and its acknowledgement. The loop calls `begin` before it works on a span, and `finish` after
   the sink has acknowledged everything that the span caused; `abandon` instead has the source yield the records again.
3. `take` waits for records. An empty list means the end of a bounded source; an unbounded source returns only spans.
4. After `pause`, a source takes nothing until `resume`; what it yielded before stays under way.
5. `store` keeps positions for the next assignment. It is called with what `positions.committable()` returned, and nothing
   beyond a position that is finished is ever passed.
6. A sink keeps the order of the outputs to one partition, over any number of `send` calls. An output that one batch of its
   topic cannot take is found by `fits` before it is sent; the loop never sends one on purpose.
7. `send` returns when the outputs are queued; there a sink slows a loop that is too fast. `Sent` is settled when all of
   them are acknowledged, or with the first reason why one is not. An output that its topic refuses for what it is (its timestamp,
   a missing key) is in `Sent.refused`, and its neighbours are written all the same: the loop makes a dead letter of it.
8. A source whose partitions another worker may take over gives its `positions` a `lease`. While it does not hold, the source
   takes nothing, the loop scores nothing, and the sink begins to send nothing that was sent `under` it: outputs wait until it holds again,
   and are dropped, as `Lapsed`, when their assignment has ended.

A transport declares what it is able to do (`Abilities`), and a guarantee that needs more is refused before anything starts.
`penstock.testing.check_transport` tests a transport for all of these rules.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from penstock.batch import Array
from penstock.parcel import Parcel
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["UNLIMITED", "Abilities", "Joinable", "Lapsed", "Refused", "Sent", "Sink", "Source", "by_topic", "cut", "size_of"]

UNLIMITED: Final = 1 << 62  # bytes: the limit of a topic whose outputs may have any size


@dataclass(frozen=True, slots=True)
class Abilities:
    """The abilities of a transport.

    `replay`: an abandoned span, and everything after a committed position, can be read again. `transactions`: outputs and
    positions can be made visible together or not at all. `bounded`: the input has an end.
    """

    replay: bool = True
    transactions: bool = False
    bounded: bool = False

    def lacks(self, needed: Abilities) -> list[str]:
        """Returns the abilities that are needed and missing."""
        return [name for name in ("replay", "transactions") if getattr(needed, name) and not getattr(self, name)]


class Source(Protocol):
    """Where spans come from; see the rules above. Its errors are TransportErrors."""

    positions: Tracker

    @property
    def abilities(self) -> Abilities: ...

    async def take(self, rows: int) -> Sequence[Span]:
        """Returns the next spans, each of at most `rows` rows, of the partitions that have records; empty at a bounded source's end."""

    def pause(self) -> None:
        """Takes nothing until `resume`."""

    def resume(self) -> None:
        """Takes again."""

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """Stores the committed positions. Returns False when the loop has to try again, or another owner's are stored."""


class Joinable(Source, Protocol):
    """A source whose partitions may be joined."""

    withheld: Callable[[Partition], bool] | None  # which partitions are not read further for now; the loop sets it
    beyond: Callable[[Partition, int], Array] | None  # the offsets, ascending, from a position on that are free; `store` keeps them too
    free: Mapping[Partition, Array]  # those that were kept beside the positions at which the assignment has begun

    def ended_at(self, partition: Partition) -> int:
        """Returns when all records of the partition had been taken, ms since the epoch; 0 while some are left to take."""


class Refused(NamedTuple):
    """One output that its topic does not take, because of what it is, and why: no other output suffers."""

    parcel: Parcel
    reason: str


class Lapsed(Exception):
    """The assignment ended before these outputs were sent: the next owner of the partitions makes them."""


class Sent:
    """Outputs on their way: settled when all of them were acknowledged or `refused`, with the first error if one was neither.

    Unlike those of a future, its callbacks are called at once: when the answer arrives, not in the event loop's next turn.
    """

    __slots__ = ("_callbacks", "_error", "_left", "refused")

    def __init__(self, parts: int = 0) -> None:
        self._left = parts
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Sent], None]] = []
        self.refused: list[Refused] = []

    def add(self) -> None:
        """Adds a part that is on its way."""
        self._left += 1

    def settle(self, error: BaseException | None = None) -> None:
        """Settles one part: it was acknowledged, or with `error` will not be. `Lapsed` gives way to an error."""
        if self._error is None or isinstance(self._error, Lapsed):
            self._error = error or self._error
        self._left -= 1
        if not self._left:
            callbacks, self._callbacks = self._callbacks, []  # they hold the records, and often this object
            for callback in callbacks:
                callback(self)

    def settle_with(self, future: asyncio.Future[Any] | Sent) -> None:
        """Settles one part with the future's result."""
        self.settle(asyncio.CancelledError() if future.cancelled() else future.exception())

    def done(self) -> bool:
        return not self._left

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        """Returns the first error, None while there is no error."""
        return self._error

    def add_done_callback(self, callback: Callable[[Sent], None]) -> None:
        """Calls `callback` when every part is settled, at once if all are. It must not raise."""
        if self.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def settled(self) -> None:
        """Waits until every part is settled. Raises the first error."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.add_done_callback(lambda _: None if waiter.done() else waiter.set_result(None))
        await waiter
        if self._error is not None:
            raise self._error


class Sink(Protocol):
    """Where outputs go; see the rules above. Its errors are TransportErrors."""

    @property
    def abilities(self) -> Abilities: ...

    def limit(self, topic: str) -> int:
        """Returns the bytes that one batch of the topic may have."""

    def fits(self, parcel: Parcel) -> bool:
        """Returns whether one batch of the parcel's topic takes all its outputs together."""

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns the partition of an output with a key that its sink sets."""

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """Queues the outputs, in order. `under` is a span of the assignment that they are sent under; None where there is only one.

        Raises DeliveryFailed when the sink can no longer send.
        """


def cut(start: int, end: int, records: Sequence[Any], rows: int) -> list[tuple[int, int, Sequence[Any]]]:
    """Returns (start, end, records) of pieces of at most `rows` records; the last one keeps the end, with the gap after its last record."""
    pieces = []
    for at in range(0, len(records), rows):
        upto = records[at + rows].offset if at + rows < len(records) else end
        pieces.append((start, upto, records[at : at + rows]))
        start = upto
    return pieces


def size_of(records: Sequence[Any]) -> int:
    """Returns the bytes of the records, from a sample: accurate enough to limit memory, at no cost."""
    step = max(1, len(records) // 16)
    sample = records[::step]
    return sum(len(record.value or b"") + len(record.key or b"") + 64 for record in sample) * step


def by_topic(spans: Sequence[Span]) -> list[list[Span]]:
    """Returns the spans of each topic, in their order: a stage takes those of its topic."""
    topics: dict[str, list[Span]] = {}
    for span in spans:
        topics.setdefault(span.partition[0], []).append(span)
    return list(topics.values())
