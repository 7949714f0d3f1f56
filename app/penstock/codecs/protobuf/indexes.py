"""What Confluent's frame has after the id: which message of the schema's file it is.

The place of the message in the file, then inside that message, and so on, as zigzag varints after their number; a single 0 is the first
message of the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from penstock.codecs.protobuf.files import Message, messages_in
from penstock.errors import DecodeError

__all__ = ["indexes_in", "indexes_of", "name_at", "own_indexes"]

_DEEPEST: Final = 32
_LARGEST: Final = 2**31 - 1
_FIRST: Final = (0,)


def indexes_in(value: bytes, at: int) -> tuple[tuple[int, ...], int]:
    """Returns the indexes that begin there, and where the message begins. Raises DecodeError."""
    count, at = _varint(value, at)
    if not count:
        return _FIRST, at
    if not 0 < count <= _DEEPEST:
        raise DecodeError(f"no Confluent frame of Protobuf: {count} message indexes")
    found = []
    for _ in range(count):
        index, at = _varint(value, at)
        found.append(index)
    return tuple(found), at


def indexes_of(indexes: Sequence[int]) -> bytes:
    """Returns the indexes as they are written."""
    if tuple(indexes) == _FIRST:
        return b"\0"
    return b"".join(_written(number) for number in (len(indexes), *indexes))


def name_at(message: Message, indexes: Sequence[int]) -> str:
    """Returns the full name of the message at this place of the schema's file, "" where the file has no such message."""
    return _names(message.files).get(tuple(indexes), "")


def own_indexes(message: Message) -> tuple[int, ...]:
    """Returns the place of the message in its file."""
    return next(at for at, name in _names(message.files).items() if name == message.name)


@lru_cache(maxsize=256)
def _names(files: bytes) -> Mapping[tuple[int, ...], str]:
    return dict(messages_in(FileDescriptorSet.FromString(files).file[-1]))


def _varint(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(value) and shift < 35:
        number |= (value[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if value[at - 1] < 128:
            if (found := number >> 1 ^ -(number & 1)) > _LARGEST:
                break
            return found, at
    raise DecodeError("no Confluent frame of Protobuf: no message indexes after the id")


def _written(number: int) -> bytes:
    rest, made = number << 1, bytearray()
    while rest > 127:
        made.append(rest & 127 | 128)
        rest >>= 7
    made.append(rest)
    return bytes(made)
