"""The contract of a transport, as one function: give it a rig that fills, reads and opens one.

It holds the source and the sink to the rules at the top of `penstock.transports.base`, one after the other, through nothing but
the port itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Protocol

from penstock.parcel import Parcel
from penstock.record import Record, RecordLike
from penstock.transports.base import Sink, Source
from penstock.transports.tracker import Partition, Span

__all__ = ["INPUT", "OUTPUT", "Rig", "check_transport"]

INPUT: Final = "transport-in"  # a rig may put something behind the names: it maps them
OUTPUT: Final = "transport-out"
_ROWS: Final = 7
_TURNS: Final = 20  # of the event loop, in which a source that is not paused would have yielded


class Rig(Protocol):
    """A transport under test. Each method refers to the same topics: one input and one output, with `partitions` partitions each."""

    partitions: int
    output: str

    async def fill(self, partition: int, values: Sequence[bytes]) -> None:
        """Adds these records to a partition of the input."""

    async def open_source(self) -> Source:
        """A source that owns all partitions, from what was stored of them on."""

    async def close_source(self, source: Source) -> None:
        """Closes it, without storing anything."""

    async def open_sink(self) -> Sink: ...

    async def close_sink(self, sink: Sink) -> None: ...

    async def read(self, partition: int) -> list[bytes | None]:
        """The values of a partition of the output, in their order."""


async def check_transport(rig: Rig) -> None:
    """Asserts everything that `penstock.transports.base` promises. The rig's topics must be empty."""
    given = {partition: [b'{"n":%d,"p":%d}' % (n, partition) for n in range(25 + 5 * partition)] for partition in range(rig.partitions)}
    for partition, values in given.items():
        await rig.fill(partition, values)
    await _yields_each_record_once_in_its_order(rig, given)
    await _begins_where_it_was_stored(rig, given)
    await _yields_again_what_was_abandoned(rig, given)
    await _yields_nothing_while_it_is_paused(rig, given)
    await _keeps_the_order_of_outputs(rig)
    await _knows_what_is_too_large(rig)


async def _yields_each_record_once_in_its_order(rig: Rig, given: dict[int, list[bytes]]) -> None:
    source = await rig.open_source()
    try:
        spans = await _take(source, _count(given))
        assert _values(spans) == given, "each record of each partition, once, in its order"
        assert all(1 <= len(span.records) <= _ROWS for span in spans), "a span has at most as many rows as were asked for"
        for partition in given:
            those = [span for span in spans if span.partition[1] == partition]
            joined = all(one.end == other.start for one, other in pairwise(those))
            assert joined, "the spans of a partition follow one another without a gap"
            offsets = [record.offset for span in those for record in span.records]
            assert offsets == sorted(set(offsets)), "offsets ascend"
            assert all(span.start <= record.offset < span.end for span in those for record in span.records)
        assert source.positions.in_flight == len(spans), "what was taken is under way"
        if source.abilities.bounded:
            assert not await source.take(_ROWS), "a bounded source ends with an empty answer"
    finally:
        await rig.close_source(source)


async def _begins_where_it_was_stored(rig: Rig, given: dict[int, list[bytes]]) -> None:
    """Nothing was stored by the check before, so all comes again; then the finished prefix of each partition is stored, and no more."""
    source = await rig.open_source()
    try:
        spans = await _take(source, _count(given))
        assert _values(spans) == given, "what was not stored is yielded again"
        firsts = _firsts(spans)
        for span in firsts.values():
            assert span.begin()
            span.finish()
        later = next(span for span in spans if span is not firsts[span.partition])
        skipped = [span for span in spans if span.partition == later.partition][2:]
        for span in skipped:
            span.finish()  # behind one that is not finished: it must not be stored
        offsets = source.positions.committable()
        assert offsets == {span.partition: span.end for span in firsts.values()}
        assert await source.store(offsets), "positions are stored"
        source.positions.committed(offsets, source.positions.epoch)
        assert not source.positions.committable()
    finally:
        await rig.close_source(source)
    for span in firsts.values():
        del given[span.partition[1]][: len(span.records)]
    source = await rig.open_source()
    try:
        assert _values(await _take(source, _count(given))) == given, "the next owner begins where it was stored"
    finally:
        await rig.close_source(source)


async def _yields_again_what_was_abandoned(rig: Rig, given: dict[int, list[bytes]]) -> None:
    source = await rig.open_source()
    try:
        if not source.abilities.replay:
            return
        spans = await _take(source, _count(given))
        for span in spans:
            assert span.begin()
        second = [span for span in spans if span.partition[1] == 0][1]
        behind = [value for span in spans if span.partition[1] == 0 and span.start >= second.start for value in _of(span.records)]
        second.abandon()
        assert _values(await _take(source, len(behind))) == {0: behind}, "an abandoned span, and what was taken behind it, comes again"
    finally:
        await rig.close_source(source)


async def _yields_nothing_while_it_is_paused(rig: Rig, given: dict[int, list[bytes]]) -> None:
    source = await rig.open_source()
    try:
        source.pause()
        taking = asyncio.ensure_future(source.take(_ROWS))
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        assert not taking.done(), "a paused source yields nothing"
        source.resume()
        first = [*await taking]
        rest = await _take(source, _count(given) - sum(len(span.records) for span in first))
        assert _values([*first, *rest]) == given, "a source that goes on yields all that there is"
    finally:
        await rig.close_source(source)


async def _keeps_the_order_of_outputs(rig: Rig) -> None:
    sink = await rig.open_sink()
    try:
        sent = []
        for number in range(6):
            parcels = [_parcel(rig, partition, [b"%d" % number, b"%d" % (10 + number)]) for partition in range(rig.partitions)]
            sent.append(await sink.send(parcels))
        for one in sent:
            if not one.done():
                await one.settled()
            assert one.exception() is None
    finally:
        await rig.close_sink(sink)
    for partition in range(rig.partitions):
        expected = [b"%d" % (number + more) for number in range(6) for more in (0, 10)]
        assert await rig.read(partition) == expected, "outputs to a partition keep their order, each once"


async def _knows_what_is_too_large(rig: Rig) -> None:
    sink = await rig.open_sink()
    try:
        limit = sink.limit(rig.output)
        assert sink.fits(_parcel(rig, 0, [b"1"]))
        if limit < 1 << 24:
            assert not sink.fits(_parcel(rig, 0, [b"x" * (limit + 1)])), "what is larger than the limit does not fit"
    finally:
        await rig.close_sink(sink)


async def _take(source: Source, records: int) -> list[Span]:
    """Spans with so many records in all."""
    spans: list[Span] = []
    while sum(len(span.records) for span in spans) < records:
        more = await source.take(_ROWS)
        assert more, "the source ended too early"
        spans += more
    return spans


def _count(given: dict[int, list[bytes]]) -> int:
    return sum(map(len, given.values()))


def _of(records: Sequence[RecordLike]) -> list[bytes]:
    return [record.value or b"" for record in records]


def _values(spans: Sequence[Span]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for span in spans:
        found.setdefault(span.partition[1], []).extend(_of(span.records))
    return dict(sorted(found.items()))


def _firsts(spans: Sequence[Span]) -> dict[Partition, Span]:
    found: dict[Partition, Span] = {}
    for span in spans:
        found.setdefault(span.partition, span)
    return found


def _parcel(rig: Rig, partition: int, values: Sequence[bytes]) -> Parcel:
    inputs = [Record(INPUT, b"", b"k%d" % at, (), 1_600_000_000_000 + at, partition, at) for at in range(len(values))]
    return Parcel(rig.output, partition, inputs, values)
