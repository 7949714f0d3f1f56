"""Files as a source: each file is a partition, and the number of a row, counted from 0, its offset.

What is read of a file is decided by its format (`formats`); columns become Tables, lines become records. A row that its format
cannot read is `Unreadable`, and fails like any other row. With `sample`, a share of the rows is taken: the same ones in every run.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

import numpy as np

from penstock.batch import Array, Table
from penstock.record import Record, RecordLike, Unreadable
from penstock.transports.base import Abilities, size_of
from penstock.transports.checkpoint import Checkpoint
from penstock.transports.files.base import Piece
from penstock.transports.files.formats import Format
from penstock.transports.files.places import Place
from penstock.transports.tracker import Partition, Span, Tracker

__all__ = ["FileSource", "Input", "Tables", "hive"]

_HIVE: Final = re.compile(r"([^/=]+)=([^/]*)")
_NONE: Final = "__HIVE_DEFAULT_PARTITION__"


class Input(NamedTuple):
    """A file that is read, or the rows from `start` to `stop` of it (None: to its end). `number` is its partition."""

    number: int
    place: Place
    size: int
    start: int = 0
    stop: int | None = None


class Tables(NamedTuple):
    """How record batches become Tables: the names of the columns to read, and the function from a batch and its first row's offset."""

    names: Sequence[str]
    table: Callable[[Any, int, int], Table]


@dataclass(slots=True)
class _Rows:
    """Rows that were read and not taken yet, from `at` on; `skipped` of a sample are part of the positions and of no span."""

    at: int
    end: int
    records: Sequence[RecordLike]


