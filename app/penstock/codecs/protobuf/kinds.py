"""What a field of a message is as a value of an event, both ways: its kind, and what changes when it is read or written.

Whole numbers and enums are read as numbers of 64 bits, whatever their type, see `paths`. A message of google for one value is that
value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from google.protobuf.descriptor import FieldDescriptor

from penstock.schema import Kind

__all__ = ["UNSIGNED", "Leaf", "is_map", "leaf"]

if not hasattr(FieldDescriptor, "is_repeated"):
    raise ImportError("protobuf is older than 7.35.1")

_INTEGERS: Final = {
    FieldDescriptor.TYPE_INT32: "int",
    FieldDescriptor.TYPE_SINT32: "int",
    FieldDescriptor.TYPE_SFIXED32: "int",
    FieldDescriptor.TYPE_INT64: "long",
    FieldDescriptor.TYPE_SINT64: "long",
    FieldDescriptor.TYPE_SFIXED64: "long",
    FieldDescriptor.TYPE_UINT32: "long",
    FieldDescriptor.TYPE_FIXED32: "long",
    FieldDescriptor.TYPE_UINT64: "long",
    FieldDescriptor.TYPE_FIXED64: "long",
}
_PLAIN: Final[dict[int, Kind]] = {
    **_INTEGERS,  # type: ignore[dict-item]  # its values are kinds
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_BOOL: "boolean",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
}
UNSIGNED: Final = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_FIXED64)
_SHORT: Final = (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_FIXED32)
_WRAPPERS: Final = ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
_DYNAMIC: Final = ("google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue")

_BILLION: Final = 10**9
_EARLIEST, _LATEST = -62135596800, 253402300799  # seconds: the years 1 to 9999, which Protobuf allows
_LONGEST: Final = 315_576_000_000  # seconds of a Duration


class Leaf(NamedTuple):
    """A value that is no record. `read` makes it of the library's value, `write` the reverse; both raise ValueError. None: as it is.

    `inside` are the fields of the message that holds it, where it is one.
    """

    kind: Kind
    unit: Literal["us", ""] = ""
    symbols: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None
    inside: tuple[str, ...] = ()


def is_map(field: Any) -> bool:
    """Whether the field is a map: a repeated message of keys and values."""
    return bool(field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry)


def leaf(field: Any) -> Leaf | None:
    """Returns what one value of the field is; None for a record."""
    if field.type == FieldDescriptor.TYPE_ENUM:
        names: dict[int, str] = {}
        for value in field.enum_type.values:
            names.setdefault(value.number, value.name)
        return Leaf("enum", symbols=tuple(dict.fromkeys(value.name for value in field.enum_type.values)), read=_symbols(names))
    if field.message_type is None:
        if field.type in UNSIGNED:
            return Leaf(_PLAIN[field.type], read=_signed, write=_unsigned(32 if field.type in _SHORT else 64))
        return Leaf(_PLAIN[field.type], read=_text if field.type == FieldDescriptor.TYPE_STRING else None)
    return _special(field.message_type)


def _special(message: Any) -> Leaf | None:
    """Returns what a message of google that is one value is; None for another one, also where it only has the name of such a message."""
    name = message.full_name
    if name == "google.protobuf.Timestamp" and _is_timed(message):
        return Leaf("timestamp", "us", read=_micros, write=_timestamp, inside=("seconds", "nanos"))
    if name == "google.protobuf.Duration" and _is_timed(message):
        return Leaf("double", read=_seconds, write=_duration, inside=("seconds", "nanos"))
    if name in _DYNAMIC:
        return Leaf("union")
    if name.removeprefix("google.protobuf.").removesuffix("Value") in _WRAPPERS and name.startswith("google.protobuf."):
        value = message.fields_by_name.get("value")
        if value is None or value.is_repeated or value.type not in _PLAIN:
            return None
        inner = leaf(value)
        assert inner is not None, "it holds a plain value"
        read = inner.read
        return Leaf(
            inner.kind,
            read=(lambda one: one.value) if read is None else lambda one: read(one.value),
            write=lambda value: {"value": value if inner.write is None else inner.write(value)},
            inside=("value",),
        )
    return None


def _is_timed(message: Any) -> bool:
    fields = [message.fields_by_name.get(name) for name in ("seconds", "nanos")]
    return all(field is not None and not field.is_repeated and field.type in _INTEGERS for field in fields)


def _symbols(names: dict[int, str]) -> Callable[[int], str]:
    def read(number: int) -> str:
        try:
            return names[number]
        except KeyError:
            raise ValueError(f"has the number {number}, which is no value of its enum") from None

    return read


def _signed(number: int) -> int:
    if number >= 2**63:
        raise ValueError(f"is {number}, more than 64 bits with a sign hold")
    return number


def _unsigned(bits: int) -> Callable[[int], int]:
    def write(number: int) -> int:
        if not 0 <= number < 2**bits:
            raise ValueError(f"is {number}, and its type holds 0 to {2**bits - 1}")
        return number

    return write


def _text(value: Any) -> Any:
    """Strings of proto2 come as bytes where they are no UTF-8."""
    if isinstance(value, bytes):
        raise ValueError("is not UTF-8")
    return value


def _micros(stamp: Any) -> int:
    if not _EARLIEST <= stamp.seconds <= _LATEST or not 0 <= stamp.nanos < _BILLION:
        raise ValueError("is no time between the years 1 and 9999")
    return int(stamp.seconds * 1_000_000 + stamp.nanos // 1000)


def _timestamp(micros: int) -> dict[str, int]:
    seconds, rest = divmod(micros, 1_000_000)
    if not _EARLIEST <= seconds <= _LATEST:
        raise ValueError("is no time between the years 1 and 9999")
    return {"seconds": seconds, "nanos": rest * 1000}


def _seconds(duration: Any) -> float:
    if abs(duration.seconds) > _LONGEST or abs(duration.nanos) >= _BILLION:
        raise ValueError("is no duration of at most 10,000 years")
    return float(duration.seconds + duration.nanos / _BILLION)


def _duration(seconds: float) -> dict[str, int]:
    if not abs(seconds) <= _LONGEST:
        raise ValueError("is no duration of at most 10,000 years")
    whole = int(seconds)
    nanos = round((seconds - whole) * _BILLION)
    if abs(nanos) == _BILLION:
        whole, nanos = whole + nanos // _BILLION, 0
    return {"seconds": whole, "nanos": nanos}
