"""Files as a transport: events in, one per line (NDJSON), outputs out, one file per topic. Bounded, and it resumes where it stopped.

A position is a byte of the input file, where a line begins. What is finished is stored in a checkpoint beside the output,
together with how long each output file was then; a run that resumes cuts the outputs to that length, so that an output is
written once, however often the run was ended, also by a power cut: outputs are on the disk before the checkpoint is.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from penstock.errors import ConfigError, DeliveryFailed, Problem, TransportError
from penstock.parcel import Parcel
from penstock.record import Record
from penstock.transports.base import UNLIMITED, Abilities, Sent
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files.letters import lines as letter_lines
from penstock.transports.files.ndjson import LONGEST
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["FileSink", "FileSource"]

READ = 1 << 20  # bytes that are read at a time
_PACKED: Final = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}  # by the first two bytes


class FileSource:
    """The lines of a file as the records of partition 0 of `topic`: those from number `start` on, at most `limit` of them.

    Empty lines are skipped and have no number. With a checkpoint, lines that an earlier run finished are skipped. Raises
    ConfigError for a file that cannot be read.
    """

    abilities: Final = Abilities(replay=True, bounded=True)

    def __init__(
        self,
        path: Path,
        topic: str,
        *,
        start: int = 0,
        limit: int | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.positions = Tracker()
        self.total = _readable(path)
        self._partition: Partition = (topic, 0)
        self._file: BinaryIO = path.open("rb")
        self._checkpoint = checkpoint or Checkpoint()
        kept = self._checkpoint.start(self._partition)
        begin = self._skip(start) if kept is None else kept
        self._end = self._checkpoint.end(self._partition, self.total)
        self._limit = limit
        self._file.seek(begin)
        self.positions.assign({self._partition: begin})
        self._open = asyncio.Event()
        self._open.set()

    @property
    def done(self) -> int:
        """Returns how many of the `total` bytes have been taken."""
        return self.positions.expected(self._partition) or 0

    def _skip(self, rows: int) -> int:
        """Returns the byte after the first `rows` records."""
        while rows and (line := self._file.readline(LONGEST)):
            rows -= bool(line.strip())
        return self._file.tell()

    def close(self) -> None:
        self._file.close()

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`."""
        await self._open.wait()
        for position in self.positions.rewound().values():
            self._file.seek(position)
        at = self.positions.expected(self._partition) or 0
        records: list[Record] = []
        read, size, end = self._checkpoint.before(self._partition, at), 0, at
        rows = rows if self._limit is None else min(rows, self._limit - read)
        while len(records) < rows and size < READ and end < self._end:  # what is appended during the run is not part of it
            line = self._file.readline(LONGEST + 1)
            if not line:
                break
            if len(line) > LONGEST:
                raise TransportError(f"{self._file.name}: the line at byte {end} has more than {LONGEST:,} bytes: is it NDJSON?")
            value = line.rstrip(b"\r\n")
            if value:
                records.append(Record(self._partition[0], value, None, (), 0, 0, end))
            end += len(line)
            size += len(line)
        if end == at:
            return ()
        self._checkpoint.took(self._partition, at, end, len(records))
        if not records:  # nothing but empty lines
            self.positions.skip(self._partition, at, end)
            return await self.take(rows)
        return [self.positions.take(self._partition, at, end, records, size)]

    def pause(self) -> None:
        """See `Source.pause`."""
        self._open.clear()

    def resume(self) -> None:
        """See `Source.resume`."""
        self._open.set()

    async def store(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source.store`. Outputs reach the disk first."""
        self._checkpoint.save(offsets)
        return True


class FileSink:
    """Each topic's outputs as lines of its file in `folder`: an output's value as it is, a dead letter as an object with its reason.

    A value is one line of JSON, as sinks of the format json write it. Raises ConfigError for a folder that cannot be written, and for
    a file that no longer holds the outputs that the checkpoint requires.
    """

    abilities: Final = Abilities(replay=True)

    def __init__(self, paths: Mapping[str, Path], *, checkpoint: Checkpoint | None = None) -> None:
        self._files: dict[str, BinaryIO] = {}
        if checkpoint is not None:
            checkpoint.sink = self
        for topic, path in paths.items():
            try:
                path.parent.mkdir(exist_ok=True)
                file = path.open("r+b" if checkpoint is not None and topic in checkpoint.outputs and path.exists() else "w+b")
            except OSError as error:
                raise ConfigError(Problem(str(path), 0, 0, f"cannot be written: {error.strerror}", "use another --out")) from error
            length = 0 if checkpoint is None else checkpoint.outputs.get(topic, 0)
            if file.seek(0, os.SEEK_END) < length:  # to cut it to that length would fill it with NUL bytes
                file.close()
                message = f"has lost outputs: the run that is to be resumed had written {length:,} bytes"
                raise ConfigError(Problem(str(path), 0, 0, message, "restore the file, or run without --resume"))
            file.truncate(length)
            file.seek(length)
            self._files[topic] = file

    def limit(self, topic: str) -> int:
        """See `Sink.limit`: the length of a line is not limited."""
        return UNLIMITED

    def fits(self, parcel: Parcel) -> bool:
        """See `Sink.fits`."""
        return True

    def partition_for(self, topic: str, key: bytes | None) -> int:
        """Returns 0: a file has one partition."""
        return 0

    async def send(self, parcels: Sequence[Parcel], under: Span | None = None) -> Sent:
        """See `Sink.send`."""
        sent = Sent(1)
        try:
            for parcel in parcels:
                lines = list(letter_lines(parcel)) if parcel.dead else parcel.values
                self._files[parcel.topic].write(b"".join(b"%b\n" % (line or b"null") for line in lines))
        except OSError as error:
            raise DeliveryFailed(f"{error.filename or 'the output'} cannot be written: {error.strerror}") from error
        sent.settle()
        return sent

    def flush(self) -> dict[str, int]:
        """Writes everything to the disk. Returns the length of each file, by topic."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {topic: file.tell() for topic, file in self._files.items()}

    def close(self) -> None:
        self.flush()
        for file in self._files.values():
            file.close()


def _readable(path: Path) -> int:
    try:
        with path.open("rb") as file:
            if (packed := _PACKED.get(file.read(2))) is not None:
                raise ConfigError(
                    Problem(str(path), 0, 0, f"is compressed ({packed})", "unpack it first: one JSON object per line is read")
                )
            return path.stat().st_size
    except OSError as error:
        raise ConfigError(Problem(str(path), 0, 0, f"cannot be read: {error.strerror}", "give a file of events, one per line")) from error