class FileSource:
    """The rows of files, one after the other: those from number `start` on over all of them, at most `limit`.

    With a checkpoint, rows that an earlier run finished are passed over, and count among those before `start`. Raises ConfigError for a
    file that cannot be read.
    """

    abilities: Final = Abilities(replay=True, bounded=True)

    def __init__(
        self,
        inputs: Sequence[Input],
        topic: str,
        format: Format,
        *,
        tables: Tables | None = None,
        start: int = 0,
        limit: int | None = None,
        sample: float | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.positions = Tracker()
        self.total = sum(one.size for one in inputs)
        self._topic, self._format, self._tables = topic, format, tables
        self._checkpoint = checkpoint or Checkpoint()
        self._limit, self._skip, self._sample = limit, max(start - self._checkpoint.passed, 0), sample
        self._inputs = {one.number: one for one in inputs}
        begins = {one.number: max(self._checkpoint.start((topic, one.number)) or 0, one.start) for one in inputs}
        self.positions.assign({(topic, number): at for number, at in begins.items()})
        self._left = deque(one.number for one in inputs)
        self._passed = 0  # bytes of files that were read to their end
        self._share = 0.0  # of the file that is being read
        self._now: int | None = None
        self._pieces: Iterator[_Rows] = iter(())
        self._rest: deque[_Rows] = deque()
        self._ahead: tuple[ThreadPoolExecutor, Future[_Rows | None]] | None = None
        self._open = asyncio.Event()
        self._open.set()

    @property
    def done(self) -> int:
        """Returns how many of the `total` bytes have been read."""
        return self._passed + int(self._share * (0 if self._now is None else self._inputs[self._now].size))

    def close(self) -> None:
        self._stop()

    async def take(self, rows: int) -> Sequence[Span]:
        """See `Source.take`."""
        await self._open.wait()
        for _, number in self.positions.rewound():
            self._again(number)
        while True:
            left = None if self._limit is None else self._limit - self._taken()
            if left is not None and left <= 0:
                return ()
            if not self._rest and not await self._more():
                return ()
            if (span := self._span(rows if left is None else min(rows, left))) is not None:
                return [span]

    def _taken(self) -> int:
        """Returns how many records were taken, by this run and those that it resumes."""
        taken = 0
        for number in self._inputs:
            partition = self._topic, number
            taken += self._checkpoint.before(partition, self.positions.expected(partition) or 0)
        return taken

    def _span(self, rows: int) -> Span | None:
        """Takes at most `rows` rows; None when there were only rows that are in no sample."""
        piece = self._rest[0]
        partition: Partition = (self._topic, self._now or 0)
        records, end = piece.records[:rows], piece.end
        if len(records) < len(piece.records):
            piece.records = piece.records[rows:]
            end = piece.records[0].offset
            start, piece.at = piece.at, end
        else:
            start = self._rest.popleft().at
        self._checkpoint.took(partition, start, end, len(records))
        if not len(records):
            self.positions.skip(partition, start, end)
            return None
        return self.positions.take(partition, start, end, records, records.nbytes if isinstance(records, Table) else size_of(records))

    # -- reading ---------------------------------------------------------------------------------------------------------------------

    async def _more(self) -> bool:
        """Reads on, into the next file if need be. Returns False at the end of the last one."""
        while True:
            if self._now is None:
                if not self._left:
                    return False
                self._begin(self._left.popleft())
            if (found := await self._next()) is not None:
                self._rest.append(found)
                return True
            self._end()

    def _begin(self, number: int) -> None:
        one = self._inputs[number]
        self._now, self._share = number, 0.0
        at = self.positions.expected((self._topic, number)) or 0
        self._pieces = self._read(one, at)
        if one.place.system is not None:  # over a network, the next piece comes while this one is scored
            reader = ThreadPoolExecutor(1, "reader")
            self._ahead = reader, reader.submit(next, self._pieces, None)

    async def _next(self) -> _Rows | None:
        if self._ahead is None:
            return next(self._pieces, None)
        reader, coming = self._ahead
        found = await asyncio.wrap_future(coming)
        if found is not None:
            self._ahead = reader, reader.submit(next, self._pieces, None)
        return found

    def _end(self) -> None:
        assert self._now is not None
        one, partition = self._inputs[self._now], (self._topic, self._now)
        self._stop()
        self._checkpoint.end(partition, self.positions.expected(partition) or 0)
        self._now, self._share = None, 0.0
        self._passed += one.size

    def _stop(self) -> None:
        if self._ahead is not None:
            self._ahead[0].shutdown(cancel_futures=True)
            self._ahead = None
        self._pieces = iter(())

    def _again(self, number: int) -> None:
        """Reads the rest of a file once more, and then what comes behind it."""
        self._stop()
        self._rest.clear()
        if self._now is not None and self._now != number:
            self._left.appendleft(self._now)
        self._now = None
        self._left = deque([number, *(one for one in self._left if one != number)])

    def _read(self, one: Input, at: int) -> Iterator[_Rows]:
        """Yields the rows from number `at` on. Of what `start` skips and no sample takes, only the positions are left."""

        def seen(share: float) -> None:
            self._share = share

        names = () if self._tables is None else self._tables.names
        begun = at
        with closing(self._format.read(one.place, at, one.stop, names, seen)) as pieces:  # type: ignore[type-var]  # a generator
            for piece in pieces:
                yield from self._rows(piece, one.number, begun)
                begun += piece.rows

    def _rows(self, piece: Piece, number: int, at: int) -> Iterator[_Rows]:
        end = at + piece.rows
        if self._skip:
            skipped, self._skip = min(self._skip, piece.rows), max(self._skip - piece.rows, 0)
            at += skipped
            if at == end:
                yield _Rows(end - piece.rows, end, ())
                return
        keep = None if self._sample is None else sampled(number, at, end, self._sample)
        begin = end - piece.rows
        bad = {begin + one.row: one for one in piece.bad}
        if piece.batch is not None and len(piece.batch):
            yield from self._columns(piece, number, begin, at, end, keep, [*bad])
        elif piece.values:
            values = piece.values[at - begin :]
            records = [Record(self._topic, value, None, (), 0, number, at + row) for row, value in enumerate(values)]
            yield _Rows(begin, end, records if keep is None else [records[row] for row in np.flatnonzero(keep).tolist()])
            return
        else:
            yield _Rows(begin, end, [Unreadable(row, row + 1, 0, one.value, one.reason) for row, one in bad.items() if row >= at])

    def _columns(self, piece: Piece, number: int, begin: int, at: int, end: int, keep: Array | None, bad: Sequence[int]) -> Iterator[_Rows]:
        """Yields the rows of a batch between those that its format cannot read."""
        assert self._tables is not None
        wrong = {begin + one.row: one for one in piece.bad}
        offset, done = begin, 0
        for edge in [*sorted(bad), end]:
            if edge > offset:
                table = self._tables.table(piece.batch.slice(done, edge - offset), number, offset)
                done += edge - offset
                first = min(max(at - offset, 0), edge - offset)
                table = table[first:]
                if keep is not None:
                    table = table.take(np.flatnonzero(keep[max(offset - at, 0) : max(edge - at, 0)]))
                yield _Rows(offset, edge, table)
            if edge < end:
                one = wrong[edge]
                taken = edge >= at and (keep is None or bool(keep[edge - at]))
                yield _Rows(edge, edge + 1, [Unreadable(edge, edge + 1, 0, one.value, one.reason)] if taken else [])
            offset = edge + 1

    # -- the port --------------------------------------------------------------------------------------------------------------------

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


def sampled(number: int, start: int, end: int, share: float) -> Array:
    """Returns which of the rows [start, end) of file `number` are in a sample: bool. A row is in every larger sample, too."""
    mixed = np.arange(start, end, dtype=np.uint64) + np.uint64(number << 40)
    with np.errstate(over="ignore"):  # splitmix64, whose results are spread evenly
        mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))) < np.uint64(min(int(share * 2**64), 2**64 - 1))


def hive(path: str) -> dict[str, str | None]:
    """Returns the columns that the folders of a path name, as `year=2013/`."""
    found = _HIVE.findall(path.rpartition("/")[0])
    return {unquote(name): None if value == _NONE else unquote(value) for name, value in found}
