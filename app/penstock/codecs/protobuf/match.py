"""Whether a message that one schema wrote can be read by another one.

Protobuf goes by the numbers of fields. What it takes for an unknown field, since its type has changed on the wire, would silently be
the default; here it is a reason for a dead letter. Fields that the writer lacks are not set; names may differ.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from penstock.codecs.protobuf.paths import Reads

__all__ = ["mismatch"]

_ALIKE: Final = {
    **dict.fromkeys(
        (
            FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64,
            FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_ENUM,
        ),
        "varint",
    ),
    **dict.fromkeys((FieldDescriptor.TYPE_SINT32, FieldDescriptor.TYPE_SINT64), "zigzag"),
    **dict.fromkeys((FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32), "fixed32"),
    **dict.fromkeys((FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64), "fixed64"),
    **dict.fromkeys((FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES), "bytes"),
}  # fmt: skip
# What a writer of the first type writes for its large numbers, or its negative ones, is another number of the second type.
_REREAD: Final = frozenset(
    (
        *(
            (FieldDescriptor.TYPE_UINT64, read)
            for read in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_ENUM)
        ),
        (FieldDescriptor.TYPE_FIXED64, FieldDescriptor.TYPE_SFIXED64),
        (FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_SFIXED32),
        (FieldDescriptor.TYPE_SFIXED32, FieldDescriptor.TYPE_FIXED32),
    )
)  # the other way, they are more than 64 bits with a sign hold, which fails the row
_NAMES: Final = {value: name.removeprefix("TYPE_").lower() for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def mismatch(written: Any, read: Any, wanted: Reads) -> str:
    """Returns why what is wanted of messages with the descriptor `read` cannot be read from those of `written`; "" when it can be."""
    seen: set[tuple[str, str]] = set()
    pending = [(written, read, "")]
    while pending:
        theirs, ours, at = pending.pop()
        if (theirs.full_name, ours.full_name) in seen:
            continue
        seen.add((theirs.full_name, ours.full_name))
        for number in sorted(wanted.get(ours.full_name, ())):
            mine, its = ours.fields_by_number[number], theirs.fields_by_number.get(number)
            if its is None:
                continue
            path = f"{at}{mine.name}"
            if _ALIKE.get(its.type, its.type) != _ALIKE.get(mine.type, mine.type) or (its.type, mine.type) in _REREAD:
                return f"field {path!r} (number {number}) is {_NAMES[its.type]} there, and {_NAMES[mine.type]} here"
            if its.is_repeated and not mine.is_repeated:
                return f"field {path!r} (number {number}) is repeated there"
            if mine.message_type is not None:
                pending.append((its.message_type, mine.message_type, f"{path}."))
    return ""
