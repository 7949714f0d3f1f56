"""The local snapshot: the state of a partition in a file, so that a restart on the same host reads only the rest of the changelog.

1. A file has a line that says what it is, then the arrays as they lie in memory, and a checksum of each. It is written whole or not at all.
2. It is named by state and partition, and holds the changelog's offset from which to go on.
3. One that is older than OLDEST is refused. A key that was removed since has a tombstone in the changelog, and after a while (Kafka's
   delete.retention.ms, a day) compaction removes that, too: the key would come back.
4. It is never needed: what is damaged, of another version or of another state is refused with a reason, and the changelog is read instead.

Why not a database of keys: docs/decisions/0042-keyed-windows.md
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from penstock.batch import Array
from penstock.host import writing_whole
from penstock.state.base import Keyed

__all__ = ["OLDEST", "Refused", "load", "path", "save"]

OLDEST: Final = 12 * 3600.0  # seconds
_MAGIC: Final = b"penstock state 1\n"
_LONGEST: Final = 1 << 20  # bytes of the line
_DTYPES: Final = frozenset({"|u1", "|b1", "<i4", "<i8", "<f8"})
_PART: Final = 1 << 24  # bytes that are read and checked together: they are in the cache then


class Refused(msgspec.Struct, frozen=True):
    """Why a snapshot is not used."""

    reason: str


class _Column(msgspec.Struct, frozen=True):
    name: str
    dtype: str
    shape: tuple[int, ...]


class _Line(msgspec.Struct, frozen=True):
    state: str
    partition: int
    position: int
    columns: tuple[_Column, ...]


def path(folder: Path, state: str, partition: int) -> Path:
    """Returns the file of the snapshot of a partition."""
    return folder / f"{state}-{partition}.state"


def save(folder: Path, state: Keyed, partition: int, position: int) -> Path:
    """Writes the snapshot of a partition, whose changelog goes on at the offset `position`, and returns its file.

    Raises OSError, and ValueError when a checkpoint is due: what it would return must be in the changelog before `position`.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in state.columns().items()}
    columns = tuple(_Column(name, array.dtype.str, array.shape) for name, array in arrays.items())
    line = msgspec.json.encode(_Line(state.name, partition, position, columns)) + b"\n"
    file = path(folder, state.name, partition)
    with writing_whole(file) as opened:
        opened.write(_MAGIC + line + _checksum(zlib.crc32(line)))
        for array in arrays.values():
            found = 0
            for part in _parts(array):
                found = zlib.crc32(part, found)
                opened.write(part)
            opened.write(_checksum(found))
    return file


def load(folder: Path, state: Keyed, partition: int) -> int | Refused:
    """Fills the state from its snapshot, and returns the offset at which its changelog goes on.

    When it is missing or cannot be used, the state is as it was, and the reason is returned.
    """
    file = path(folder, state.name, partition)
    try:
        with file.open("rb") as opened:
            about = os.fstat(opened.fileno())
            if (age := time.time() - about.st_mtime) > OLDEST:
                return Refused(f"{file} is {age / 3600:.0f} hours old: keys that were removed since might come back")
            line, arrays = _read(opened, about.st_size)
        if (line.state, line.partition) != (state.name, partition):
            return Refused(f"{file} is of partition {line.partition} of the state {line.state}")
        state.load(arrays)
    except OSError as error:
        return Refused(f"{file} cannot be read: {error.strerror or error}")
    except ValueError as error:
        return Refused(f"{file} is not used: {error}")
    return line.position


def _read(opened: BufferedReader, size: int) -> tuple[_Line, Mapping[str, Array]]:
    if opened.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("another version wrote it")
    head = opened.readline(_LONGEST)
    if opened.read(4) != _checksum(zlib.crc32(head)):
        raise ValueError("it is damaged: its first line has another checksum")
    line = msgspec.json.decode(head, type=_Line)
    if any(one.dtype not in _DTYPES or min(one.shape, default=0) < 0 for one in line.columns):
        raise ValueError("it has columns that no state has")
    sizes = [int(np.dtype(one.dtype).itemsize * np.prod(one.shape, dtype=object)) for one in line.columns]
    if opened.tell() + sum(sizes) + 4 * len(sizes) != size:
        raise ValueError("it is damaged: it is not as long as its first line says")
    arrays = {}
    for one in line.columns:
        arrays[one.name] = array = np.empty(one.shape, one.dtype)
        found = 0
        for part in _parts(array):
            if opened.readinto(part) != len(part):
                raise ValueError("it is damaged: it ends early")
            found = zlib.crc32(part, found)
        if opened.read(4) != _checksum(found):
            raise ValueError(f"it is damaged: {one.name} has another checksum")
    return line, arrays


def _parts(array: Array) -> Iterator[memoryview]:
    data = memoryview(array.reshape(-1).view(np.uint8).data)
    return (data[at : at + _PART] for at in range(0, len(data), _PART))


def _checksum(number: int) -> bytes:
    return number.to_bytes(4, "little")
