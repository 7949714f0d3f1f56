"""Lines of JSON, one event each, also packed with gzip or zstd."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final, cast

from penstock.errors import ConfigError, Problem
from penstock.transports.files.base import Piece, Seen, Shape, readable
from penstock.transports.files.places import Place, arrow

__all__ = ["LONGEST", "MARK", "Writer", "is_blank", "packing", "read", "unpacked"]

LONGEST: Final = 104_857_600  # bytes of a line: what `max_bytes` of a source allows at the most
READ: Final = 1 << 20  # bytes that are read at a time
MARK: Final = b"\xef\xbb\xbf"  # what some tools put before the first line, to say that it is UTF-8
_OTHERS: Final = {b"BZ": "bzip2", b"\xfd7": "xz", b"PK": "zip"}  # by the first two bytes; no line of JSON begins with any


def read(place: Place, start: int, stop: int | None, names: Sequence[str], seen: Seen) -> Iterator[Piece]:
    """See `base`. Empty lines are skipped and have no number."""
    with readable(place, "lines of JSON"), place.open() as file, unpacked(file, place) as data:
        size, at = max(place.size() or 0, 1), 0
        for values in _lines(data, place):
            seen(min(file.tell() / size, 1.0))
            if at + len(values) > start:
                values = values[max(start - at, 0) : None if stop is None else max(stop - at, 0)]
                at = max(at, start) + len(values)
                if values:
                    yield Piece(len(values), values)
                if stop is not None and at >= stop:
                    return
            else:
                at += len(values)


def _lines(file: IO[bytes], place: Place) -> Iterator[list[bytes]]:
    """Yields the lines that are not empty, a list for each piece of the file that holds the end of a line."""
    begun: list[bytes] = []  # pieces of a line whose end has not come
    start = True
    while data := file.read(READ):
        if start:
            data = data.removeprefix(MARK)
            if _is_one_document(data):
                fix = "write one object per line: jq -c '.[]' for an array, jq -c . for objects"
                raise ConfigError(Problem(str(place), 0, 0, "is JSON, but not one object per line", fix))
        first, *more = data.split(b"\n")
        begun.append(first)
        start = False
        if more:
            more[:0] = [b"".join(begun)]
            begun = [more.pop()]
            yield [line.rstrip(b"\r") for line in more if not is_blank(line)]
        elif sum(map(len, begun)) > LONGEST:
            raise ConfigError(Problem(str(place), 0, 0, f"a line has more than {LONGEST:,} bytes", "give lines of JSON, one event each"))
    if not is_blank(line := b"".join(begun)):
        yield [line.rstrip(b"\r")]


def is_blank(line: bytes) -> bool:
    """Whether there is nothing in a line but space."""
    return not line or line.isspace()


def _is_one_document(head: bytes) -> bool:
    """Whether a file begins as an array, or as an object over several lines: every line of it would be a dead letter."""
    first, _, rest = head.lstrip().partition(b"\n")
    if first[:1] == b"[":
        return first.strip() in (b"[", b"[{") or not rest.strip()
    return first.strip() == b"{" and rest.lstrip()[:1] == b'"'


@contextmanager
def unpacked(file: IO[bytes], place: Place) -> Iterator[IO[bytes]]:
    """Yields the content of a file that may be packed, whatever its name is."""
    head = file.read(4)
    file.seek(0)
    if (other := _OTHERS.get(head[:2])) is not None:
        raise ConfigError(Problem(str(place), 0, 0, f"is compressed ({other})", "unpack it first, or pack it with gzip or zstd"))
    if head[:2] == b"\x1f\x8b":
        with gzip.open(cast(Any, file)) as opened:
            yield cast(IO[bytes], opened)
    elif head == b"\x28\xb5\x2f\xfd":
        yield cast(IO[bytes], arrow().CompressedInputStream(file, "zstd"))
    else:
        yield file


@contextmanager
def packing(file: IO[bytes], ending: str) -> Iterator[IO[bytes]]:
    """Yields a file whose content is packed into `file` as the ending says."""
    if ending.lower().endswith(".gz"):
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed:  # without a time: equal outputs are equal files
            yield cast(IO[bytes], packed)
    elif ending.lower().endswith(".zst"):
        out = arrow().CompressedOutputStream(arrow().PythonFile(_Open(file), "w"), "zstd")
        try:
            yield cast(IO[bytes], out)
        finally:
            out.close()
    else:
        yield file


class _Open(io.RawIOBase):
    """A file that stays open when a stream upon it is closed."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)


class Writer:
    """Writes values as lines."""

    def __init__(self, file: IO[bytes], shape: Shape) -> None:
        self._file = file
        self.size = 0

    def write(self, values: Sequence[bytes | None]) -> None:
        """See `base.Writer`. No value is the line `null`."""
        data = b"\n".join([*[b"null" if value is None else value for value in values], b""])
        self._file.write(data)
        self.size += len(data)

    def close(self) -> None:
        """See `base.Writer`."""
