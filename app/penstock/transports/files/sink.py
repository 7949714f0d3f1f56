"""Files as a sink: each topic's outputs in parts, which appear when they are complete.

A part holds the outputs of consecutive rows of the input, and is named by the first of them: `part-FILE-ROW.parquet`. It ends after
`rows` rows, BYTES bytes or SECONDS seconds, when the checkpoint is kept with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final, NamedTuple

from penstock.errors import DeliveryFailed
from penstock.parcel import Parcel
from penstock.transports.base import UNLIMITED, Abilities, Sent
from penstock.transports.checkpoint import Checkpoint, Part
from penstock.transports.files.base import Shape, Writer
from penstock.transports.files.formats import Format
from penstock.transports.files.letters import lines
from penstock.transports.files.ndjson import packing
from penstock.transports.files.places import Begun, Place, without_password
from penstock.transports.tracker import Span

__all__ = ["FileSink", "Output"]

BYTES: Final = 256 << 20
SECONDS: Final = 60.0


class Output(NamedTuple):
    """Where and how a topic is written: the folder of its parts, their format and ending, and what the outputs are."""

    folder: Place
    format: Format
    ending: str
    shape: Shape
    dead: bool = False


class _Open:
    """A part that is being written."""

    def __init__(self, output: Output, name: str) -> None:
        self.name, self.rows = name, 0
        self._begun = Begun(output.folder / name)
        self._packed: ExitStack[bool | None] = ExitStack()
        packed: AbstractContextManager[object] = packing(self._begun.file, output.ending)
        self.writer: Writer = output.format.module.Writer(self._packed.enter_context(packed), output.shape)

    def keep(self) -> None:
        self.writer.close()
        self._packed.close()
        self._begun.keep()

    def drop(self) -> None:
        self._begun.drop()


class FileSink:
    """Writes each topic as its `Output` says. `place(partition, offset)` names the input of a dead letter: its file and row.

    A checkpoint asks whether a part is `due`, and ends it by `commit`.
    """

    abilities: Final = Abilities(replay=True)

    def __init__(
        self,
        outputs: Mapping[str, Output],
        *,
        checkpoint: Checkpoint | None = None,
        rows: int = 1_000_000,
        place: Callable[[int, int], dict[str, object]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outputs, self._place, self._clock = outputs, place, clock
        self._rows = rows
        self._open: dict[str, _Open] = {}
        self._since = clock()
        if checkpoint is not None:
            checkpoint.sink = self

    def limit(self, topic: str) -> int:
        """See `Sink.limit`: nothing limits the size of an output."""
        return UNLIMITED

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns 0: the key of an output is not written."""
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`."""
        sent = Sent(1)
        for parcel in parcels:
            part = self._part(parcel, under)
            try:
                part.writer.write(list(lines(parcel, self._place)) if parcel.dead else parcel.values)
            except (OSError, ValueError) as error:
                raise DeliveryFailed(f"{self._outputs[parcel.topic].folder} cannot be written: {without_password(str(error))}") from error
            part.rows += len(parcel)
        sent.settle()
        return sent

    def _part(self, parcel: Parcel, under: Span | None) -> _Open:
        part = self._open.get(parcel.topic)
        if part is None:
            output = self._outputs[parcel.topic]
            file, row = (under.partition[1], under.start) if under is not None else (parcel.partition, parcel.inputs[0].offset)
            part = self._open[parcel.topic] = _Open(output, f"part-{file:05d}-{row:012d}{output.ending}")
        return part

    def due(self) -> bool:
        """Whether a part is to end: it is large, or old."""
        parts = self._open.values()
        size, rows = sum(one.writer.size for one in parts), max((one.rows for one in parts), default=0)
        return rows >= self._rows or size >= BYTES or self._clock() - self._since >= SECONDS

    def commit(self) -> list[Part]:
        """Ends the parts, and returns them. They are complete, and on the disk."""
        done = []
        for topic, part in self._open.items():
            output = self._outputs[topic]
            part.keep()
            done.append(Part(topic, f"{output.folder.last}/{part.name}", part.rows, part.writer.size, output.dead))
        self._open.clear()
        self._since = self._clock()
        return done

    def close(self) -> None:
        """Drops what is not part of a checkpoint."""
        for part in self._open.values():
            part.drop()
        self._open.clear()
