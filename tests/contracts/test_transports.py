"""Every transport keeps the contract, and what does not keep it is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from penstock.record import Record
from penstock.testing.check_transport import INPUT, OUTPUT, check_transport
from penstock.transports.base import Sink, Source
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files import FORMATS, FileSink, FileSource, Input, Output, Shape, place
from penstock.transports.files.manifest import Manifest
from penstock.transports.memory import Memory, MemorySink, MemorySource
from penstock.transports.tracker import Partition, Span


class InMemory:
    """Topics in a dict."""

    partitions = 2
    output = OUTPUT

    def __init__(self) -> None:
        self.memory = Memory(self.partitions)

    async def fill(self, partition: int, values: Sequence[bytes]) -> None:
        for value in values:
            self.memory.append(Record(INPUT, value, partition=partition))

    async def open_source(self) -> Source:
        source = MemorySource(self.memory, [INPUT])
        source.assign()
        return source

    async def close_source(self, source: Source) -> None:
        source.positions.revoke()

    async def open_sink(self) -> Sink:
        return MemorySink(self.memory)

    async def close_sink(self, sink: Sink) -> None:
        """Nothing to close."""

    async def read(self, partition: int) -> list[bytes | None]:
        return [record.value for record in self.memory.read((OUTPUT, partition), 0)]


class InFiles:
    """A file of lines in, parts of lines out; positions in a manifest."""

    partitions = 1
    output = OUTPUT

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.input = folder / "in.ndjson"
        self.input.write_bytes(b"\n")  # an empty line is no record
        self.manifest = Manifest({}, [(str(self.input), 0)])

    def checkpoint(self) -> Checkpoint:
        for unit in self.manifest.units:
            unit.end = None  # the file has grown
        return Checkpoint(self.manifest.units, self.manifest.keep)

    async def fill(self, partition: int, values: Sequence[bytes]) -> None:
        with self.input.open("ab") as file:
            file.writelines(b"%b\r\n" % value for value in values)

    async def open_source(self) -> Source:
        one = Input(0, place(str(self.input)), self.input.stat().st_size)
        return FileSource([one], INPUT, FORMATS["ndjson"], checkpoint=self.checkpoint())

    async def close_source(self, source: Source) -> None:
        assert isinstance(source, FileSource)
        source.close()

    async def open_sink(self) -> Sink:
        if not hasattr(self, "_sink"):
            self._sink = FileSink({OUTPUT: Output(place(str(self.folder / "out")), FORMATS["ndjson"], ".ndjson", Shape(()))})
            self._kept = Checkpoint()
            self._kept.sink = self._sink
        return self._sink

    async def close_sink(self, sink: Sink) -> None:
        self._kept.commit()

    async def read(self, partition: int) -> list[bytes | None]:
        return [line for part in sorted((self.folder / "out").iterdir()) for line in part.read_bytes().splitlines()]


def test_memory_keeps_the_contract() -> None:
    asyncio.run(check_transport(InMemory()))


def test_files_keep_the_contract(tmp_path: Path) -> None:
    rig = InFiles(tmp_path)
    try:
        asyncio.run(check_transport(rig))
    finally:
        rig._sink.close()


class _Forgets(MemorySource):
    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        return True


class _Repeats(MemorySource):
    async def take(self, rows: int) -> Sequence[Span]:
        spans = await super().take(rows)
        return [*spans, *spans[:1]]


class _Rushes(MemorySource):
    def pause(self) -> None:
        """Goes on all the same."""


class _LosesWhatIsAbandoned(MemorySource):
    async def take(self, rows: int) -> Sequence[Span]:
        for partition, start in self.positions.rewound().items():
            self.positions.skip(partition, start, self._memory.end(partition))
        return await super().take(rows)


@pytest.mark.parametrize("broken", [_Forgets, _Repeats, _Rushes, _LosesWhatIsAbandoned])
def test_broken_source_is_found_out(broken: type[MemorySource]) -> None:
    """Otherwise the tests above could not fail."""

    class Rig(InMemory):
        async def open_source(self) -> Source:
            source = broken(self.memory, [INPUT])
            source.assign()
            return source

    with pytest.raises(AssertionError):
        asyncio.run(check_transport(Rig()))


class _Swaps(MemorySink):
    async def send(self, parcels: Sequence[object], under: Span | None = None) -> object:  # type: ignore[override]  # broken on purpose
        return await super().send([*reversed([half for parcel in parcels for half in parcel.halves()])], under)  # type: ignore[attr-defined]


def test_sink_that_reorders_is_found_out() -> None:
    class Rig(InMemory):
        async def open_sink(self) -> Sink:
            return _Swaps(self.memory)  # type: ignore[return-value]  # as above

    with pytest.raises(AssertionError, match="keep their order"):
        asyncio.run(check_transport(Rig()))
