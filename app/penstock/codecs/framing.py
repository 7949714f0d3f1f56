"""The frame of an Avro value, wherever its serializer has put it: before the datum, or in a header of the record.

| serializer | where | what |
|---|---|---|
| Confluent, the default | before the datum | 0, then the id in 4 bytes |
| Confluent, with the header serializer | header `__value_schema_id`, first one | 1, then the GUID in 16 bytes |
| Apicurio 3, the default; 2 with `as-confluent` and `use-id` | before the datum | 0, then the content id in 4 bytes |
| Apicurio, with headers | header `apicurio.value.contentId` | the content id in 8 bytes |

Content ids are the ids of Apicurio's API for Confluent's clients.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

from penstock.errors import DecodeError
from penstock.record import Header

__all__ = ["FRAME", "GUID_FRAME", "LARGEST", "UNREGISTERED", "frame_in", "frame_of", "frame_of_name", "framed", "shown", "stem_of"]

FRAME: Final = 5
GUID_FRAME: Final = 17
LARGEST: Final = 2**32 - 1
UNREGISTERED: Final = b"\0\xff\xff\xff\xff"  # where no id is known and none is needed: in tests. No registry gives this id

_CONFLUENT: Final = "__value_schema_id"
_APICURIO: Final = "apicurio.value.contentId"


def frame_of(id: int | uuid.UUID) -> bytes:
    """Returns the bytes that come before a datum of the schema with this id, or GUID."""
    return b"\1" + id.bytes if isinstance(id, uuid.UUID) else b"\0" + id.to_bytes(4, "big")


def frame_in(value: bytes) -> bytes:
    """Returns the frame that the value begins with. Raises DecodeError when it begins with none."""
    size = GUID_FRAME if value[:1] == b"\1" else FRAME
    if len(value) < size or value[0] > 1:
        raise DecodeError("no Confluent frame: expected a zero byte and a schema id of four bytes")
    return value[:size]


def framed(value: bytes | None, headers: Sequence[Header]) -> bytes | None:
    """Returns the value of a record with its frame before it, where a header has the frame."""
    for name, found in headers:
        if name == _CONFLUENT and found is not None and value is not None:
            return found + value if len(found) == (GUID_FRAME if found[:1] == b"\1" else FRAME) else value
        if name == _APICURIO and found is not None and value is not None:
            return b"\0" + found[4:] + value if len(found) == 8 and not any(found[:4]) else value
    return value


def frame_of_name(stem: str) -> bytes | None:
    """Returns the frame of a file of `ids/`, named by an id or a GUID; None for another name."""
    if stem.isascii() and stem.isdecimal():
        return frame_of(int(stem)) if int(stem) <= LARGEST else None
    try:
        return frame_of(uuid.UUID(stem))
    except ValueError:
        return None


def stem_of(frame: bytes) -> str:
    """Returns the name of the schema's file, without its ending: the id, or the GUID."""
    return str(int.from_bytes(frame[1:], "big")) if len(frame) == FRAME else str(uuid.UUID(bytes=frame[1:]))


def shown(frame: bytes) -> str:
    """Returns the frame in words."""
    return f"schema {'id' if len(frame) == FRAME else 'GUID'} {stem_of(frame)}"
