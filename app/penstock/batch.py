"""Batch: rows as named columns, the number of each row in the input, its origin, and the Failure of each row that failed.

A failed row is data. It leaves the columns at once, so that no later step sees it, and stays in
`failures` until the pipeline writes its dead letter. The other rows are not affected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, repeat
from operator import attrgetter
from typing import Any, ClassVar, overload

import msgspec
import numpy as np
import numpy.typing as npt

from penstock.errors import RecordError
from penstock.record import Header, RecordLike

__all__ = ["Array", "Batch", "Failure", "Origin", "Table"]

Array = npt.NDArray[Any]

_KEY, _TIMESTAMP, _OFFSET = attrgetter("key"), attrgetter("timestamp"), attrgetter("offset")


class Failure(msgspec.Struct, frozen=True):
    """Row `row` of the incoming records cannot go on, because of `error`."""

    row: int
    error: RecordError


class Origin:
    """Where the rows of a chunk came from: runs of `records`, each of one partition. Its columns are made when they are first read.

    `places` gives for each run its topic, its partition and how many records it has, in the order of the records. `events` are the places
    at which the records of a later stage have entered the topology, TOPIC/PARTITION/OFFSET each; None in the first stage.
    """

    def __init__(
        self, records: Sequence[RecordLike], places: Sequence[tuple[str, int, int]], events: Sequence[bytes] | None = None
    ) -> None:
        self.records = records
        self.places = places
        self.events = events

    @cached_property
    def keys(self) -> Array:
        """The key of each record, bytes or None: object [N]."""
        return np.fromiter(map(_KEY, self.records), object, len(self.records))

    @cached_property
    def timestamps(self) -> Array:
        """The timestamp of each record, ms since the epoch, UTC: int64 [N]."""
        return np.fromiter(map(_TIMESTAMP, self.records), np.int64, len(self.records))

    @cached_property
    def offsets(self) -> Array:
        """The offset of each record in its partition: int64 [N]."""
        return np.fromiter(map(_OFFSET, self.records), np.int64, len(self.records))

    @cached_property
    def partitions(self) -> Array:
        """The partition of each record: int32 [N]."""
        runs = (repeat(partition, count) for _, partition, count in self.places)
        return np.fromiter(chain.from_iterable(runs), np.int32, len(self.records))

    @cached_property
    def positions(self) -> list[str]:
        """The position of each record, TOPIC:PARTITION:OFFSET."""
        runs = (repeat(f"{topic}:{partition}:", count) for topic, partition, count in self.places)
        return [f"{place}{record.offset}" for place, record in zip(chain.from_iterable(runs), self.records, strict=True)]


class Batch(msgspec.Struct, frozen=True):
    """`size` live rows as named columns, each an array whose first axis is the rows.

    `rows` gives the incoming row number of each live row, ascending; None means that no row has failed and
    row i came in as row i. `failures` holds the others; a row in neither was skipped, as its source says. `origin` is None
    for columns that did not come from records.
    """

    size: int
    columns: Mapping[str, Array] = {}
    rows: Array | None = None
    failures: tuple[Failure, ...] = ()
    origin: Origin | None = None

    def with_columns(self, columns: Mapping[str, Array]) -> Batch:
        """Returns the same rows with more columns."""
        return Batch(self.size, {**self.columns, **columns}, self.rows, self.failures, self.origin)

    def with_origin(self, origin: Origin) -> Batch:
        """Returns the same rows with their origin."""
        return Batch(self.size, self.columns, self.rows, self.failures, origin)

    def take(self, keep: Array) -> Batch:
        """Returns only the live rows at the positions `keep` (ascending integers), with all failures."""
        rows = np.arange(self.size) if self.rows is None else self.rows
        columns = {name: column[keep] for name, column in self.columns.items()}
        return Batch(len(keep), columns, rows[keep], self.failures, self.origin)

    def fail(self, errors: Mapping[int, RecordError]) -> Batch:
        """Returns the batch without the live rows at the positions in `errors`; each becomes a Failure."""
        if not errors:
            return self
        numbers: Iterable[int] = range(self.size) if self.rows is None else self.rows.tolist()
        number = list(numbers)
        keep = np.array([i for i in range(self.size) if i not in errors], dtype=np.intp)
        failed = tuple(Failure(number[i], errors[i]) for i in sorted(errors))
        left = self.take(keep)
        return Batch(left.size, left.columns, left.rows, self.failures + failed, self.origin)

    def placed(self, rows: Sequence[int], errors: Mapping[int, RecordError]) -> Batch:
        """Returns this batch of some incoming rows as one of all of them: its rows are `rows` there, those in `errors` failed earlier.

        Rows that are in neither are skipped.
        """
        number = np.array(rows, np.int64)
        failures = [Failure(rows[one.row], one.error) for one in self.failures] + [Failure(row, error) for row, error in errors.items()]
        live = number if self.rows is None else number[self.rows]
        return Batch(self.size, self.columns, live, tuple(sorted(failures, key=lambda one: one.row)), self.origin)

    # -- the origin of the live rows: made when it is first read, and free until then ----------------------------

    @property
    def keys(self) -> Array:
        """The records' keys, bytes or None: object [size]. Raises ValueError when the batch has no origin; so do those below."""
        return self._of(self._from.keys)

    @property
    def timestamps(self) -> Array:
        """The records' timestamps, ms since the epoch, UTC: int64 [size]."""
        return self._of(self._from.timestamps)

    @property
    def partitions(self) -> Array:
        """The partitions of the records' topics: int32 [size]."""
        return self._of(self._from.partitions)

    @property
    def offsets(self) -> Array:
        """The records' offsets: int64 [size]."""
        return self._of(self._from.offsets)

    @property
    def events(self) -> list[bytes] | None:
        """Where the rows of a later stage have entered the topology, TOPIC/PARTITION/OFFSET each; None in the first stage."""
        found = self._from.events
        return None if found is None else [*found] if self.rows is None else [found[row] for row in self.rows.tolist()]

    @property
    def _from(self) -> Origin:
        if self.origin is None:
            raise ValueError("this batch has no origin: its columns did not come from records")
        return self.origin

    def _of(self, column: Array) -> Array:
        return column if self.rows is None else column[self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class Table(Sequence[RecordLike]):
    """Rows that are columns already, by field name: a columnar file or an Arrow table yields them instead of encoded records.

    `columns` hold `[N, ...]`; `nulls` marks the rows of a field that are null (bool `[N]`), and a field without nulls is not
    in it. As a sequence it yields one record per row. The record's value is the row as JSON, made only when it is
    read: for example when the row becomes a dead letter. A slice is a Table over the same memory.

    `numbers` are the rows' offsets (int64 `[N]`) where they do not follow each other from `offset` on. `problems` has, by row, why a
    value of it could not become one of its column: such a row fails. `texts` are the columns that certainly hold text in every row that is
    not in `nulls`.
    """

    topic: str
    columns: Mapping[str, Array]
    nulls: Mapping[str, Array] = field(default_factory=dict)
    partition: int = 0
    offset: int = 0
    timestamps: Array | None = None
    numbers: Array | None = None
    problems: Mapping[int, str] = field(default_factory=dict)
    texts: Collection[str] = ()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, at: int) -> RecordLike: ...
    @overload
    def __getitem__(self, at: slice) -> Table: ...
    def __getitem__(self, at: int | slice) -> RecordLike | Table:
        if isinstance(at, slice):
            begin, end, step = at.indices(len(self))
            if step != 1:
                raise ValueError("a table is cut into runs of rows")
            columns = {name: column[at] for name, column in self.columns.items()}
            nulls = {name: mask[at] for name, mask in self.nulls.items()}
            stamps = None if self.timestamps is None else self.timestamps[at]
            numbers = None if self.numbers is None else self.numbers[at]
            problems = {row - begin: why for row, why in self.problems.items() if begin <= row < end} if self.problems else {}
            return Table(self.topic, columns, nulls, self.partition, self.offset + begin, stamps, numbers, problems, self.texts)
        return _Row(self, range(len(self))[at])

    def take(self, keep: Array) -> Table:
        """Returns the rows at the positions `keep` (ascending integers)."""
        at = {row: new for new, row in enumerate(keep.tolist())} if self.problems else {}
        return Table(
            self.topic,
            {name: column[keep] for name, column in self.columns.items()},
            {name: mask[keep] for name, mask in self.nulls.items()},
            self.partition,
            self.offset,
            None if self.timestamps is None else self.timestamps[keep],
            self.offset + keep if self.numbers is None else self.numbers[keep],
            {at[row]: why for row, why in self.problems.items() if row in at},
            self.texts,
        )

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the columns; for text, those of its references."""
        return sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """A row of a table as a record. The pipeline reads the timestamp and headers of every row, and the value of few."""

    _table: Table
    _at: int
    key: ClassVar[None] = None
    headers: ClassVar[tuple[Header, ...]] = ()

    @property
    def offset(self) -> int:
        table = self._table
        return table.offset + self._at if table.numbers is None else int(table.numbers[self._at])

    @property
    def timestamp(self) -> int:
        stamps = self._table.timestamps
        return 0 if stamps is None else int(stamps[self._at])

    @property
    def value(self) -> bytes:
        columns, nulls = self._table.columns, self._table.nulls
        event = {
            name: None if name in nulls and nulls[name][self._at] else _plain(column[self._at]) for name, column in columns.items() if name
        }
        return msgspec.json.encode(event, enc_hook=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
