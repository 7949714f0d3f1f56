"""The standard streams as a transport: lines in, lines out, for pipes and for programs that start one process per task (Hadoop Streaming).

Lines are taken as they come, so that a reader that waits for an answer gets it. Nothing can be resumed: a pipe is read once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from penstock.errors import DeliveryFailed, TransportError
from penstock.parcel import Parcel
from penstock.record import Record
from penstock.transports.base import UNLIMITED, Abilities, Sent
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files.letters import lines
from penstock.transports.files.ndjson import LONGEST, MARK, is_blank
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["StandardSink", "StandardSource"]

READ: Final = 1 << 20  # bytes that are read at a time


class StandardSource:
    """The lines that come on a descriptor (0: standard input) as the records of partition 0 of `topic`, numbered from 0.

    Empty lines are skipped and have no number. At most `limit` lines are taken. The checkpoint counts them.
    """

    abilities: Final = Abilities(replay=True, bounded=True)

    def __init__(self, topic: str, *, limit: int | None = None, descriptor: int = 0, checkpoint: Checkpoint | None = None) -> None:
        self.positions = Tracker()
        self.total = 0  # unknown
        self._partition: Partition = (topic, 0)
        self._fd, self._limit = descriptor, limit
        self._checkpoint = checkpoint or Checkpoint()
        self._begun: list[bytes] = []  # pieces of a line whose end has not come
        self._first, self._ended = True, False
        self._ready: deque[bytes] = deque()
        self._kept: deque[Record] = deque()  # what was taken and is not finished: a pipe is not read twice
        self.positions.assign({self._partition: 0})
        self._open = asyncio.Event()
        self._open.set()

    @property
    def done(self) -> int:
        """Returns how many lines have been taken."""
        return self.positions.expected(self._partition) or 0

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`. Waits for lines, not for `rows` of them."""
        await self._open.wait()
        self.positions.rewound()
        at = self.positions.expected(self._partition) or 0
        safe = self.positions.committable().get(self._partition, 0)
        while self._kept and self._kept[0].offset < safe:
            self._kept.popleft()
        again = [record for record in self._kept if record.offset >= at][:rows]
        if not again:
            rows = rows if self._limit is None else min(rows, self._limit - at)
            while rows > 0 and not self._ready and not self._ended:
                await self._read()
            for offset in range(at, at + min(rows, len(self._ready))):
                again.append(Record(self._partition[0], self._ready.popleft(), None, (), 0, 0, offset))
            self._kept += again
        if not again:
            return ()
        self._checkpoint.took(self._partition, at, at + len(again), len(again))
        return [self.positions.take(self._partition, at, at + len(again), again, sum(len(one.value or b"") for one in again))]

    async def _read(self) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):  # a file is always ready, and cannot be waited for
            await self._readable()
        data = os.read(self._fd, READ)
        self._ended = not data
        first, *more = data.split(b"\n")
        self._begun.append(first)
        if more or self._ended:
            whole = [b"".join(self._begun), *more]
            self._begun = [] if self._ended else [whole.pop()]
            if self._first:
                whole[0], self._first = whole[0].removeprefix(MARK), False
            self._ready += [line.rstrip(b"\r") for line in whole if not is_blank(line)]
        elif sum(map(len, self._begun)) > LONGEST:
            raise TransportError(f"standard input: a line has more than {LONGEST:,} bytes: is it NDJSON?")

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        try:
            loop.add_reader(self._fd, lambda: None if ready.done() else ready.set_result(None))
        except PermissionError:  # a device that cannot be waited for (/dev/null) is always ready
            return
        try:
            await ready
        finally:
            loop.remove_reader(self._fd)

    def pause(self) -> None:
        """See `Source.pause`."""
        self._open.clear()

    def resume(self) -> None:
        """See `Source.resume`."""
        self._open.set()

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source.store`. What is finished is counted and written; a pipe has no position to return to."""
        self._checkpoint.save(offsets)
        return True


class StandardSink:
    """Outputs as lines on a descriptor (1: standard output), dead letters as lines of JSON on another (2: standard error)."""

    abilities: Final = Abilities(replay=True)

    def __init__(self, outputs: int = 1, letters: int = 2) -> None:
        self._outputs, self._letters = outputs, letters

    def limit(self, topic: str) -> int:
        """See `Sink.limit`: the length of a line is not limited."""
        return UNLIMITED

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns 0: a stream has one partition."""
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`. Raises BrokenPipeError when the reader has gone (`| head`), as every command does."""
        sent = Sent(1)
        try:
            for parcel in parcels:
                written = list(lines(parcel)) if parcel.dead else parcel.values
                _write(self._letters if parcel.dead else self._outputs, b"".join(b"%b\n" % (line or b"null") for line in written))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise DeliveryFailed(f"standard output cannot be written: {error.strerror}") from error
        sent.settle()
        return sent


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        with contextlib.suppress(InterruptedError):
            view = view[os.write(descriptor, view) :]
