"""The faults that the sink in memory produces on command."""

from __future__ import annotations

import asyncio

from penstock.parcel import Parcel
from penstock.record import Record
from penstock.transports.base import Lapsed
from penstock.transports.memory import Memory, MemorySink, MemorySource

PARCEL = Parcel("out", 0, [Record("in", b"")] * 2, [b"1", b"2"], [b"a", b"b"])


def test_what_is_under_way_arrives_one_after_the_other_or_never() -> None:
    async def run() -> None:
        memory = Memory()
        sink = MemorySink(memory)
        sink.delay()
        sent = await sink.send([PARCEL])
        assert (sent.done(), memory.records("out")) == (False, [])
        sink.arrive(("out", 0))
        assert (sent.done(), [one.value for one in memory.records("out")]) == (False, [b"1"])
        again = await MemorySink(memory).send([PARCEL])  # another worker does not wait for it
        assert again.done()
        sink.release()
        assert sent.done()
        assert [one.value for one in memory.records("out")] == [b"1", b"1", b"2", b"2"]
        assert not sink.under_way

    asyncio.run(run())


def test_nothing_is_sent_for_an_assignment_that_has_ended() -> None:
    async def run() -> None:
        memory = Memory()
        memory.append(Record("in", b"x"))
        source, sink = MemorySource(memory, ["in"]), MemorySink(memory)
        source.assign()
        (span,) = await source.take(1)
        source.revoke()
        sent = await sink.send([PARCEL], span)
        assert isinstance(sent.exception(), Lapsed)
        assert not memory.records("out")

    asyncio.run(run())
