"""What a format of files provides: pieces of the rows of a file, and a writer of rows. A new format is a file and a row in `formats`.

A module of a format has

- `read(place, start, stop, names, seen)`, which yields the rows from number `start` to `stop` (None: to the end) as `Piece`s, and calls
  `seen` with the share of the file that has been read; `names` are the columns that are wanted,
- `Writer`, made with an open file and a `Shape`,
- where its rows are in groups that can be read alone: `groups(place)`, the number of rows of each,
- where its columns have types: `columns(place)`, their Arrow schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from penstock.errors import ConfigError, PenstockError, Problem
from penstock.schema import Field
from penstock.signature import Tensor
from penstock.transports.files.places import Place, without_password

__all__ = ["Bad", "Piece", "Read", "Seen", "Shape", "Writer", "chosen", "readable"]

Seen = Callable[[float], None]


class Bad(NamedTuple):
    """A row that its format cannot read: its place in the piece, its bytes, and why."""

    row: int
    value: bytes
    reason: str


class Piece(NamedTuple):
    """Rows that follow each other: encoded ones in `values`, or columns in `batch`, an Arrow record batch. `rows` counts `bad` ones too."""

    rows: int
    values: Sequence[bytes] = ()
    batch: Any = None
    bad: Sequence[Bad] = ()


class Read(Protocol):
    """See the module."""

    def __call__(self, place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]: ...


@dataclass(frozen=True, slots=True)
class Shape:
    """What the outputs of a file are: their fields, how the sink's schema declares them, if there is one, and as a schema of Avro."""

    fields: tuple[Tensor, ...]
    declared: Mapping[str, Field | None] = field(default_factory=dict)
    avro: Any = None


class Writer(Protocol):
    """Writes outputs to an open file, which it leaves open. `size` is about how many bytes have been written."""

    size: int

    def write(self, values: Sequence[bytes | None]) -> None:
        """Writes rows: encoded ones, or `Columns` where the format holds columns."""

    def close(self) -> None:
        """Writes what is left, and the end."""


def chosen(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Returns which of the columns `given` are wanted. Raises ValueError for one that is there twice."""
    found = [name for name in given if name in names]
    if (twice := next((name for name in found if found.count(name) > 1), None)) is not None:
        raise ValueError(f"it has {found.count(twice)} columns {twice!r}")
    return found


@contextmanager
def readable(place: Place, format: str) -> Iterator[None]:
    """Makes what a library raises for a broken file an error that names it."""
    try:
        yield
    except PenstockError:
        raise
    except Exception as error:  # a broken file makes libraries raise anything
        what = without_password(" ".join(str(error).split()))[:300] or type(error).__name__
        raise ConfigError(
            Problem(str(place), 0, 0, f"cannot be read as {format}: {what}", "repair the file, or leave it out of --in")
        ) from error
